//! What is published: keys, values, records, topics, and what is kept of them.

use std::time::Duration;

use tidegate::config::Shards;
use tidegate::engine::Engine;
use tidegate::protocol::wire::{
    Code, Position, Priority, Publish, Record, Subscribe, client_frame::Body, server_frame,
};
use tidegate::shard::LimitHits;
use tidegate::topic::TopicClass;

use super::support::raw::{BINARY, FIN, Raw, envelope, masked};
use super::support::wait_until;
use super::support::{Client, end, engine, event, keyed};
use super::{hits, strict};

/// Publishes what must be refused; returns the code and the sentence.
fn refusal(client: &mut Client, topic: &str, records: Vec<Record>) -> (Code, String) {
    client.send(Body::Publish(Publish { topic: topic.into(), records, ..Publish::default() }));
    let error = client.error();
    (error.code(), error.message)
}

#[test]
fn keys_values_and_publishes_are_so_large() {
    let engine = strict(|limits| (limits.key_bytes, limits.value_bytes, limits.publish_records) = (3, 4, 2));
    let mut client = Client::hello(engine.local_addr());
    assert_eq!(client.publish_records("t", vec![keyed("key", "four"), event("four")]).offset, 2);
    assert_eq!(hits(&engine), LimitHits::default());

    let long_key = refusal(&mut client, "t", vec![keyed("keys", "v")]);
    assert_eq!(long_key, (Code::Invalid, "the key has 4 bytes, the limit is 3".to_owned()));
    let mut expected = LimitHits { key_bytes: 1, ..LimitHits::default() };
    assert_eq!(hits(&engine), expected);

    let large_value = refusal(&mut client, "t", vec![event("ok"), event("large")]);
    assert_eq!(large_value, (Code::TooLarge, "the value has 5 bytes, the limit is 4".to_owned()));
    expected.value_bytes = 1;
    assert_eq!(hits(&engine), expected);

    let many_records = refusal(&mut client, "t", vec![event("e"); 3]);
    assert_eq!(many_records, (Code::TooLarge, "The publish has too many records.".to_owned()));
    expected.publish_records = 1;
    assert_eq!(hits(&engine), expected);

    // Nothing of what was refused was applied, and the connection goes on.
    assert_eq!(client.publish_records("t", vec![event("e")]).offset, 3);
    end(engine);
}

#[test]
fn there_are_so_many_topics() {
    let engine = strict(|limits| limits.topics = 2);
    let mut client = Client::hello(engine.local_addr());
    client.publish_records("a", vec![keyed("k", "v")]);
    client.publish_records("b", vec![keyed("k", "v")]);
    assert_eq!(hits(&engine), LimitHits::default());
    let refused = refusal(&mut client, "c", vec![keyed("k", "v")]);
    assert_eq!(refused, (Code::LimitReached, "there are 2 topics, as many as there may be".to_owned()));
    assert_eq!(hits(&engine), LimitHits { topics: 1, ..LimitHits::default() });
    assert_eq!(client.publish_records("b", vec![keyed("k", "w")]).offset, 2);
    end(engine);
}

