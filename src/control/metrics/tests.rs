//! The text that a scrape gives.

use super::*;

/// A report with another number in every field of every kind.
fn report() -> Report {
    let ledger =
        Ledger { due: 101, delivered: 102, conflated: 103, filtered: 104, expired: 105, overrun: 106, lost: 107 };
    let class = ClassCounters { published: 108, patches: 109, ahead: 110, ledger };
    let counters = Counters {
        turns: 1,
        longest_turn_ns: 2_500_000_000,
        turns_over_budget: 3,
        accepted: 4,
        closed: 5,
        sessions: 6,
        takeovers: 7,
        violations: 8,
        frames_received: 9,
        bytes_received: 10,
        bytes_sent: 11,
        short_sends: 12,
        frames_taken_back: 13,
        shared_patches: 14,
        own_patches: 15,
        encodings: 67,
        encoded_topics: 68,
        transfers: 61,
        forwarded: 62,
        mesh_full: 63,
        stale_transfers: 64,
        restarts: 16,
        markers_sent: 17,
        markers_confirmed: 18,
        duplicates: 19,
        sequences_evicted: 20,
        limit_hits: LimitHits { message_bytes: 41, heartbeat: 42, descriptors: 43, ..LimitHits::default() },
        classes: vec![class, ClassCounters::default()],
    };
    let gauges = Gauges {
        connections: 21,
        sessions: 22,
        blocked: 23,
        stalled: 24,
        unmarked: 25,
        subscribers: 26,
        behind: 27,
        topics: 28,
        replicas: 65,
        keys: 29,
        events: 30,
        log_bytes: 31,
        mesh_bytes: 66,
        connection_bytes: 32,
    };
    let kernel = KernelCounters {
        enters: 33,
        sends: 34,
        send_bytes: 35,
        stale_completions: 36,
        buffer_shortages: 37,
        overflows: 38,
    };
    Report { counters, gauges, kernel }
}

fn class_names() -> Vec<String> {
    vec!["depth".to_owned(), "default".to_owned()]
}

#[test]
fn every_field_is_a_series_of_its_own() {
    let text = exposition(class_names(), vec![Some(report())]);
    for (name, value) in [
        ("turns_total", "1"),
        ("longest_turn_seconds", "2.5"),
        ("turns_over_budget_total", "3"),
        ("connections_accepted_total", "4"),
        ("connections_closed_total", "5"),
        ("sessions_opened_total", "6"),
        ("takeovers_total", "7"),
        ("violations_total", "8"),
        ("frames_received_total", "9"),
        ("received_bytes_total", "10"),
        ("sent_bytes_total", "11"),
        ("short_sends_total", "12"),
        ("frames_taken_back_total", "13"),
        ("shared_patches_total", "14"),
        ("own_patches_total", "15"),
        ("encodings_total", "67"),
        ("encoded_topics_total", "68"),
        ("transfers_total", "61"),
        ("forwarded_patches_total", "62"),
        ("mesh_full_total", "63"),
        ("stale_transfers_total", "64"),
        ("restarts_total", "16"),
        ("markers_sent_total", "17"),
        ("markers_confirmed_total", "18"),
        ("duplicates_total", "19"),
        ("sequences_evicted_total", "20"),
        ("connections", "21"),
        ("sessions", "22"),
        ("blocked_connections", "23"),
        ("stalled_connections", "24"),
        ("unmarked_connections", "25"),
        ("subscribers", "26"),
        ("subscribers_behind", "27"),
        ("topics", "28"),
        ("replicas", "65"),
        ("keys", "29"),
        ("events", "30"),
        ("log_bytes", "31"),
        ("mesh_bytes", "66"),
        ("connection_memory_bytes", "32"),
        ("kernel_enters_total", "33"),
        ("kernel_sends_total", "34"),
        ("kernel_send_bytes_total", "35"),
        ("kernel_stale_completions_total", "36"),
        ("kernel_buffer_shortages_total", "37"),
        ("kernel_overflows_total", "38"),
        ("shard_up", "1"),
    ] {
        let line = format!("\ntidegate_{name}{{shard=\"0\"}} {value}\n");
        assert!(text.contains(&line), "{line} in\n{text}");
    }
    for (name, labels, value) in [
        ("limit_hits_total", "limit=\"message_bytes\"", 41),
        ("limit_hits_total", "limit=\"heartbeat\"", 42),
        ("limit_hits_total", "limit=\"descriptors\"", 43),
        ("limit_hits_total", "limit=\"topics\"", 0),
        ("due_records_total", "class=\"depth\"", 101),
        ("records_total", "class=\"depth\",outcome=\"delivered\"", 102),
        ("records_total", "class=\"depth\",outcome=\"conflated\"", 103),
        ("records_total", "class=\"depth\",outcome=\"filtered\"", 104),
        ("records_total", "class=\"depth\",outcome=\"expired\"", 105),
        ("records_total", "class=\"depth\",outcome=\"overrun\"", 106),
        ("records_total", "class=\"depth\",outcome=\"lost\"", 107),
        ("published_records_total", "class=\"depth\"", 108),
        ("patches_total", "class=\"depth\"", 109),
        ("ahead_records_total", "class=\"depth\"", 110),
        ("records_total", "class=\"default\",outcome=\"delivered\"", 0),
    ] {
        let line = format!("\ntidegate_{name}{{{labels},shard=\"0\"}} {value}\n");
        assert!(text.contains(&line), "{line} in\n{text}");
    }
}

#[test]
fn the_text_is_openmetrics_with_help_and_type_for_each_name_once() {
    let text = exposition(class_names(), vec![Some(report()), Some(report())]);
    assert!(text.ends_with("# EOF\n"));
    let mut types: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let helps = text.lines().filter(|line| line.starts_with("# HELP ")).count();
    assert_eq!(types.len(), helps);
    let count = types.len();
    types.sort_unstable();
    types.dedup();
    assert_eq!(types.len(), count, "names are unique");
    let mut series: Vec<_> =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ')).collect();
    let count = series.len();
    series.sort_unstable();
    series.dedup_by_key(|line| line.map(|(name, _)| name));
    assert_eq!(series.len(), count, "series are unique");
    assert!(text.contains("\ntidegate_turns_total{shard=\"0\"} 1\ntidegate_turns_total{shard=\"1\"} 1\n"), "{text}");
}

#[test]
fn a_silent_shard_is_down_and_has_no_other_series() {
    let text = exposition(class_names(), vec![None, Some(report())]);
    let of_first: Vec<_> = text.lines().filter(|line| line.contains("shard=\"0\"")).collect();
    assert_eq!(of_first, ["tidegate_shard_up{shard=\"0\"} 0"]);
    assert!(text.contains("\ntidegate_turns_total{shard=\"1\"} 1\n"));
}

#[test]
fn limits_are_labelled_by_their_own_counters() {
    let hits = LimitHits { sequences: 7, keys: 8, ..LimitHits::default() };
    let hit: Vec<_> = limit_series(&hits).into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(hit, [("keys", 8), ("sequences", 7)]);
}
