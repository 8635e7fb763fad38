//! Readers that stall, by the thousand.

use tidegate::protocol::wire::{self, client_frame};

use super::serve::Serve;
use super::support::raw::Raw;
use super::support::wait_until;
use super::support::{Client, keyed};
use super::{raise_descriptor_limit, set_by};

const HEALTHY: usize = 10;
const KEYS: usize = 40;
/// So large that one state is what a patch may have at most, and none goes into a socket that nobody reads from.
const VALUE: usize = 1_500;
const ROUNDS: usize = 30;
/// What a stalled connection may hold beside its own structure: the rest of one cut frame.
const UNFINISHED: usize = 64 * 1024 + 16;

#[test]
fn thousands_of_stalled_readers_cost_a_bounded_memory_and_nobody_his_service() {
    raise_descriptor_limit();
    let stalled = set_by("TEST_STALLED_READERS", 2_000);
    let descriptors = format!("--nofile={}", stalled + 200);
    let server = Serve::start(&["prlimit", &descriptors], &[]);
    let round =
        |n: usize| (0..KEYS).map(|key| keyed(&format!("key{key}"), &format!("{n:0VALUE$}"))).collect::<Vec<_>>();
    let mut publisher = Client::hello(server.address);
    publisher.publish_records("state", round(0));
    let mut healthy: Vec<_> = (0..HEALTHY).map(|_| Client::hello(server.address)).collect();
    let mut positions: Vec<u64> = healthy.iter_mut().map(|client| client.subscribe_to("state").1.to).collect();
    let base = server.admin().value("tidegate_connection_memory_bytes");
    let resident = server.resident_bytes();
    let readers: Vec<_> = (0..stalled)
        .map(|_| {
            let mut raw = Raw::hello(server.address);
            raw.send(2, client_frame::Body::Subscribe(wire::Subscribe { topic: "state".into(), ..Default::default() }));
            raw
        })
        .collect();
    let mut held = Vec::new();
    for n in 1..=ROUNDS {
        publisher.publish_records("state", round(n));
        // Each healthy one is brought to the head of every round before the next one begins.
        for (client, at) in healthy.iter_mut().zip(&mut positions) {
            while *at < ((n + 1) * KEYS) as u64 {
                let patch = client.head();
                assert_eq!(patch.from, *at, "the chain broke");
                *at = patch.to;
            }
        }
        if n % 10 == 0 {
            let mut admin = server.admin();
            wait_until("all but the healthy ones are behind", || admin.value("tidegate_subscribers_behind") == stalled);
            held.push((admin.value("tidegate_connection_memory_bytes") - base, server.resident_bytes()));
        }
    }
    println!("{stalled} stalled: (held for connections, resident) {held:?}, resident before {resident}");
    let structure = base / (HEALTHY + 1);
    let bound = stalled * (structure + UNFINISHED);
    assert!(held.iter().all(|&(bytes, _)| bytes <= bound), "{held:?} of {bound}");
    // What is held was there after ten rounds, and does not grow with what they miss.
    let (first, last) = (held[0], held[held.len() - 1]);
    assert!(last.0 <= first.0 + first.0 / 10, "{held:?}");
    assert!(last.1 <= first.1 + first.1 / 10, "{held:?}");
    assert!(last.1 - resident <= bound, "{held:?}: resident");
    drop((publisher, healthy, readers));
    server.end();
}
