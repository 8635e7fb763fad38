//! Subscriptions, and the topics that they match.

use tidegate::protocol::wire::{Code, Subscribe, Unsubscribe, client_frame, server_frame::Body};
use tidegate::shard::LimitHits;

use super::support::{Client, end, keyed};
use super::{hits, strict};

fn to(topic: &str) -> client_frame::Body {
    client_frame::Body::Subscribe(Subscribe { topic: topic.into(), ..Subscribe::default() })
}

#[test]
fn a_connection_has_so_many_subscriptions() {
    let engine = strict(|limits| limits.subscriptions = 2);
    let mut client = Client::hello(engine.local_addr());
    for topic in ["a", "b", "b"] {
        client.send(to(topic));
        assert!(matches!(client.body(), Body::Subscribed(_)), "the same again is no further one");
    }
    assert_eq!(hits(&engine), LimitHits::default());
    client.send(to("c"));
    let error = client.error();
    assert_eq!((error.code(), error.message.as_str()), (Code::LimitReached, "at most 2 subscriptions on a connection"));
    assert_eq!(hits(&engine), LimitHits { subscriptions: 1, ..LimitHits::default() });

    client.send(client_frame::Body::Unsubscribe(Unsubscribe { topic: "a".into() }));
    assert!(matches!(client.body(), Body::Unsubscribed(_)));
    client.send(to("c"));
    assert!(matches!(client.body(), Body::Subscribed(_)));
    end(engine);
}

#[test]
fn subscriptions_match_so_many_topics() {
    let engine = strict(|limits| limits.matched_topics = 2);
    let mut publisher = Client::hello(engine.local_addr());
    for topic in ["a/1", "a/2", "b"] {
        publisher.publish_records(topic, vec![keyed("k", "v")]);
    }
    let mut client = Client::hello(engine.local_addr());
    client.send(to("a/*"));
    let mut served = Vec::new();
    for _ in 0..4 {
        match client.body() {
            Body::Subscribed(subscribed) => served.push(subscribed.topic),
            Body::Patch(patch) => assert_eq!(patch.to, 1),
            other => panic!("{other:?}"),
        }
    }
    served.sort();
    assert_eq!(served, ["a/1", "a/2"]);
    assert_eq!(hits(&engine), LimitHits::default());

    // A topic that comes later is left out; that is said once.
    publisher.publish_records("a/3", vec![keyed("k", "v")]);
    let error = client.error();
    assert_eq!(error.code(), Code::LimitReached);
    assert_eq!(error.message, "subscriptions match more than 2 topics: the others are left out");
    assert_eq!(hits(&engine), LimitHits { matched_topics: 1, ..LimitHits::default() });
    publisher.publish_records("a/4", vec![keyed("k", "v")]);
    assert_eq!(hits(&engine), LimitHits { matched_topics: 2, ..LimitHits::default() });

    // Whoever asks for a topic that is left out is answered all the same.
    let request = client.send(to("b"));
    let frame = client.frame();
    let Some(Body::Error(error)) = frame.body else { panic!("{frame:?}") };
    assert_eq!((frame.request, error.code()), (request, Code::LimitReached));
    assert_eq!(hits(&engine), LimitHits { matched_topics: 3, ..LimitHits::default() });

    // Those that are served go on.
    publisher.publish_records("a/1", vec![keyed("k", "w")]);
    assert_eq!(client.patch().records[0].value, "w");
    end(engine);
}

#[test]
fn a_key_prefix_is_no_longer_than_a_key() {
    let engine = strict(|limits| limits.key_bytes = 3);
    let mut client = Client::hello(engine.local_addr());
    let with_prefix = |prefix: &'static str| {
        let subscribe = Subscribe { topic: "t".into(), key_prefix: prefix.into(), ..Subscribe::default() };
        client_frame::Body::Subscribe(subscribe)
    };
    client.send(with_prefix("abc"));
    assert!(matches!(client.body(), Body::Subscribed(_)));
    assert_eq!(hits(&engine), LimitHits::default());
    client.send(with_prefix("abcd"));
    assert_eq!(client.error().code(), Code::Invalid);
    assert_eq!(hits(&engine), LimitHits { key_bytes: 1, ..LimitHits::default() });
    end(engine);
}
