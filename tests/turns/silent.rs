//! A shard that says nothing holds up nobody else's clients, and what it had to say comes when it wakes.

use std::time::Duration;

use bytes::Bytes;
use tidegate::mesh::MeshLimits;
use tidegate::protocol::wire::{self, client_frame, server_frame::Body};

use crate::world::{Client, World, keyed};

const ANSWER: Duration = Duration::from_secs(1);

/// The turns of these shards in so much time.
fn pass(world: &mut World, shards: &[usize], time: Duration) {
    let until = world.now + time;
    while world.now < until {
        world.now = world.now + Duration::from_millis(5);
        world.turns(shards.iter().copied());
    }
}

/// What came, without turns of those that stand still.
fn came(world: &mut World, client: &mut Client) -> Vec<wire::ServerFrame> {
    world.look(client);
    client.frames.drain(..).collect()
}

fn subscribed(frames: &[wire::ServerFrame]) -> Vec<(u64, &str, bool)> {
    let subscribed = frames.iter().filter_map(|frame| match &frame.body {
        Some(Body::Subscribed(subscribed)) => Some((frame.request, &subscribed.topic[..], subscribed.resumed)),
        _ => None,
    });
    subscribed.collect()
}

#[test]
fn a_pattern_goes_on_without_a_silent_shard_whose_topics_come_later() {
    let mut world = World::new(3, |settings| settings.limits.shard_answer = ANSWER);
    let (known, late) = (world.topic("t/", 0, 0), world.topic("t/", 2, 0));
    let (mut publisher, mut subscriber) = (world.hello(0), world.hello(1));
    world.publish(&mut publisher, &known, vec![keyed("k", "v")]);
    world.settle();
    // Shard 2 stands still. A publish to a topic of its own waits for it.
    world.publish(&mut publisher, &late, vec![keyed("k", "v")]);
    let request = world.subscribe(&mut subscriber, "t/*");
    pass(&mut world, &[0, 1], ANSWER / 2);
    assert!(came(&mut world, &mut subscriber).is_empty(), "it is given its time");
    pass(&mut world, &[0, 1], ANSWER);
    let frames = came(&mut world, &mut subscriber);
    assert_eq!(subscribed(&frames), [(request, &known[..], false)]);
    assert_eq!(world.shards[1].report().counters.limit_hits.shard_answer, 1);
    // Nobody waits for it any more.
    let again = world.subscribe(&mut subscriber, "t/**");
    pass(&mut world, &[0, 1], Duration::from_millis(50));
    assert_eq!(subscribed(&came(&mut world, &mut subscriber)), [(again, &known[..], true)]);
    // Others read the clients that they have, and are waited for as before.
    world.until("what the silent one had comes", |world| {
        let frames = came(world, &mut subscriber);
        subscribed(&frames).contains(&(0, &late[..], false))
    });
    world.settle();
    let third = world.subscribe(&mut subscriber, "*/*");
    world.settle();
    assert_eq!(subscribed(&came(&mut world, &mut subscriber)).iter().filter(|(at, ..)| *at == third).count(), 2);
    assert_eq!(world.shards[1].report().counters.limit_hits.shard_answer, 2, "it answers again");
    assert_eq!(world.shards[1].unfinished().questions, 0);
    world.end();
}

#[test]
fn whoever_is_known_to_be_silent_is_not_waited_for_and_everyone_else_is() {
    let mut world = World::new(4, |settings| settings.limits.shard_answer = ANSWER);
    let (known, late) = (world.topic("t/", 1, 0), world.topic("t/", 3, 0));
    let (mut publisher, mut subscriber) = (world.hello(3), world.hello(1));
    world.publish(&mut publisher, &known, vec![keyed("k", "v")]);
    world.settle();
    // Shard 2 stands still, and is found to.
    world.subscribe(&mut subscriber, "a/*");
    pass(&mut world, &[0, 1, 3], 2 * ANSWER);
    assert_eq!(subscribed(&came(&mut world, &mut subscriber)).len(), 1);
    // Shard 3 acknowledges a publish, and is asked and takes its time: it is waited for, though another one is silent.
    world.publish(&mut publisher, &late, vec![keyed("k", "v")]);
    world.turns([3, 3]);
    let request = world.subscribe(&mut subscriber, "t/*");
    pass(&mut world, &[0, 1], ANSWER / 2);
    assert!(came(&mut world, &mut subscriber).is_empty(), "it is given its time");
    pass(&mut world, &[3, 0, 1], Duration::from_millis(50));
    let frames = came(&mut world, &mut subscriber);
    assert_eq!(subscribed(&frames), [(request, &known[..], false), (request, &late[..], false)]);
    // Now both stand still, and are found to: nobody waits for either.
    world.subscribe(&mut subscriber, "b/*");
    pass(&mut world, &[0, 1], 2 * ANSWER);
    assert_eq!(subscribed(&came(&mut world, &mut subscriber)).len(), 1);
    world.subscribe(&mut subscriber, "c/*");
    let (mut other, session) = (world.connect(0), Bytes::from(vec![7; 16]));
    pass(&mut world, &[0, 1], Duration::from_millis(50));
    assert_eq!(subscribed(&came(&mut world, &mut subscriber)).len(), 1, "at once");
    // Shard 0 has asked nobody yet, and finds that out for itself.
    world.show(&mut other, session);
    pass(&mut world, &[0, 1], ANSWER / 2);
    assert!(came(&mut world, &mut other).is_empty(), "it gives them their time");
    pass(&mut world, &[0, 1], ANSWER);
    assert_eq!(came(&mut world, &mut other).len(), 1);
    world.settle();
    assert!(world.shards.iter().all(|shard| shard.unfinished().questions == 0));
    world.end();
}

