//! Who is not read from, and until when.

use crate::world::{World, event, keyed};

#[test]
fn a_client_that_reads_no_answers_fills_no_memory_though_it_was_waiting_for_one() {
    let mut world = World::new(2, |settings| settings.limits.answer_bytes = 100);
    let (elsewhere, other) = (world.topic("e", 1, 0), world.topic("e", 1, 1));
    let mut client = world.hello(0);
    // From now on it reads nothing. The answers to its publishes come while it waits for that to its second Subscribe, which was
    // read when the first one was answered.
    world.shards[0].kernel_mut().set_capacity(client.peer, 10);
    world.subscribe(&mut client, &elsewhere);
    for _ in 0..50 {
        world.publish(&mut client, &elsewhere, vec![keyed("k", "v")]);
    }
    world.subscribe(&mut client, &other);
    world.settle();
    assert!(world.shards[0].report().counters.limit_hits.answer_bytes > 0, "or the test shows nothing");
    let before = world.shards[0].report().gauges.connection_bytes;
    let payload = "y".repeat(4_000);
    for _ in 0..200 {
        world.publish(&mut client, &elsewhere, vec![event(&payload)]);
        world.turn_of_all();
    }
    let grown = world.shards[0].report().gauges.connection_bytes - before;
    assert!(grown < 64 * 1_024, "{grown} bytes wait");
    world.end();
}

#[test]
fn a_publisher_that_two_topics_hold_back_goes_on_when_both_have_flushed() {
    let mut world = World::new(2, |settings| settings.limits.unflushed_event_bytes = 1_000);
    let (here, elsewhere) = (world.topic("e", 0, 0), world.topic("e", 1, 0));
    let mut publisher = world.hello(0);
    world.publish(&mut publisher, &elsewhere, vec![keyed("k", "v")]);
    // More than the home sends in one turn.
    let mut subscribers: Vec<_> = (0..600).map(|_| world.hello(1)).collect();
    for subscriber in &mut subscribers {
        world.subscribe(subscriber, &elsewhere);
    }
    world.settle();
    let payload = "x".repeat(2_000);
    world.publish(&mut publisher, &elsewhere, vec![event(&payload)]);
    world.turns([0, 0]);
    // One topic holds it back until its home's next turn, the other until the end of this one's.
    world.publish(&mut publisher, &here, vec![event(&payload)]);
    world.turns([0]);
    world.turns([1]);
    world.turns([0, 0]);
    let before = world.shards[0].report().counters.frames_received;
    world.publish(&mut publisher, &elsewhere, vec![event(&payload)]);
    world.turns([0, 0, 0]);
    assert_eq!(world.shards[0].report().counters.frames_received, before, "the home has not flushed yet");
    world.settle();
    assert_eq!(world.shards[0].report().counters.frames_received, before + 1);
    world.end();
}
