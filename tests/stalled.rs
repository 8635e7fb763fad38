//! A subscriber that stops reading, among a thousand that do not.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::{Client, LIMIT, end, engine, event, keyed};
use tidegate::engine::Engine;
use tidegate::protocol::wire;
use tidegate::shard::Report;

const HEALTHY: usize = 1_000;
const KEYS: usize = 50;
const ROUNDS: usize = 150;

/// What a stalled connection may hold beside its own structure: one unfinished frame.
const UNFINISHED: usize = 64 * 1024 + 16;

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

#[test]
fn a_stalled_subscriber_costs_a_cursor_slows_nobody_and_gets_the_merged_newest_state() {
    let engine = engine(|config| {
        // So that many heartbeats go unanswered while the test runs.
        config.limits.heartbeat_interval = Duration::from_millis(100);
        config.limits.heartbeat_answer = Duration::from_millis(100);
        config.classes[0].pressure_low = Duration::from_millis(1);
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

    let before = engine.report().expect("the shard answers");
    let per_round = (KEYS + 1) as u64;
    for n in 1..=ROUNDS {
        publisher.publish_records("state", round(n));
        // Each healthy one has every record of every round before the next round begins; a tenth of them look inside.
        for (at, client) in healthy.iter_mut().enumerate() {
            let patch = client.patch();
            if at % 10 == n % 10 {
                assert_eq!((patch.from, patch.to), (n as u64 * per_round, (n as u64 + 1) * per_round));
                assert_eq!(patch.records.len() as u64, per_round, "a healthy subscriber was shed something");
            }
        }
    }
    let report = wait_for(&engine, "the stalled one is known as such", |report| report.gauges.stalled == 1);
    assert_eq!(report.gauges.connections, HEALTHY + 2, "nobody was closed");
    assert_eq!(report.gauges.behind, 1);
    let grown = report.gauges.connection_bytes.saturating_sub(before.gauges.connection_bytes);
    assert!(grown <= UNFINISHED, "one stalled subscriber holds {grown} bytes");

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
    assert!(patches < ROUNDS / 4, "{patches} patches for {ROUNDS} rounds are no merging");
    assert!(conflated > (ROUNDS / 2 * KEYS) as u64, "{conflated}");
    assert!(expired > 0, "old events of low priority were sent under pressure");
    let newest = Bytes::from(format!("{ROUNDS:0100}"));
    assert_eq!(state.len(), KEYS);
    assert!(state.values().all(|value| *value == newest), "not the newest state");
    wait_for(&engine, "it is no longer stalled", |report| report.gauges.stalled == 0 && report.gauges.behind == 0);
    drop((publisher, healthy, stalled));
    end(engine);
}
