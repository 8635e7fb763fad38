//! Each limit that concerns one connection, set low, is reached without harm and exceeded by one, on real sockets: what the
//! client is told, how its connection goes on or ends, and that this limit and no other counts it.

mod connections;
#[path = "../pressure/link.rs"]
mod link;
mod messages;
mod patches;
mod publishing;
mod resubscribing;
mod subscriptions;
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, unreachable_pub, reason = "the simulation uses the rest")]
#[path = "../simulation/tap.rs"]
mod tap;
mod virtual_time;

use tidegate::engine::Engine;
use tidegate::limits::Limits;
use tidegate::shard::LimitHits;

/// An engine that trusts nobody, with other limits than the defaults.
fn strict(change: impl FnOnce(&mut Limits)) -> Engine {
    support::engine(|config| {
        config.trusted = Vec::new();
        change(&mut config.limits);
    })
}

/// What the engine counted so far.
fn hits(engine: &Engine) -> LimitHits {
    engine.report().expect("the shard answers").counters.limit_hits
}

/// Stops compiling when a limit is added: it has to get a test, or a reason here why it has none.
#[test]
fn every_limit_has_its_test() {
    let LimitHits {
        message_bytes: 0,           // messages
        message_fragments: 0,       // messages
        message_time: 0,            // messages
        head_bytes: 0,              // messages
        head_headers: 0,            // messages
        head_time: 0,               // messages
        hello_time: 0,              // messages
        heartbeat: 0,               // virtual_time
        stall_timeout: 0,           // messages
        idle_timeout: 0,            // messages
        key_bytes: 0,               // publishing
        value_bytes: 0,             // publishing
        publish_records: 0,         // publishing
        subscriptions: 0,           // subscriptions
        matched_topics: 0,          // subscriptions
        topics: 0,                  // publishing
        keys: 0,                    // publishing
        messages_per_second: 0,     // messages
        resent_bytes: 0,            // resubscribing
        connections: 0,             // connections
        connections_per_address: 0, // connections
        accepts_per_second: 0,      // connections
        answer_bytes: 0,            // patches
        unflushed_event_bytes: 0,   // publishing
        sequences: 0,               // publishing
        shard_answer: 0,            // of several shards: tests/turns
        descriptors: 0, // the process's own limit, which the tests beside need: the kernel's simulation has it
    } = LimitHits::default()
    else {
        panic!("an engine that did nothing hit a limit")
    };
}
