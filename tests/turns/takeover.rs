//! A session goes to whoever showed it last, and to nobody else.

use std::time::Duration;

use bytes::Bytes;
use tidegate::protocol::wire::{self, client_frame, server_frame::Body};

use crate::world::{Client, World, event};

fn publish(world: &mut World, client: &mut Client, topic: &str, sequence: u64) {
    let records = vec![event("e")];
    let publish = wire::Publish { topic: topic.to_owned(), records, sequence, ..wire::Publish::default() };
    world.send(client, client_frame::Body::Publish(publish));
}

fn published(world: &mut World, client: &mut Client) -> wire::Published {
    match world.body(client) {
        Body::Published(published) => published,
        other => panic!("no Published but {other:?}"),
    }
}

/// The session that a client was welcomed with, if it was and nothing has ended it.
fn held(world: &mut World, client: &mut Client) -> Option<Bytes> {
    world.look(client);
    let welcome = client.frames.iter().find_map(|frame| match &frame.body {
        Some(Body::Welcome(welcome)) => Some(welcome.session.clone()),
        _ => None,
    });
    welcome.filter(|_| client.close.is_none())
}

#[test]
fn a_session_without_sequences_is_taken_over_from_a_connection_of_any_shard() {
    for (of_holder, of_next) in [(0, 0), (0, 1), (2, 1)] {
        let mut world = World::new(3, |_| {});
        let (mut holder, session) = world.hello_as(of_holder, Bytes::new());
        let (mut next, again) = world.hello_as(of_next, session.clone());
        assert_eq!(again, session, "from shard {of_holder} to {of_next}");
        assert_eq!(world.close_code(&mut holder), 4_500);

        // Who shows it while the one before waits to be welcomed has it, too.
        let mut clients = [world.connect(of_holder), world.connect(of_holder)];
        world.settle();
        for client in &mut clients {
            world.show(client, session.clone());
            world.turn(of_holder);
        }
        world.settle();
        let [first, second] = &mut clients;
        assert_eq!((held(&mut world, first), held(&mut world, second)), (None, Some(session.clone())));
        assert_eq!((world.close_code(first), world.close_code(&mut next)), (4_500, 4_500));

        // Of one that has ended nothing is known.
        world.shards[of_holder].kernel_mut().peer_reset(second.peer);
        world.settle();
        let (_client, fresh) = world.hello_as(of_next, session.clone());
        assert_ne!(fresh, session);
        world.end();
    }
}

#[test]
fn a_sequence_that_was_forgotten_for_want_of_room_outweighs_the_connection_that_holds_the_session() {
    for (of_holder, of_next) in [(0, 0), (0, 2), (1, 1), (1, 2)] {
        let mut world = World::new(3, |settings| settings.limits.sequences = 1);
        let topics = [world.topic("e", 1, 0), world.topic("e", 1, 1)];
        let (mut holder, session) = world.hello_as(of_holder, Bytes::new());
        for topic in &topics {
            publish(&mut world, &mut holder, topic, 1);
            assert!(!published(&mut world, &mut holder).duplicate);
        }
        let (_next, other) = world.hello_as(of_next, session.clone());
        assert_ne!(other, session, "from shard {of_holder} to {of_next}");
        assert_eq!(world.close_code(&mut holder), 4_500);
        world.end();
    }
}

#[test]
fn a_session_of_which_one_home_forgot_everything_is_another_one_after_its_end() {
    let mut world = World::new(3, |settings| settings.limits.sequences = 1);
    let topics = [world.topic("e", 0, 0), world.topic("e", 1, 0)];
    let (mut holder, session) = world.hello_as(2, Bytes::new());
    for topic in &topics {
        publish(&mut world, &mut holder, topic, 1);
        assert!(!published(&mut world, &mut holder).duplicate);
    }
    // Another one's takes the room of what it published to the second home.
    let mut other = world.hello(0);
    publish(&mut world, &mut other, &topics[1], 1);
    assert!(!published(&mut world, &mut other).duplicate);
    world.shards[2].kernel_mut().peer_reset(holder.peer);
    world.settle();
    let (mut again, welcomed) = world.hello_as(0, session.clone());
    publish(&mut world, &mut again, &topics[1], 1);
    assert!(published(&mut world, &mut again).duplicate || welcomed != session);
    assert_ne!(welcomed, session, "the second home does not know what it published there");
    world.end();
}

