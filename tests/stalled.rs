//! A subscriber that stops reading, among a thousand that do not.

mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::{Client, LIMIT, end, engine, event, keyed};
use tidegate::engine::Engine;
use tidegate::protocol::wire;
use tidegate::shard::{LimitHits, Report};

const HEALTHY: usize = 1_000;
const KEYS: usize = 20;
const ROUNDS: usize = 60;

/// What a stalled connection may hold beside its own structure: one unfinished frame.
const UNFINISHED: usize = 64 * 1024 + 16;

/// One event and what belongs to it: not the twenty values of a round.
const LOG_PER_ROUND: usize = 400;

fn round(n: usize) -> Vec<wire::Record> {
    let mut records: Vec<_> = (0..KEYS).map(|key| keyed(&format!("key{key}"), &format!("{n:0100}"))).collect();
    records.push(wire::Record { priority: wire::Priority::Low.into(), ..event(&format!("low {n:0100}")) });
    records
}

/// Reports until `is_so`, or fails.
fn wait_for(engine: &Engine, what: &str, is_so: impl Fn(&Report) -> bool) -> Report {
    let since = Instant::now();
    loop {
        let report = engine.report().expect("the shard answers");
        if is_so(&report) {
            return report;
        }
        assert!(since.elapsed() < LIMIT, "{what}: {report:?}");
        std::thread::yield_now();
    }
}

/// What `/metrics` says, as an operator's monitoring sees it.
struct Metrics(String);

impl Metrics {
    fn of(engine: &Engine) -> Self {
        let mut stream = TcpStream::connect(engine.admin_addr()).expect("the admin port listens");
        stream.set_read_timeout(Some(LIMIT)).expect("TCP");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("text");
        Self(text)
    }

    fn value(&self, name: &str) -> usize {
        let of_shards =
            self.0.lines().filter(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']));
        let number = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<usize>().ok());
        let values: Vec<_> = of_shards.map(|line| number(line).unwrap_or_else(|| panic!("{line}"))).collect();
        assert!(!values.is_empty(), "{name} is no series: {}", self.0);
        values.into_iter().sum()
    }
}

#[test]
fn a_stalled_subscriber_costs_a_cursor_slows_nobody_and_gets_the_merged_newest_state() {
    let engine = engine(|config| {
        // So that many heartbeats go unanswered while the test runs.
        config.limits.heartbeat_interval = Duration::from_millis(100);
        config.limits.heartbeat_answer = Duration::from_millis(100);
    });
    let mut publisher = Client::hello(engine.local_addr());
    publisher.publish_records("state", round(0));
    let mut healthy: Vec<_> = (0..HEALTHY).map(|_| Client::hello(engine.local_addr())).collect();
    for client in &mut healthy {
        client.subscribe_to("state");
    }
    let mut stalled = Client::hello(engine.local_addr());
    let (_, snapshot) = stalled.subscribe_to("state");
    let mut cursor = snapshot.to;

    let before = Metrics::of(&engine);
    let per_round = (KEYS + 1) as u64;
    for n in 1..=ROUNDS {
        publisher.publish_records("state", round(n));
        // Each healthy one is at the head of every round before the next round begins. On a loaded machine this thread is
        // late in reading a thousand sockets, and the engine may send a round in several patches then.
        let (from, to) = (n as u64 * per_round, (n as u64 + 1) * per_round);
        for client in &mut healthy {
            let mut at = from;
            while at < to {
                let patch = client.head();
                assert_eq!(patch.from, at, "the chain broke");
                assert_eq!(patch.overrun + patch.lost, 0, "a healthy subscriber missed something");
                at = patch.to;
            }
            assert_eq!(at, to);
        }
    }
    wait_for(&engine, "the stalled one alone is known as such", |report| report.gauges.stalled == 1);
    let (report, after) = (engine.report().expect("the shard answers"), Metrics::of(&engine));
    assert_eq!(report.gauges.connections, HEALTHY + 2, "nobody was closed");
    assert_eq!(report.counters.limit_hits, LimitHits::default(), "nor was anything else held against anyone");
    assert_eq!((report.gauges.behind, after.value("tidegate_subscribers_behind")), (1, 1));
    assert_eq!(after.value("tidegate_stalled_connections"), 1);
    let grown = |name| after.value(name).saturating_sub(before.value(name));
    let connections = grown("tidegate_connection_memory_bytes");
    assert!(connections <= UNFINISHED, "one stalled subscriber holds {connections} bytes");
    // Superseded values are gone although it has not seen them; of events the class keeps so many whoever has seen them.
    let log = grown("tidegate_log_bytes");
    assert!(log <= LOG_PER_ROUND * ROUNDS, "the log holds {log} bytes more");

    // It reads again: a few frames that were on their way, then one jump to the newest state.
    let mut state: BTreeMap<Bytes, Bytes> = snapshot
        .records
        .into_iter()
        .filter(|record| !record.key.is_empty())
        .map(|record| (record.key, record.value))
        .collect();
    let (mut patches, mut conflated, mut expired) = (0, 0, 0);
    while cursor < (ROUNDS as u64 + 1) * per_round {
        let patch = stalled.patch();
        assert_eq!(patch.from, cursor, "the chain broke");
        cursor = patch.to;
        patches += 1;
        expired += patch.expired;
        conflated += patch.to - patch.from - patch.records.len() as u64 - patch.expired - patch.overrun - patch.lost;
        for record in patch.records {
            if !record.key.is_empty() {
                state.insert(record.key, record.value);
            }
        }
    }
    assert!(patches < ROUNDS / 2, "{patches} patches for {ROUNDS} rounds are no merging");
    assert!(conflated > (ROUNDS / 2 * KEYS) as u64, "{conflated}");
    assert!(expired > 0, "old events of low priority were sent under pressure");
    let newest = Bytes::from(format!("{ROUNDS:0100}"));
    assert_eq!(state.len(), KEYS);
    assert!(state.values().all(|value| *value == newest), "not the newest state");
    wait_for(&engine, "it is at the head", |report| report.gauges.behind == 0);
    drop((publisher, healthy, stalled));
    end(engine);
}
