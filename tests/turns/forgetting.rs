//! A topic whose idle time is over, and what comes before its timer is looked at.

use std::time::Duration;

use tidegate::protocol::wire::{self, client_frame, server_frame::Body};

use crate::world::{Client, World, deleted, keyed};

const LINGER: Duration = Duration::from_millis(100);

fn world(shards: u16) -> World {
    World::new(shards, |settings| settings.classes.last_mut().expect("there is one").linger = LINGER)
}

/// Makes a topic that is empty, and lets pass all but the last of its idle time.
fn nearly_overdue(world: &mut World, publisher: &mut Client, topic: &str) {
    for record in [keyed("k", "v"), deleted("k")] {
        world.publish(publisher, topic, vec![record]);
        let Body::Published(_) = world.body(publisher) else { panic!("no Published") };
    }
    world.now = world.now + LINGER.checked_sub(Duration::from_millis(1)).expect("it is longer");
}

/// Turns for two milliseconds, in which the topic's idle time ends and its timer fires.
const TURNS: usize = 100;

#[test]
fn publishes_that_leave_an_overdue_topic_empty_are_answered() {
    let mut world = world(1);
    let mut publisher = world.hello(0);
    nearly_overdue(&mut world, &mut publisher, "x/y");
    for _ in 0..TURNS {
        world.publish(&mut publisher, "x/y", vec![deleted("k")]);
        world.turn_of_all();
    }
    let mut ids = Vec::new();
    for _ in 0..TURNS {
        let Body::Published(published) = world.body(&mut publisher) else { panic!("no Published") };
        ids.push(published.offset);
    }
    assert!(ids.contains(&1), "it was forgotten in between, or the test shows nothing: {ids:?}");
    world.end();
}

#[test]
fn an_unsubscribe_from_an_overdue_topic_is_answered() {
    let mut world = world(1);
    let mut publisher = world.hello(0);
    let mut subscribers: Vec<_> = (0..TURNS).map(|_| world.hello(0)).collect();
    for subscriber in &mut subscribers {
        world.subscribe(subscriber, "x/*");
        let Body::Subscribed(_) = world.body(subscriber) else { panic!("no Subscribed") };
    }
    nearly_overdue(&mut world, &mut publisher, "x/y");
    let mut forgotten_before = 0;
    for subscriber in &mut subscribers {
        let unsubscribe = wire::Unsubscribe { topic: "x/*".to_owned() };
        let request = world.send(subscriber, client_frame::Body::Unsubscribe(unsubscribe));
        world.turn_of_all();
        let is_answer = |frame: &wire::ServerFrame| frame.request == request;
        while !is_answer(&world.frame(subscriber)) {}
        forgotten_before += usize::from(world.shards[0].topics().is_empty());
    }
    assert!((1..TURNS).contains(&forgotten_before), "it was forgotten in between: {forgotten_before}");
    world.end();
}

#[test]
fn a_subscribe_whose_topic_is_forgotten_before_it_is_answered_is_answered_nevertheless() {
    let mut world = world(1);
    let (mut publisher, mut subscriber) = (world.hello(0), world.hello(0));
    world.publish(&mut publisher, "x/y", vec![keyed("k", "v")]);
    world.settle();
    // It reads nothing, so that what it is told of the topic waits behind what it was told before.
    world.shards[0].kernel_mut().set_capacity(subscriber.peer, 1);
    let before = world.send(&mut subscriber, client_frame::Body::Ping(wire::Ping::default()));
    world.settle();
    let request = world.subscribe(&mut subscriber, "x/*");
    world.settle();
    world.publish(&mut publisher, "x/y", vec![deleted("k")]);
    world.settle();
    world.now = world.now + LINGER;
    world.until("the topic is forgotten", |world| world.shards[0].topics().is_empty());
    world.shards[0].kernel_mut().set_capacity(subscriber.peer, 1 << 20);
    let mut answered = Vec::new();
    while answered.last() != Some(&request) {
        answered.push(world.frame(&mut subscriber).request);
    }
    assert!(answered.contains(&before));
    world.end();
}

#[test]
fn a_subscriber_that_starts_anew_because_the_log_forgot_is_told_how_many_topics_match() {
    let mut world = World::new(1, |settings| settings.limits.messages_per_second = u32::MAX);
    let mut publisher = world.hello(0);
    for topic in ["r/1", "r/2"] {
        world.publish(&mut publisher, topic, vec![keyed("k", "v")]);
    }
    let mut client = world.connect(0);
    // With so little credit it is sent one patch at a time.
    world.send(&mut client, client_frame::Body::Hello(wire::Hello { credit_bytes: 1, ..wire::Hello::default() }));
    world.subscribe(&mut client, "r/*");
    let Body::Welcome(_) = world.body(&mut client) else { panic!("no Welcome") };
    let mut patches = 0;
    while patches < 2 {
        match world.body(&mut client) {
            Body::Subscribed(subscribed) => assert_eq!((subscribed.resumed, subscribed.matching), (false, 2)),
            Body::Patch(_) => {
                patches += 1;
                if patches < 2 {
                    world.send(&mut client, client_frame::Body::Credit(wire::Credit { bytes: 1_000 }));
                }
            }
            other => panic!("{other:?}"),
        }
    }
    // More deletes than are kept for those who are behind.
    for round in 0..5 {
        let keys = || (0..1_024).map(move |key| format!("{round}.{key}"));
        world.publish(&mut publisher, "r/1", keys().map(|key| keyed(&key, "v")).collect());
        world.publish(&mut publisher, "r/1", keys().map(|key| deleted(&key)).collect());
        world.settle();
    }
    world.send(&mut client, client_frame::Body::Credit(wire::Credit { bytes: 1_000 }));
    let frame = world.frame(&mut client);
    let Some(Body::Subscribed(anew)) = frame.body else { panic!("no Subscribed but {:?}", frame.body) };
    assert_eq!((frame.request, anew.topic.as_str(), anew.resumed, anew.matching), (0, "r/1", false, 2));
    let Body::Patch(patch) = world.body(&mut client) else { panic!("no patch") };
    assert!(patch.reset);
    world.end();
}
