//! Who is told only a part of a topic.

use std::time::Duration;

use bytes::Bytes;
use tidegate::protocol::wire::{self, client_frame, server_frame::Body};

use crate::world::{World, keyed};

#[test]
fn nothing_for_a_filter_is_said_once_a_second_however_often_it_may_be() {
    for max_hz in [0, 20] {
        let mut world = World::new(1, |_| {});
        let (mut publisher, mut subscriber) = (world.hello(0), world.hello(0));
        let key_prefix = Bytes::from_static(b"mine/");
        let subscribe = wire::Subscribe { topic: "t".into(), key_prefix, max_hz, ..wire::Subscribe::default() };
        world.send(&mut subscriber, client_frame::Body::Subscribe(subscribe));
        world.settle();
        let end = world.now + Duration::from_secs(5);
        while world.now < end {
            world.publish(&mut publisher, "t", vec![keyed("others/k", "v")]);
            world.now = world.now + Duration::from_millis(10);
            world.turns([0, 0]);
            world.look(&mut publisher);
        }
        world.look(&mut subscriber);
        let patches: Vec<_> = subscriber
            .frames
            .iter()
            .filter_map(|frame| match &frame.body {
                Some(Body::Patch(patch)) => Some(patch.records.len()),
                _ => None,
            })
            .collect();
        assert!((4..=7).contains(&patches.len()), "{} patches in five seconds at {max_hz} Hz", patches.len());
        assert_eq!(patches.iter().sum::<usize>(), 0);
        world.end();
    }
}
