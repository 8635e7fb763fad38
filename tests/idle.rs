//! System calls of an engine that has nothing to do, or nearly nothing.

mod support;

use std::time::{Duration, Instant};

use support::{Client, end, engine, keyed};
use tidegate::config::{Idle, Shards};
use tidegate::engine::Engine;

fn shards(count: u16) -> Engine {
    engine(|config| {
        config.shards = Shards::Count(count);
        config.idle = Idle::Park;
    })
}

/// Enters of each shard so far. Asking costs each one or two: it is woken, and parks again.
fn enters(engine: &Engine) -> Vec<u64> {
    engine.reports().expect("the shards answer").iter().map(|report| report.kernel.enters).collect()
}

/// Subscribers on both shards, each at the head.
fn subscribed(engine: &Engine, topic: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    loop {
        let mut client = Client::hello(engine.local_addr());
        client.subscribe_to(topic);
        clients.push(client);
        let reports = engine.reports().expect("the shards answer");
        if reports.iter().all(|report| report.gauges.connections > 0) {
            return clients;
        }
    }
}

#[test]
fn an_idle_engine_makes_no_system_calls() {
    let engine = shards(2);
    let mut publisher = Client::hello(engine.local_addr());
    publisher.publish_records("x", vec![keyed("k", "v")]);
    let clients = subscribed(&engine, "x");
    // Whatever was begun ends: two looks that are alike but for what a look costs.
    let begun = Instant::now();
    let mut before = enters(&engine);
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let after = enters(&engine);
        let calls: Vec<_> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        // No heartbeat is due within the first twelve seconds. A shard is woken by the question, and a read of its eventfd is armed.
        if calls.iter().all(|calls| *calls <= 3) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{calls:?} calls in 300 ms of idleness");
        before = after;
    }
    drop(clients);
    end(engine);
}

/// Publishes between two looks at the counters, so that what a look costs is shared by them.
const PUBLISHES: u64 = 8;
/// What a look costs at most: the question wakes the shard, and the read of its eventfd is armed again.
const ASKING: u64 = 4;

#[test]
fn a_publish_on_an_idle_engine_costs_two_calls_for_each_shard_that_it_crosses() {
    let engine = shards(2);
    let mut publisher = Client::hello(engine.local_addr());
    // One of them has its home on the publisher's shard, another on the other.
    for topic in ["a", "b", "c", "d", "e", "f"] {
        publisher.publish_records(topic, vec![keyed("k", "v")]);
        let mut clients = subscribed(&engine, topic);
        let mut batches = Vec::new();
        for batch in 0..15 {
            let before = enters(&engine);
            for round in 0..PUBLISHES {
                publisher.publish_records(topic, vec![keyed("k", &format!("{batch}.{round}"))]);
                for client in &mut clients {
                    client.patch();
                }
            }
            let after = enters(&engine);
            batches.push([0, 1].map(|shard| (after[shard] - before[shard]).saturating_sub(ASKING)));
        }
        // A shard may be awake still, or be woken once more: the median is what counts.
        batches.sort_by_key(|calls| calls.iter().sum::<u64>());
        let median = batches[batches.len() / 2];
        eprintln!("{topic}: {median:?} enters for {PUBLISHES} publishes");
        assert!(median.iter().all(|calls| *calls <= 2 * PUBLISHES), "{topic}: {batches:?}");
    }
    end(engine);
}
