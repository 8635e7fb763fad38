//! The main road on real sockets: publish, subscribe, resume, close.

mod support;

use support::{Client, end, engine, event, keyed};
use tidegate::protocol::wire;

#[test]
fn a_record_reaches_everyone_at_the_head_in_one_patch_each() {
    let engine = engine(|_| {});
    let mut publisher = Client::hello(engine.local_addr());
    publisher.publish_records("depth/X", vec![keyed("b1", "10"), keyed("a2", "20")]);
    let mut subscribers: Vec<_> = (0..20).map(|_| Client::hello(engine.local_addr())).collect();
    for subscriber in &mut subscribers {
        let (subscribed, patch) = subscriber.subscribe_to("depth/X");
        assert!(subscribed.topic_id > 0, "ids begin at 1");
        assert_eq!((subscribed.head, subscribed.matching), (2, 1));
        assert!(patch.reset && !patch.more && patch.checksum.is_some());
        assert_eq!((patch.from, patch.to, patch.records.len()), (0, 2, 2));
    }
    publisher.publish_records("depth/X", vec![keyed("b1", "11"), event("trade")]);
    for subscriber in &mut subscribers {
        let patch = subscriber.patch();
        assert_eq!((patch.from, patch.to, patch.records.len()), (2, 4, 2));
        assert!(!patch.reset);
    }
    end(engine);
}

#[test]
fn a_subscription_to_a_topic_that_comes_later_is_served_when_it_comes() {
    let engine = engine(|_| {});
    let mut subscriber = Client::hello(engine.local_addr());
    subscriber
        .send(wire::client_frame::Body::Subscribe(wire::Subscribe { topic: "later/*".into(), ..Default::default() }));
    let wire::server_frame::Body::Subscribed(subscribed) = subscriber.body() else { panic!("no Subscribed") };
    assert_eq!((subscribed.topic_id, subscribed.matching), (0, 0));
    let mut publisher = Client::hello(engine.local_addr());
    publisher.publish_records("later/one", vec![keyed("k", "v")]);
    let wire::server_frame::Body::Subscribed(subscribed) = subscriber.body() else { panic!("no Subscribed") };
    assert_eq!(subscribed.topic, "later/one");
    assert_ne!(subscribed.topic_id, 0);
    let patch = subscriber.patch();
    assert_eq!((patch.from, patch.to, patch.reset), (0, 1, true));
    end(engine);
}