#[test]
fn what_silent_shards_are_asked_takes_no_more_than_its_budget_however_long_they_are_silent() {
    let limits = MeshLimits { question_bytes: 20_000, ..MeshLimits::for_shards(3) };
    let mut world = World::with_mesh(3, limits, |settings| {
        settings.limits.shard_answer = ANSWER;
        settings.limits.accepts_per_second = u32::MAX;
        settings.limits.messages_per_second = u32::MAX;
    });
    let here = world.topic("t/", 1, 0);
    let mut subscriber = world.hello(1);
    world.publish(&mut subscriber, &here, vec![keyed("k", "v")]);
    world.settle();
    came(&mut world, &mut subscriber);
    // Shard 2 stands still, which the first Hello that shows a session finds.
    let (mut most_bytes, mut most_questions) = (0, 0);
    for number in 0..500_u16 {
        let mut client = world.connect(1);
        let session = [&number.to_be_bytes()[..], &[7; 14]].concat();
        world.show(&mut client, session.into());
        pass(&mut world, &[0, 1], if number == 0 { 2 * ANSWER } else { Duration::from_millis(50) });
        let frames = came(&mut world, &mut client);
        assert!(matches!(frames[..], [wire::ServerFrame { body: Some(Body::Welcome(_)), .. }]), "{number}: {frames:?}");
        world.shards[1].kernel_mut().peer_reset(client.peer);
        most_bytes = most_bytes.max(world.shards[1].report().gauges.mesh_bytes);
        most_questions = most_questions.max(world.shards[1].unfinished().questions);
    }
    // Each pair has its budget; a question may go beyond it.
    assert!((20_000..2 * 21_000).contains(&most_bytes), "{most_bytes} bytes were on the way");
    assert!((10..100).contains(&most_questions), "{most_questions} questions waited for their answers");
    // What needs the silent shard is refused for now, and says so; the rest goes on.
    let refused = world.subscribe(&mut subscriber, "t/*");
    let begun = world.subscribe(&mut subscriber, &here);
    pass(&mut world, &[0, 1], Duration::from_millis(50));
    let frames = came(&mut world, &mut subscriber);
    let Some(Body::Error(error)) = &frames[0].body else { panic!("{frames:?}") };
    assert_eq!((frames[0].request, error.code(), error.retry_after_ms), (refused, wire::Code::Overloaded, 1_000));
    assert_eq!(subscribed(&frames), [(begun, &here[..], false)]);
    // It moves, and everything is as it was.
    world.settle();
    assert_eq!((world.shards[1].unfinished().questions, world.shards[1].report().gauges.mesh_bytes), (0, 0));
    let again = world.subscribe(&mut subscriber, "t/*");
    world.settle();
    assert_eq!(subscribed(&came(&mut world, &mut subscriber)), [(again, &here[..], true)]);
    world.end();
}

