//! Subscribing again to topics of other shards.

use tidegate::protocol::wire::{self, Code, client_frame, server_frame::Body};

use crate::world::{Client, World, keyed};

/// What the client is told until it is at a head, or refused.
fn until_head(world: &mut World, client: &mut Client) -> Result<usize, Code> {
    let mut records = 0;
    loop {
        match world.body(client) {
            Body::Patch(patch) => {
                records += patch.records.len();
                if !patch.more {
                    return Ok(records);
                }
            }
            Body::Error(error) => return Err(error.code()),
            _ => {}
        }
    }
}

#[test]
fn what_a_replica_without_a_head_will_send_counts_too() {
    let mut world = World::new(2, |settings| settings.limits.resent_bytes = 5_000);
    let (elsewhere, other) = (world.topic("e", 1, 0), world.topic("e", 1, 1));
    let mut publisher = world.hello(1);
    for topic in [&elsewhere, &other] {
        let records = (0..10).map(|key| keyed(&key.to_string(), &"v".repeat(1_000))).collect();
        world.publish(&mut publisher, topic, records);
        let Body::Published(_) = world.body(&mut publisher) else { panic!("no Published") };
    }
    let mut client = world.hello(0);
    world.subscribe(&mut client, "x");
    let Body::Subscribed(_) = world.body(&mut client) else { panic!("no Subscribed") };
    world.send(&mut client, client_frame::Body::Unsubscribe(wire::Unsubscribe { topic: "x".to_owned() }));
    let Body::Unsubscribed(_) = world.body(&mut client) else { panic!("no Unsubscribed") };
    // From now on it is counted. There is no replica yet.
    world.subscribe(&mut client, &elsewhere);
    assert_eq!(until_head(&mut world, &mut client), Ok(10));
    world.subscribe(&mut client, &other);
    assert_eq!(until_head(&mut world, &mut client), Err(Code::RateLimited));
    assert_eq!(world.shards[0].report().counters.limit_hits.resent_bytes, 1);
    world.end();
}
