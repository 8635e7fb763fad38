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