#[test]
fn a_session_that_a_silent_shard_holds_goes_on_elsewhere_and_its_connection_closes_when_that_wakes() {
    let mut world = World::new(3, |settings| settings.limits.shard_answer = ANSWER);
    let topic = world.topic("e", 0, 0);
    let (mut holder, session) = world.hello_as(2, Bytes::new());
    let sequenced = |sequence| {
        let records = vec![keyed("k", &format!("{sequence}"))];
        client_frame::Body::Publish(wire::Publish {
            topic: topic.clone(),
            records,
            sequence,
            ..wire::Publish::default()
        })
    };
    world.send(&mut holder, sequenced(1));
    world.settle();
    let mut next = world.connect(1);
    world.settle();
    world.show(&mut next, session.clone());
    let before = world.now;
    while came(&mut world, &mut next).is_empty() {
        pass(&mut world, &[0, 1], Duration::from_millis(5));
        assert!(world.now.since(before) < 2 * ANSWER, "no Welcome");
    }
    assert!(world.now.since(before) >= ANSWER, "it is given its time");
    let request = world.send(&mut next, sequenced(1));
    pass(&mut world, &[0, 1], Duration::from_millis(50));
    let frames = came(&mut world, &mut next);
    let [wire::ServerFrame { request: answered, body: Some(Body::Published(published)) }] = &frames[..] else {
        panic!("{frames:?}")
    };
    assert!(*answered == request && published.duplicate, "the home knows the session: {frames:?}");
    assert_eq!(world.close_code(&mut holder), 4_500);
    world.settle();
    world.look(&mut next);
    assert_eq!(next.close, None, "the later one has it");
    assert_eq!(world.shards[1].unfinished().questions, 0);
    world.end();
}

#[test]
fn of_two_shards_that_claim_a_session_while_one_is_silent_one_has_it() {
    for apart in 0..8_u32 {
        let mut world = World::new(3, |settings| settings.limits.shard_answer = ANSWER);
        let topic = world.topic("e", 1, 0);
        let (mut holder, session) = world.hello_as(1, Bytes::new());
        let publish = wire::Publish { topic, records: vec![keyed("k", "v")], sequence: 1, ..wire::Publish::default() };
        world.send(&mut holder, client_frame::Body::Publish(publish));
        world.settle();
        let mut clients = [world.connect(0), world.connect(2)];
        world.settle();
        let [early, late] = &mut clients;
        // The first one's shard says so, and gets no turn for a long time.
        world.show(early, session.clone());
        world.turns([0, 0]);
        for _ in 0..apart {
            pass(&mut world, &[1, 2], ANSWER / 3);
        }
        world.show(late, session.clone());
        pass(&mut world, &[1, 2], 2 * ANSWER);
        world.settle();
        for client in &mut clients {
            world.look(client);
        }
        assert_eq!(clients[0].close, Some(4_500), "{apart}");
        assert_eq!(clients[1].close, None, "{apart}");
        world.end();
    }
}

#[test]
fn a_position_that_the_replica_has_not_reached_waits_for_its_silent_home_and_the_client_is_read_meanwhile() {
    // One transfer at a time.
    let limits = MeshLimits { batches: 2, ..MeshLimits::for_shards(3) };
    let mut world = World::with_mesh(3, limits, |settings| settings.limits.shard_answer = ANSWER);
    let topic = world.topic("t", 0, 0);
    let mut publisher = world.hello(0);
    world.publish(&mut publisher, &topic, vec![keyed("k", "v")]);
    let (mut here, mut there) = (world.hello(1), world.hello(2));
    world.subscribe(&mut here, &topic);
    world.subscribe(&mut there, &topic);
    world.settle();
    // Shard 1 stands still for a while, and is sent less than shard 2.
    for value in 0..10 {
        world.publish(&mut publisher, &topic, vec![keyed("k", &format!("{value}"))]);
        world.turns([0, 2]);
    }
    (0..5).for_each(|_| world.turns([0, 2]));
    let frames = came(&mut world, &mut there);
    let epoch = frames.iter().find_map(|frame| match &frame.body {
        Some(Body::Subscribed(subscribed)) => Some(subscribed.epoch),
        _ => None,
    });
    let position = wire::Position { epoch: epoch.expect("it subscribed"), offset: 11 };
    let head = |world: &World| {
        let at = world.shards[1].topics().find(&topic).expect("a replica");
        world.shards[1].topics().topic(at).log.head().0
    };
    pass(&mut world, &[1], Duration::from_millis(20));
    assert!(head(&world) < 11, "or the test shows nothing");
    // Now its home does.
    world.now = world.now + ANSWER;
    let resume = wire::Subscribe { topic: topic.clone(), resume: Some(position), ..wire::Subscribe::default() };
    let request = world.send(&mut here, client_frame::Body::Subscribe(resume));
    let ping = world.send(&mut here, client_frame::Body::Ping(wire::Ping::default()));
    came(&mut world, &mut here);
    pass(&mut world, &[1, 2], 2 * ANSWER);
    let frames = came(&mut world, &mut here);
    let requests: Vec<_> = frames.iter().map(|frame| frame.request).filter(|request| *request > 0).collect();
    assert_eq!(requests, [ping], "{frames:?}");
    world.settle();
    let frames = came(&mut world, &mut here);
    assert_eq!(subscribed(&frames), [(request, &topic[..], true)]);
    world.end();
}
