//! `tidegate bench` on loopback, with small numbers: each scenario runs to its end and its ledger closes. No timing is judged.

mod bench_peer;

use std::process::{Command, Output};

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
    // Two of twelve read a hundredth of what is published.
    let shape = ["--subscribers", "12", "--slow", "2", "--slow-rate", "2000", "--rate", "2000", "--bytes", "1024"];
    for credit in ["0", "65536"] {
        let clients = ["slow", "--seconds", "2", "--warm-up", "0.2", "--credit", credit];
        let result = bench(&[&clients[..], &shape].concat());
        assert!(number(&result["ledger"]["clients"]["conflated"]) > 0);
        assert_eq!(result["rss_mb"].as_array().map(Vec::len), Some(3));
    }
}

#[test]
fn idle_connections_are_counted() {
    let result = bench(&["idle", "--connections", "100", "--settle", "0.2"]);
    assert_eq!(number(&result["ledger"]["subscribers"]), 600);
    assert!(number(&result["rss_before_mb"].as_f64().map(|mb| Value::from(mb as u64)).expect("megabytes")) > 0);
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
