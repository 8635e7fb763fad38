//! `tidegate bench` on loopback, with small numbers: each scenario runs to its end and its ledger closes. No timing is judged.

mod bench_peer;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use bench_peer::Fault;

use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("bench").args(arguments).args(["--congestion", "system", "--json"]);
    command.output().expect("the binary runs")
}

/// Runs a scenario; its result, of which the ledger was checked again.
fn bench(arguments: &[&str]) -> Value {
    let output = run(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let ledger = &result["ledger"];
    assert!(ledger["server"].is_object());
    assert_eq!(ledger["clients"], ledger["server"], "both ends");
    let due = number(&ledger["published"]) * number(&ledger["subscribers"]);
    let outcomes = ledger["clients"].as_object().expect("an object");
    assert_eq!(outcomes.values().map(number).sum::<u64>(), due);
    assert!(due > 0);
    result
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is a count"))
}

#[test]
fn fanout_at_a_rate_delivers_every_event_and_compares_with_bare_sends() {
    let result = bench(&["fanout", "--subscribers", "60", "--rate", "50", "--seconds", "1", "--warm-up", "0.2"]);
    assert_eq!(number(&result["ledger"]["clients"]["conflated"]), 0, "events do not merge");
    assert_eq!(number(&result["verifying_subscribers"]), 2);
    assert!(number(&result["verified_records"]) >= 2 * 50);
    assert!(result["ratio_to_bare"].as_f64().is_some_and(|ratio| ratio > 0.0));
}

#[test]
fn fanout_as_fast_as_it_goes_with_keys_and_credit() {
    let shape = ["--subscribers", "20", "--outstanding", "16", "--keyed", "5", "--credit", "65536"];
    let result = bench(&[&["fanout", "--seconds", "0.5", "--warm-up", "0.1"][..], &shape].concat());
    assert!(number(&result["delivered"]) > 0);
    assert!(number(&result["verified_checksums"]) > 0);
}

#[test]
fn slow_readers_get_merged_state() {
    // Two of twelve read a tenth of what is published, one nothing.
    let shape = ["--subscribers", "12", "--slow", "2", "--slow-rate", "200000", "--rate", "2000", "--bytes", "1024"];
    let age = |result: &Value, who: &str| result[who]["p99_ms"].as_f64().expect("milliseconds");
    for credit in ["0", "65536"] {
        let clients = ["slow", "--seconds", "2", "--warm-up", "0.2", "--credit", credit, "--stalled", "1"];
        let result = bench(&[&clients[..], &shape].concat());
        assert!(number(&result["ledger"]["clients"]["conflated"]) > 0);
        assert_eq!(result["rss_mb"].as_array().map(Vec::len), Some(3));
        assert!(result["rss_growth_percent"].is_number() && number(&result["growth_seconds"]) == 2);
        assert!(age(&result, "stalled_age") > 1_000.0, "who reads nothing holds what is as old as the run");
        assert!(age(&result, "baseline_age") > 0.0 && result["healthy_p99_ratio"].as_f64() > Some(0.0));
        assert_eq!(number(&result["baseline_ledger"]["subscribers"]), 9, "the healthy ones alone");
    }
}

#[test]
fn what_is_seldom_written_does_not_age_in_the_hands_of_those_who_have_it() {
    let shape = ["slow", "--subscribers", "6", "--slow", "0", "--stalled", "2", "--rate", "1", "--seconds", "3"];
    let result = bench(&[&shape[..], &["--warm-up", "0", "--no-baseline"]].concat());
    let age = |who: &str, quantile: &str| result[who][quantile].as_f64().expect("milliseconds");
    // One record a second: its age would have a median of half a second.
    assert_eq!(age("healthy_age", "p50_ms"), 0.0);
    // Those that read nothing lack it from the moment that it is there.
    assert!(age("stalled_age", "max_ms") > 1_000.0, "{}", result["stalled_age"]);
}

#[test]
fn idle_connections_are_counted() {
    let result = bench(&["idle", "--connections", "100", "--settle", "0.2"]);
    assert_eq!(number(&result["ledger"]["subscribers"]), 600);
    assert!(result["kernel_bytes_per_connection"].is_number());
    assert!(number(&result["rss_before_mb"].as_f64().map(|mb| Value::from(mb as u64)).expect("megabytes")) > 0);
}

#[test]
fn many_publishers_and_one_subscriber_that_verifies() {
    for keyed in ["0", "7"] {
        let shape = ["ingest", "--publishers", "5", "--outstanding", "4", "--keyed", keyed];
        let result = bench(&[&shape[..], &["--seconds", "0.5", "--warm-up", "0.1"]].concat());
        assert!(number(&result["publishes"]) > 5 * 4);
        is_judged(&result);
        assert!(number(&result["verified_records"]) > 0);
        assert_eq!(number(&result["ledger"]["subscribers"]), 1);
    }
}

#[test]
fn every_patch_crosses_between_shards() {
    // That all is published on the home shard the scenario sees for itself.
    for publishers in ["1", "3"] {
        let shape = ["mesh", "--shards", "2", "--publishers", publishers, "--subscribers", "6", "--outstanding", "4"];
        let result = bench(&[&shape[..], &["--seconds", "0.5", "--warm-up", "0.1"]].concat());
        is_judged(&result);
        let home = number(&result["home"]) as usize;
        let by_shard: Vec<_> = result["subscribers_by_shard"].as_array().expect("shards").iter().map(number).collect();
        assert_eq!((by_shard[home], by_shard[1 - home]), (0, 6));
        assert!(number(&result["forwarded_patches"]) > 0 && number(&result["transfers"]) > 0);
        assert_eq!(number(&result["ledger"]["subscribers"]), 6);
        assert_eq!(result["publishers"].to_string(), publishers);
        assert!(number(&result["verified_records"]) > 0, "one of them compares each publisher's order");
    }
}

#[test]
fn everyone_is_current_after_a_storm() {
    let shape = ["storm", "--clients", "60", "--established", "5", "--rate", "200", "--away", "1.5"];
    let result = bench(&shape);
    // Its records while they were away, from the first of them on.
    assert!(number(&result["missed"]) >= 100, "{}", result["missed"]);
    let (made, turns) = (number(&result["own_patches"]) + number(&result["shared_patches"]), number(&result["turns"]));
    // In a turn those who come back share one patch, and those who stayed another.
    assert!(made > 0 && made <= 2 * turns, "{made} in {turns} turns");
    // What was encoded for them: on a busy machine they come from many offsets, so that there is no bound to hold it to.
    let (encodings, encoding_turns) = (number(&result["encodings"]), number(&result["encoding_turns"]));
    assert!(encoding_turns > 0 && encoding_turns <= turns, "{encoding_turns} of {turns} turns");
    assert!(encodings >= encoding_turns, "{encodings} in {encoding_turns} turns");
    let ratio = result["encodings_per_topic_and_turn"].as_f64().expect("a figure");
    assert!((ratio - encodings as f64 / encoding_turns as f64).abs() < 1e-9);
    assert!(number(&result["ledger"]["clients"]["conflated"]) > 0, "100 keys, and more writes than that");
    assert!(result["latency_before"]["max_ms"].as_f64() > Some(0.0));
}

#[test]
fn dashboards_get_a_market_and_it_stands_beside_its_json() {
    let shape = ["depth", "--simulated", "--dashboards", "12", "--speed", "5", "--seconds", "1", "--warm-up", "0.5"];
    let result = bench(&shape);
    assert!(result["source"].as_str().is_some_and(|name| name.starts_with("a simulated market")), "it says which");
    assert!(number(&result["verified_checksums"]) > 0, "one dashboard keeps the books and compares");
    let figure = |name: &str| result[name].as_f64().expect("a figure");
    let (wire, json) = (figure("bytes_per_dashboard_second"), figure("json_bytes_per_dashboard_second"));
    assert!((figure("ratio_to_json") - wire / json).abs() < 1e-9, "{wire} beside {json}");
    // A record as JSON is a price and a quantity at least. What is merged on a busy machine is not on the wire.
    assert!(json > 4.0 * figure("records_per_second") && wire > 0.0, "{json}, {wire}");
}

#[test]
fn medians_of_several_runs_are_recorded_in_a_row() {
    let file = std::env::temp_dir().join(format!("tidegate-bench-{}.md", std::process::id()));
    let name = file.to_str().expect("a path of ASCII");
    let shape = ["fanout", "--subscribers", "3", "--outstanding", "2", "--seconds", "0.1", "--warm-up", "0"];
    let result = bench(&[&shape[..], &["--runs", "3", "--record", name]].concat());
    let runs = result["of_runs"].as_array().expect("each run");
    let mut delivered: Vec<_> = runs.iter().map(|run| number(&run["delivered"])).collect();
    delivered.sort_unstable();
    assert_eq!((runs.len(), number(&result["delivered"])), (3, delivered[1]));
    let table = std::fs::read_to_string(&file).expect("it was written");
    std::fs::remove_file(&file).expect("it is ours");
    let rows: Vec<_> = table.lines().collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert!(rows[0].starts_with("| date | machine | kernel | command | runs | figures"), "{table}");
    assert!(rows[2].contains("fanout --subscribers 3") && rows[2].contains(" per server CPU second"), "{table}");
}

#[test]
fn a_run_that_the_server_did_not_bound_does_not_count() {
    let shape = ["fanout", "--subscribers", "1", "--outstanding", "1", "--seconds", "0.3", "--warm-up", "0"];
    let result = bench(&shape);
    // One publish at a time: each side waits for the other.
    is_judged(&result);
}

/// A run at saturation says whether it counts.
fn is_judged(result: &Value) {
    let busy = result["server_busy_percent"].as_f64().expect("a share");
    assert_eq!(result["counts"].as_bool(), Some(busy >= 95.0), "{result}");
    assert!(result["generator_busy_percent"].as_f64() > Some(0.0));
    assert!(result["server_cpu_percent"].as_f64() > Some(0.0));
}

#[test]
fn where_nothing_was_sampled_there_is_no_latency() {
    let shape = ["fanout", "--subscribers", "2", "--rate", "1", "--no-bare", "--seconds", "0", "--warm-up", "0"];
    let result = bench(&shape);
    assert!(result["latency"].is_null(), "{}", result["latency"]);
    assert!(result["counts"].is_null(), "at a rate nothing has to be saturated");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = command.arg("bench").args(shape).args(["--congestion", "system"]).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("  latency    \u{2014} "), "{text}");
}

