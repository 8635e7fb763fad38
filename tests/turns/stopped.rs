//! A shard that gets no turns for a long time: the others go on, nothing grows beyond its budget, and afterwards it has everything.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate::mesh::MeshLimits;
use tidegate::protocol::wire::{self, server_frame::Body};

use crate::world::{Client, World, event, keyed};

/// What a subscriber makes of its patches.
#[derive(Debug, Default, PartialEq)]
struct View {
    keys: BTreeMap<Bytes, Bytes>,
    head: u64,
    /// Records that it was sent, and that it was told of.
    accounted: u64,
}

impl View {
    fn follow(&mut self, client: &mut Client) {
        for frame in client.frames.drain(..) {
            let Some(Body::Patch(patch)) = frame.body else { continue };
            assert_eq!(patch.from, if patch.reset { 0 } else { self.head });
            for record in patch.records.iter().chain(&patch.ahead).filter(|record| !record.key.is_empty()) {
                self.keys.insert(record.key.clone(), record.value.clone());
            }
            self.head = patch.to;
            let passed = patch.filtered + patch.expired + patch.overrun + patch.lost;
            self.accounted += patch.records.len() as u64 + passed;
        }
    }
}

/// A publish of each of these turns.
const TURNS: usize = 1_250;
const PUBLISHES_PER_TURN: usize = 16;
const KEYS: usize = 50;

#[test]
fn a_home_goes_on_while_a_follower_stands_still_which_then_converges_with_one_transfer() {
    let mut world = World::new(3, |settings| settings.limits.messages_per_second = u32::MAX);
    let topic = world.topic("depth/", 0, 0);
    let mut publisher = world.hello(0);
    world.publish(&mut publisher, &topic, vec![keyed("k0", "first")]);
    let mut clients = [world.hello(0), world.hello(1), world.hello(2)];
    let mut views = [View::default(), View::default(), View::default()];
    for client in &mut clients {
        world.subscribe(client, &topic);
    }
    world.settle();
    let limits = MeshLimits::for_shards(3);
    // A transfer is pushed as long as there is any room, so one may go beyond.
    let budget = limits.patch_bytes + 64 * 1_024;
    let (mut most, mut latest, mut published) = (0, 0, 1_u64);
    let mut heads = Vec::new();
    for turn in 0..TURNS {
        for at in 0..PUBLISHES_PER_TURN {
            let value = format!("{turn}/{at} {}", "x".repeat(3_000));
            let record = if at == 0 { event("trade") } else { keyed(&format!("k{}", (turn + at) % KEYS), &value) };
            world.publish(&mut publisher, &topic, vec![record]);
            published += 1;
        }
        // The last shard gets none.
        world.turns([0, 1]);
        heads.push(published);
        for at in [0, 1] {
            world.look(&mut clients[at]);
            views[at].follow(&mut clients[at]);
            let behind = heads.iter().rev().take_while(|head| **head > views[at].head).count();
            latest = latest.max(behind);
        }
        world.look(&mut publisher);
        publisher.frames.clear();
        most = most.max(world.shards[0].report().gauges.mesh_bytes);
    }
    assert!(most <= budget, "{most} bytes were on the way");
    assert!(most >= limits.patch_bytes / 2, "or the test shows nothing: {most}");
    // A turn to read the publish, one to apply it, one to hand it on and one to look, and as many for a window's pong.
    assert!(latest <= 8, "a subscriber of a healthy shard was {latest} turns late");
    assert!(views[2].head < published / 2);

    // What the other follower has not been told yet.
    (0..10).for_each(|_| world.turns([0, 1]));
    // It wakes: what was on the way, and then one transfer that brings it to the head.
    let before = world.shards[0].report().counters.transfers;
    for _ in 0..1_000 {
        world.turn_of_all();
        for (client, view) in clients.iter_mut().zip(&mut views) {
            world.look(client);
            view.follow(client);
        }
    }
    assert_eq!(world.shards[0].report().counters.transfers, before + 1, "merged");
    assert_eq!(world.shards[0].report().gauges.mesh_bytes, 0);
    let logs: Vec<_> = world
        .shards
        .iter()
        .map(|shard| {
            let at = shard.topics().find(&topic).expect("home or replica");
            let log = &shard.topics().topic(at).log;
            (log.head().0, log.checksum(), log.key_count(), log.event_count())
        })
        .collect();
    assert!(logs.iter().all(|log| *log == logs[0]), "{logs:?}");
    for view in &views {
        assert_eq!(view.head, published);
        // The rest is conflated; the ledger says so.
        assert!(view.accounted <= published);
        assert_eq!(view.keys, views[0].keys);
    }
    world.end();
}

