//! System calls of an engine that has nothing to do, or nearly nothing.

mod support;

use std::time::Duration;

use support::{Client, end, engine, keyed};
use tidegate::config::{Idle, Shards};
use tidegate::engine::Engine;
use tidegate::shard::Report;

const HOUR: Duration = Duration::from_hours(1);

fn shards(count: u16) -> Engine {
    engine(|config| {
        config.shards = Shards::Count(count);
        config.idle = Idle::Park;
        // No timer is near: timers are not cancelled, so that what was waited for in vain costs a call or two, too.
        let limits = &mut config.limits;
        (limits.head_time, limits.hello_time, limits.shard_answer) = (HOUR, HOUR, HOUR);
        (limits.heartbeat_interval, limits.idle_timeout) = (HOUR, HOUR);
    })
}

/// Enters of each shard so far.
fn enters(engine: &Engine) -> Vec<u64> {
    engine.reports().expect("the shards answer").iter().map(|report| report.kernel.enters).collect()
}

/// What a look costs each shard at most: the question wakes it, and so does the eventfd, if the shard was awake and found the question
/// before the eventfd was written.
const ASKING: u64 = 2;

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

/// Long enough for whatever comes by a timer once a second. That nothing happens can only be seen by waiting.
const IDLENESS: Duration = Duration::from_secs(3);

#[test]
fn an_idle_engine_makes_no_system_calls() {
    let engine = shards(2);
    let mut publisher = Client::hello(engine.local_addr());
    publisher.publish_records("x", vec![keyed("k", "v")]);
    let clients = subscribed(&engine, "x");
    // Whatever was begun is over when all of it has been read, but for the calls that a shard is in.
    let before = enters(&engine);
    std::thread::sleep(IDLENESS);
    let calls: Vec<_> = enters(&engine).iter().zip(&before).map(|(after, before)| after - before).collect();
    assert!(calls.iter().all(|calls| *calls <= ASKING), "{calls:?} calls in {IDLENESS:?} of idleness");
    drop(clients);
    end(engine);
}

/// Publishes between two looks at the counters. More than a look costs, so that one call too many for each shows.
const PUBLISHES: u64 = 8;

/// The shard whose number grew by what was done.
fn grown(engine: &Engine, number: impl Fn(&Report) -> usize, by: impl FnOnce()) -> usize {
    let numbers = || engine.reports().expect("the shards answer").iter().map(&number).collect::<Vec<_>>();
    let before = numbers();
    by();
    let after = numbers();
    (0..after.len()).find(|shard| after[*shard] > before[*shard]).expect("it is on one of them")
}

#[test]
fn a_publish_on_an_idle_engine_costs_one_call_for_each_shard_and_direction() {
    let engine = shards(2);
    let mut publisher = None;
    let own =
        grown(&engine, |report| report.gauges.connections, || publisher = Some(Client::hello(engine.local_addr())));
    let mut publisher = publisher.expect("it was just made");
    let mut seen = [false; 2];
    // Until both kinds have been: topics whose home is the publisher's shard, and others.
    for number in 0.. {
        if number >= 6 && seen == [true; 2] {
            break;
        }
        let topic = &format!("t{number}")[..];
        let home = grown(
            &engine,
            |report| report.gauges.topics,
            || {
                publisher.publish_records(topic, vec![keyed("k", "v")]);
            },
        );
        seen[usize::from(home == own)] = true;
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
            batches.push([0, 1].map(|shard| after[shard] - before[shard]));
        }
        // Now and then a client answers a ping, or goes: the median is what counts.
        batches.sort_by_key(|calls| calls.iter().sum::<u64>());
        let median = batches[batches.len() / 2];
        eprintln!("{topic}, home {home}: {median:?} enters for {PUBLISHES} publishes on shard {own}");
        for (shard, calls) in median.into_iter().enumerate() {
            // Elsewhere at home, a publish comes to its own shard a second time, as a patch.
            let each = if shard == own && home != own { 2 } else { 1 };
            assert!(calls <= each * PUBLISHES + ASKING, "{topic}, home {home}, publisher {own}: {batches:?}");
        }
    }
    end(engine);
}