/// A server whose admin port says something else than it did.
#[test]
fn a_ledger_that_does_not_close_fails_the_command() {
    let admin = bench_peer::admin("tidegate_records_total{outcome=\"delivered\"} 7\n");
    let serve = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--shards", "1"];
    let mut server = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(serve)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut line).expect("it starts");
    let url = format!("ws://{}", line.trim_end().strip_prefix("listening on ").expect("its address"));
    let shape = ["fanout", "--subscribers", "2", "--outstanding", "2", "--seconds", "0.1", "--warm-up", "0"];
    let output = run(&[&shape[..], &["--url", &url, "--admin", &admin]].concat());
    tidegate::kernel::terminate(&mut server).expect("it runs");
    assert!(server.wait().expect("it is ours").success(), "an orderly shutdown");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("the ledger does not close"), "{error}");
    let result: Value = serde_json::from_slice(&output.stdout).expect("what was found is printed all the same");
    assert_ne!(result["ledger"]["clients"], result["ledger"]["server"]);
}

/// Runs `fanout` against a server that is not Tidegate.
fn peer(fault: Fault) -> (Output, Value) {
    let url = bench_peer::start(fault);
    let options = ["fanout", "--url", &url, "--peer", "broadcast", "--subscribers", "3", "--outstanding", "4"];
    let output = run(&[&options[..], &["--seconds", "0.2", "--warm-up", "0.1"]].concat());
    let result = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output, result)
}

#[test]
fn what_a_peer_delivers_is_counted_against_what_it_was_sent() {
    let (output, result) = peer(Fault::None);
    assert!(output.status.success());
    let ledger = &result["ledger"];
    assert_eq!(number(&ledger["clients"]["delivered"]), 3 * number(&ledger["published"]));
    assert!(number(&ledger["published"]) > 100);
    assert!(number(&result["verified_records"]) >= number(&ledger["published"]));
}

#[test]
fn what_a_peer_left_out_is_counted_as_lost() {
    let (output, result) = peer(Fault::LeavesOut);
    assert!(output.status.success(), "losing is allowed, if it is counted");
    let (due, clients) = (number(&result["ledger"]["due"]), &result["ledger"]["clients"]);
    assert_eq!((number(&clients["lost"]), number(&clients["delivered"])), (1, due - 1));
}

#[test]
fn what_a_peer_sent_twice_does_not_close_the_ledger() {
    let (output, result) = peer(Fault::Repeats);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(number(&result["ledger"]["misplaced"]), 1);
}