#[test]
fn publishers_of_a_home_that_stands_still_wait_and_lose_nothing() {
    let mut world = World::new(2, |_| {});
    let topic = world.topic("e", 1, 0);
    let mut publishers: Vec<_> = (0..20).map(|_| world.hello(0)).collect();
    let payload = "x".repeat(15_000);
    let limit = MeshLimits::for_shards(2).publish_bytes;
    let (mut most, mut sent) = (0, 0);
    for _ in 0..100 {
        for publisher in &mut publishers {
            let records = vec![event(&payload), event(&payload), event(&payload)];
            world.publish(publisher, &topic, records);
            sent += 3;
        }
        world.turns([0]);
        most = most.max(world.shards[0].report().gauges.mesh_bytes);
    }
    assert!(most >= limit, "or the test shows nothing: {most}");
    // Each may have one more on the way.
    assert!(most <= limit + publishers.len() * 64 * 1_024, "{most} bytes were on the way");
    let held = world.shards[0].report().gauges.connection_bytes;
    assert!(held <= publishers.len() * 256 * 1_024, "{held} bytes are kept for publishers");
    world.until("everything was applied", |world| {
        let found = world.shards[1].topics().find(&topic);
        found.is_some_and(|at| world.shards[1].topics().topic(at).log.head().0 == sent)
    });
    for publisher in &mut publishers {
        for _ in 0..100 {
            let Body::Published(wire::Published { duplicate: false, .. }) = world.body(publisher) else {
                panic!("no Published")
            };
        }
    }
    world.end();
}

#[test]
fn a_home_that_appends_more_than_single_transfers_carry_keeps_its_replica_near_the_head() {
    let mut world = World::new(2, |settings| settings.limits.messages_per_second = u32::MAX);
    let topic = world.topic("depth/", 0, 0);
    let mut publishers: Vec<_> = (0..40).map(|_| world.hello(0)).collect();
    let mut subscriber = world.hello(1);
    world.subscribe(&mut subscriber, &topic);
    world.settle();
    let limits = MeshLimits::for_shards(2);
    let value = "x".repeat(15_000);
    let replica = |world: &World| {
        let topics = world.shards[1].topics();
        topics.find(&topic).map_or((0, 0), |at| {
            let log = &topics.topic(at).log;
            (log.head().0, log.memory_bytes())
        })
    };
    let (mut heads, mut latest, mut most) = (Vec::new(), 0, 0);
    for turn in 0..60 {
        // Twice as much as a transfer carries, to 640 keys.
        for (at, publisher) in publishers.iter_mut().enumerate() {
            for part in 0..1 + turn % 2 {
                let records = (0..4).map(|k| keyed(&format!("{at}/{part}/{k}"), &value)).collect();
                world.publish(publisher, &topic, records);
            }
        }
        world.turn_of_all();
        for client in publishers.iter_mut().chain([&mut subscriber]) {
            world.look(client);
            client.frames.clear();
        }
        let home = world.shards[0].topics().find(&topic).map(|at| world.shards[0].topics().topic(at).log.head().0);
        heads.push(home.unwrap_or(0));
        let (head, bytes) = replica(&world);
        latest = latest.max(heads.iter().rev().take_while(|home| **home > head).count());
        most = most.max(bytes);
    }
    let at_home = world.shards[0].topics().find(&topic).expect("it is there");
    let log = world.shards[0].topics().topic(at_home).log.memory_bytes();
    // What it has; twice that and a chunk, which wait; and what then comes at once.
    let bound = 4 * log.max(limits.catch_up_bytes) + 2 * limits.transfer_bytes;
    assert!(most <= bound, "{most} bytes at the replica, {log} at home");
    assert!(latest <= 30, "the replica was {latest} turns late");
    world.until("the replica is at the head", |world| {
        replica(world).0 == world.shards[0].topics().topic(at_home).log.head().0
    });
    world.end();
}

#[test]
fn critical_events_that_reached_a_replica_are_offered_before_those_that_overtook_them() {
    // One transfer at a time.
    let limits = MeshLimits { batches: 2, ..MeshLimits::for_shards(2) };
    let mut world =
        World::with_mesh(2, limits, |settings| settings.classes.last_mut().expect("there is one").events = 4);
    let topic = world.topic("e", 0, 0);
    let mut publisher = world.hello(0);
    let critical = |value: &str| wire::Record { priority: wire::Priority::Critical.into(), ..event(value) };
    world.publish(&mut publisher, &topic, vec![keyed("k", "v")]);
    // More than are sent to in one turn.
    let mut subscribers: Vec<_> = (0..700).map(|_| world.connect(1)).collect();
    world.settle();
    for subscriber in &mut subscribers {
        world.show(subscriber, Bytes::new());
        world.subscribe(subscriber, &topic);
    }
    world.settle();
    for subscriber in &mut subscribers {
        world.look(subscriber);
        subscriber.frames.clear();
    }
    world.settle();
    world.publish(&mut publisher, &topic, (0..3).map(|at| critical(&format!("first {at}"))).collect());
    world.turns([0, 0]);
    // The other shard has not looked: these wait at home, where most of them are dropped.
    for _ in 0..5 {
        world.publish(&mut publisher, &topic, (0..4).map(|_| critical("later")).collect());
        world.turns([0, 0]);
    }
    world.turns([1, 0]);
    (0..10).for_each(|_| world.turns([1, 0]));
    let mut lost = Vec::new();
    for subscriber in &mut subscribers {
        world.look(subscriber);
        let patches = subscriber.frames.drain(..).filter_map(|frame| match frame.body {
            Some(Body::Patch(patch)) => Some(patch),
            _ => None,
        });
        let patches: Vec<_> = patches.collect();
        lost.push(patches.iter().map(|patch| patch.lost).sum::<u64>());
        let came = patches.iter().flat_map(|patch| &patch.records).filter(|record| record.value.starts_with(b"first"));
        assert_eq!(came.count(), 3, "lost {lost:?}");
    }
    assert!(lost.iter().all(|lost| *lost == 16), "what the home's log dropped, and nothing else: {lost:?}");
    world.end();
}