#[test]
fn of_two_connections_that_show_a_session_at_once_one_has_it() {
    for (first, second) in [(0, 1), (1, 0), (0, 0), (1, 2), (2, 0)] {
        for apart in 0..8 {
            let mut world = World::new(3, |_| {});
            let topic = world.topic("e", 1, 0);
            let (mut holder, session) = world.hello_as(2, Bytes::new());
            publish(&mut world, &mut holder, &topic, 1);
            assert!(!published(&mut world, &mut holder).duplicate);
            let mut clients = [world.connect(first), world.connect(second)];
            world.settle();
            let [a, b] = &mut clients;
            world.show(a, session.clone());
            // One shard's turn after the other, so that claims meet at every step of the way.
            for at in 0..apart {
                world.turn(at % 3);
            }
            world.show(b, session.clone());
            // No time passes, so that their order alone tells which claim was the later one.
            (0..12).for_each(|at| world.turn(at % 3));
            world.settle();
            let holders = clients.iter_mut().filter_map(|client| held(&mut world, client));
            assert_eq!(holders.collect::<Vec<_>>(), [session], "shards {first} and {second}, {apart} turns apart");
            assert_eq!(clients.iter().filter(|client| client.close == Some(4_500)).count(), 1);
            assert_eq!(world.close_code(&mut holder), 4_500);
            world.end();
        }
    }
}

#[test]
fn a_first_publish_that_is_on_its_way_when_its_session_is_taken_over_counts_once() {
    let mut world = World::new(3, |_| {});
    let topic = world.topic("e", 1, 0);
    let (mut holder, session) = world.hello_as(0, Bytes::new());
    let mut next = world.connect(2);
    world.settle();
    // The home is asked about the session before the publish comes to it.
    publish(&mut world, &mut holder, &topic, 1);
    world.turns([0]);
    world.show(&mut next, session.clone());
    world.turns([2, 2, 1]);
    let Body::Welcome(welcome) = world.body(&mut next) else { panic!("no Welcome") };
    publish(&mut world, &mut next, &topic, 1);
    assert!(published(&mut world, &mut next).duplicate || welcome.session != session);
    assert_eq!(welcome.session, session, "whoever held it knows that it published");
    world.end();
}

#[test]
fn a_hello_that_waits_for_a_shard_that_stands_still_is_no_silence() {
    let mut world = World::new(2, |_| {});
    let mut client = world.connect(0);
    world.settle();
    world.show(&mut client, Bytes::from(vec![7; 16]));
    for _ in 0..100 {
        world.now = world.now + Duration::from_millis(100);
        world.turns([0]);
    }
    let Body::Welcome(_) = world.body(&mut client) else { panic!("no Welcome") };
    world.end();
}

#[test]
fn the_end_of_an_earlier_connection_that_is_told_late_does_not_end_the_session() {
    let memory = Duration::from_secs(1);
    let mut world = World::new(3, |settings| settings.limits.sequence_memory = memory);
    let topic = world.topic("e", 1, 0);
    let (mut holder, session) = world.hello_as(0, Bytes::new());
    publish(&mut world, &mut holder, &topic, 1);
    assert!(!published(&mut world, &mut holder).duplicate);
    let mut next = world.connect(2);
    world.settle();
    // The home hears that the session goes on elsewhere before its first shard sees that its connection is gone.
    world.shards[0].kernel_mut().peer_reset(holder.peer);
    world.show(&mut next, session.clone());
    world.turns([0, 2, 2, 1, 0, 1, 2]);
    assert_eq!(world.shards[0].report().counters.takeovers, 0, "or the test shows nothing");
    let Body::Welcome(welcome) = world.body(&mut next) else { panic!("no Welcome") };
    assert_eq!(welcome.session, session);
    // The session lives on, in silence, for longer than an ended one is remembered.
    for _ in 0..100 {
        world.now = world.now + memory;
        world.turn_of_all();
    }
    let (mut last, welcomed) = world.hello_as(0, session.clone());
    assert_eq!(welcomed, session, "it never ended");
    publish(&mut world, &mut last, &topic, 1);
    assert!(published(&mut world, &mut last).duplicate);
    world.end();
}