#[test]
fn what_is_refused_creates_no_topic() {
    for shards in [1, 4] {
        let engine = engine(|config| {
            config.shards = Shards::Count(shards);
            config.classes = vec![TopicClass { keys: 1, ..TopicClass::catch_all() }];
            (config.limits.key_bytes, config.limits.value_bytes, config.limits.publish_records) = (3, 4, 2);
        });
        let mut subscriber = Client::hello(engine.local_addr());
        subscriber.send(Body::Subscribe(Subscribe { topic: "**".into(), ..Subscribe::default() }));
        let server_frame::Body::Subscribed(answer) = subscriber.body() else { panic!("no Subscribed") };
        assert_eq!((answer.topic_id, answer.matching), (0, 0));
        let mut client = Client::hello(engine.local_addr());
        let two_keys = || vec![keyed("a", "1"), keyed("b", "1")];
        let unseen = |topic: &str, records, replace| Publish { topic: topic.into(), records, sequence: 0, replace };
        let publishes = [
            (unseen("r/1", vec![keyed("keys", "v")], false), Code::Invalid),
            (unseen("r/2", vec![event("large")], false), Code::TooLarge),
            (unseen("r/3", vec![], false), Code::Invalid),
            (unseen("r/4", vec![event("e"); 3], false), Code::TooLarge),
            (unseen("r/5", vec![event("e")], true), Code::Invalid),
            (unseen("r/6", two_keys(), false), Code::LimitReached),
            (unseen("r/7", two_keys(), true), Code::LimitReached),
        ];
        for (publish, code) in publishes {
            let topic = publish.topic.clone();
            let request = client.send(Body::Publish(publish));
            let frame = client.frame();
            let Some(server_frame::Body::Error(error)) = frame.body else { panic!("{topic}: {frame:?}") };
            assert_eq!((frame.request, error.code()), (request, code), "{topic}");
        }
        assert_eq!(
            hits(&engine),
            LimitHits { key_bytes: 1, value_bytes: 1, publish_records: 1, keys: 2, ..LimitHits::default() }
        );
        assert_eq!(engine.report().expect("the shards answer").gauges.topics, 0);
        // The first that is taken is the first that a subscriber hears of.
        client.publish_records("r/8", vec![keyed("a", "1")]);
        let server_frame::Body::Subscribed(first) = subscriber.body() else { panic!("no Subscribed") };
        assert_eq!(first.topic, "r/8");
        assert_eq!(subscriber.patch().to, 1);
        end(engine);
    }
}

/// An engine with one class of topics.
fn with_class(class: TopicClass) -> Engine {
    engine(|config| config.classes = vec![class])
}

#[test]
fn a_topic_has_so_many_keys() {
    let engine = with_class(TopicClass { keys: 2, ..TopicClass::catch_all() });
    let mut client = Client::hello(engine.local_addr());
    client.publish_records("t", vec![keyed("a", "1"), keyed("b", "1")]);
    assert_eq!(client.publish_records("t", vec![keyed("a", "2")]).offset, 3);
    assert_eq!(hits(&engine), LimitHits::default());
    let refused = refusal(&mut client, "t", vec![keyed("c", "1")]);
    assert_eq!(refused, (Code::LimitReached, "the topic would have more than 2 keys".to_owned()));
    assert_eq!(hits(&engine), LimitHits { keys: 1, ..LimitHits::default() });
    let delete = Record { delete: true, ..keyed("a", "") };
    assert_eq!(client.publish_records("t", vec![keyed("c", "1"), delete]).offset, 5, "one goes as one comes");
    end(engine);
}

/// Publishes one event, then a critical and four others, and resumes behind the first: what the patch says of the rest.
fn late_for_six_events(engine: &Engine, wait: impl Fn(&Engine)) -> (usize, u64, u64) {
    let mut publisher = Client::hello(engine.local_addr());
    publisher.publish_records("t", vec![event("1")]);
    let (subscribed, _) = Client::hello(engine.local_addr()).subscribe_to("t");
    let critical = Record { priority: Priority::Critical.into(), ..event("2") };
    publisher.publish_records("t", vec![critical, event("3"), event("4"), event("5"), event("6")]);
    wait(engine);
    let resume = Some(Position { epoch: subscribed.epoch, offset: 1 });
    let subscribe = Subscribe { topic: "t".into(), resume, ..Subscribe::default() };
    let (again, patch) = Client::hello(engine.local_addr()).subscribe(subscribe);
    assert!(again.resumed && !patch.reset);
    assert_eq!((patch.from, patch.to), (1, 6));
    assert_eq!(patch.records.len() as u64 + patch.overrun + patch.lost, 5, "every one is accounted for: {patch:?}");
    wait_until("the ledger has the patch", || {
        let ledger = engine.report().expect("the shard answers").counters.classes[0].ledger;
        (ledger.overrun, ledger.lost) == (patch.overrun, patch.lost)
    });
    (patch.records.len(), patch.overrun, patch.lost)
}

#[test]
fn a_topic_keeps_so_many_events() {
    let kept = |class| {
        let engine = with_class(class);
        let outcome = late_for_six_events(&engine, |_| {});
        end(engine);
        outcome
    };
    assert_eq!(kept(TopicClass { events: 5, ..TopicClass::catch_all() }), (5, 0, 0));
    assert_eq!(kept(TopicClass { events: 4, ..TopicClass::catch_all() }), (4, 0, 1), "the oldest is the critical one");
    assert_eq!(kept(TopicClass { events: 3, ..TopicClass::catch_all() }), (3, 1, 1));
}

#[test]
fn a_topic_keeps_so_many_bytes_of_events() {
    let kept = |event_bytes| {
        let engine = with_class(TopicClass { event_bytes, ..TopicClass::catch_all() });
        let outcome = late_for_six_events(&engine, |_| {});
        end(engine);
        outcome
    };
    // Which bytes an event costs is the log's affair: fewer of them keep fewer events, and never less than none.
    let all = (1..1_000).find(|bytes| kept(*bytes) == (5, 0, 0)).expect("a few bytes keep all");
    assert_eq!(kept(all - 1), (4, 0, 1));
    assert_eq!(kept(1), (0, 4, 1));
}

#[test]
fn a_topic_keeps_events_for_so_long() {
    let engine = with_class(TopicClass { event_age: Duration::from_millis(100), ..TopicClass::catch_all() });
    let outcome = late_for_six_events(&engine, |engine| {
        wait_until("the events are gone", || engine.report().expect("the shard answers").gauges.events == 0);
    });
    assert_eq!(outcome, (0, 4, 1));
    end(engine);
}

#[test]
fn so_many_sequences_are_remembered() {
    // The limit is each shard's.
    let engine = engine(|config| {
        config.shards = Shards::Count(1);
        config.limits.sequences = 2;
    });
    let mut client = Client::hello(engine.local_addr());
    let publish = |topic: &str| Publish { topic: topic.into(), records: vec![event("e")], sequence: 1, replace: false };
    client.publish(publish("a"));
    client.publish(publish("b"));
    assert!(client.publish(publish("a")).duplicate);
    assert_eq!(hits(&engine), LimitHits::default());
    client.publish(publish("c"));
    assert_eq!(hits(&engine), LimitHits { sequences: 1, ..LimitHits::default() });
    assert!(client.publish(publish("c")).duplicate);
    end(engine);
}

#[test]
fn publishers_wait_while_many_bytes_of_events_are_not_flushed() {
    let engine = strict(|limits| limits.unflushed_event_bytes = 1_000);
    let mut client = Raw::hello(engine.local_addr());
    let publish = |request| {
        let publish = Publish { topic: "t".into(), records: vec![event(&"x".repeat(300))], ..Publish::default() };
        masked(FIN | BINARY, &envelope(request, Body::Publish(publish)))
    };
    let published = |client: &mut Raw, request| {
        let frame = client.frame();
        let Some(server_frame::Body::Published(published)) = frame.body else { panic!("{frame:?}") };
        assert_eq!((frame.request, published.offset), (request, request));
    };
    client.write(&(1..=3).flat_map(publish).collect::<Vec<_>>());
    (1..=3).for_each(|request| published(&mut client, request));
    assert_eq!(hits(&engine), LimitHits::default());
    client.write(&(4..=40).flat_map(publish).collect::<Vec<_>>());
    (4..=40).for_each(|request| published(&mut client, request));
    let hits = hits(&engine);
    assert!(hits.unflushed_event_bytes > 0, "they came in few pieces, each far beyond the limit");
    assert_eq!(LimitHits { unflushed_event_bytes: 0, ..hits }, LimitHits::default());
    end(engine);
}
