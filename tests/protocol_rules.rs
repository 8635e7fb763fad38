//! The rules of `docs/protocol.md` that concern how a connection and its subscriptions behave, section by section.

mod support;

use bytes::Bytes;
use support::{Client, end, engine, event, keyed};
use tidegate::protocol::wire::{self, Code, client_frame, server_frame::Body};
use tungstenite::Message;

fn subscribe(topic: &str) -> wire::Subscribe {
    wire::Subscribe { topic: topic.to_owned(), ..wire::Subscribe::default() }
}

fn subscribed(client: &mut Client) -> wire::Subscribed {
    match client.body() {
        Body::Subscribed(subscribed) => subscribed,
        other => panic!("no Subscribed but {other:?}"),
    }
}

/// The `Error` that comes next, and how the connection ends behind it: its request, its code, the close code.
fn refused(client: &mut Client) -> (u64, Code, u16) {
    let frame = client.frame();
    let Some(Body::Error(error)) = frame.body else { panic!("no Error but {:?}", frame.body) };
    (frame.request, error.code(), client.try_frame().expect_err("it is closed").code())
}

// Connecting

#[test]
fn the_first_frame_is_hello_and_frames_are_binary() {
    let engine = engine(|_| {});
    let mut hasty = Client::connect(engine.local_addr());
    let request = hasty.send(client_frame::Body::Ping(wire::Ping::default()));
    assert_eq!(refused(&mut hasty), (request, Code::Invalid, 1002));

    let mut textual = Client::hello(engine.local_addr());
    textual.socket.send(Message::Text("{}".into())).expect("the connection is open");
    assert_eq!(refused(&mut textual), (0, Code::Invalid, 1003), "it is no frame that could be answered");

    // A first frame that cannot be read names its request all the same, as far as that could.
    let mut garbled = Client::connect(engine.local_addr());
    garbled.socket.send(Message::Binary(Bytes::from_static(&[0x08, 9, 0x12, 0x7F]))).expect("the connection is open");
    assert_eq!(refused(&mut garbled), (9, Code::Invalid, 1002));
    end(engine);
}

#[test]
fn a_token_is_refused_where_none_can_be_checked() {
    let engine = engine(|_| {});
    let mut client = Client::connect(engine.local_addr());
    client.next_request = 5;
    let hello = wire::Hello { token: "x.y.z".into(), ..wire::Hello::default() };
    client.send(client_frame::Body::Hello(hello));
    assert_eq!(refused(&mut client), (5, Code::Unauthenticated, 4502));
    end(engine);
}

#[test]
fn a_session_of_another_length_is_refused_as_the_answer_to_its_hello() {
    let engine = engine(|_| {});
    let mut client = Client::connect(engine.local_addr());
    client.next_request = 6;
    let hello = wire::Hello { session: Bytes::from_static(&[7; 15]), ..wire::Hello::default() };
    client.send(client_frame::Body::Hello(hello));
    assert_eq!(refused(&mut client), (6, Code::Invalid, 1002));
    end(engine);
}

#[test]
fn who_shows_the_session_of_a_connection_that_stands_has_it_even_if_nothing_was_published() {
    let engine = engine(|_| {});
    let (mut first, welcome) = Client::hello_with(engine.local_addr(), wire::Hello::default());
    let hello = wire::Hello { session: welcome.session.clone(), ..wire::Hello::default() };
    let (second, again) = Client::hello_with(engine.local_addr(), hello.clone());
    assert_eq!(again.session, welcome.session, "no sequence of it is forgotten");
    let Body::GoAway(go_away) = first.body() else { panic!("no GoAway") };
    assert_eq!(go_away.reason(), Code::TakenOver);
    assert_eq!(first.try_frame().expect_err("it is closed").code(), 4500);

    // Once nobody holds it nothing is known of it.
    drop((first, second));
    let begun = std::time::Instant::now();
    while engine.report().expect("the shards answer").gauges.connections > 0 {
        assert!(begun.elapsed() < support::LIMIT, "both are gone");
        std::thread::yield_now();
    }
    let (_third, fresh) = Client::hello_with(engine.local_addr(), hello);
    assert_ne!(fresh.session, welcome.session);
    end(engine);
}

#[test]
fn a_session_is_taken_over_and_kept_only_if_its_sequences_are_known() {
    let engine = engine(|_| {});
    let (mut first, welcome) = Client::hello_with(engine.local_addr(), wire::Hello::default());
    let publish = |sequence| wire::Publish {
        topic: "a".into(),
        records: vec![keyed("k", "v")],
        sequence,
        ..wire::Publish::default()
    };
    first.publish(publish(1));
    let hello = wire::Hello { session: welcome.session.clone(), ..wire::Hello::default() };
    let (mut second, again) = Client::hello_with(engine.local_addr(), hello);
    assert_eq!(again.session, welcome.session);
    let Body::GoAway(go_away) = first.body() else { panic!("no GoAway") };
    assert_eq!((go_away.reason(), go_away.reconnect_after_ms), (Code::TakenOver, 0));
    assert_eq!(first.try_frame().expect_err("it is closed").code(), 4500);
    // The last one is answered as it was, an older one without its offset, a newer one is applied.
    assert_eq!(second.publish(publish(1)), wire::Published { offset: 1, duplicate: true });
    assert_eq!(second.publish(publish(7)), wire::Published { offset: 2, duplicate: false });
    assert_eq!(second.publish(publish(6)), wire::Published { offset: 0, duplicate: true });

    let unknown = wire::Hello { session: Bytes::from_static(&[7; 16]), ..wire::Hello::default() };
    let (_third, welcome) = Client::hello_with(engine.local_addr(), unknown);
    assert_ne!(welcome.session[..], [7; 16]);
    end(engine);
}

// Topics and subscribing

#[test]
fn an_answer_for_each_topic_that_matches_and_a_patch_behind_each() {
    let engine = engine(|_| {});
    let mut client = Client::hello(engine.local_addr());
    for topic in ["m/a", "m/b", "m/c/d"] {
        client.publish_records(topic, vec![keyed("k", "v")]);
    }
    let request = client.send(client_frame::Body::Subscribe(subscribe("m/*")));
    let mut topics = Vec::new();
    for _ in 0..2 {
        let frame = client.frame();
        assert_eq!(frame.request, request);
        let Some(Body::Subscribed(subscribed)) = frame.body else { panic!("no Subscribed") };
        assert_eq!((subscribed.matching, subscribed.resumed), (2, false));
        let patch = client.patch();
        assert_eq!((patch.topic_id, patch.reset), (subscribed.topic_id, true));
        topics.push(subscribed.topic);
    }
    topics.sort();
    assert_eq!(topics, ["m/a", "m/b"]);

    // One that comes later says with how many it is there, also if another subscription serves it.
    client.subscribe_to("m/b");
    let mut publisher = Client::hello(engine.local_addr());
    publisher.publish_records("m/e", vec![keyed("k", "v")]);
    let frame = client.frame();
    let Some(Body::Subscribed(later)) = frame.body else { panic!("no Subscribed but {:?}", frame.body) };
    assert_eq!((frame.request, later.topic.as_str(), later.matching), (0, "m/e", 3));
    client.patch();
    end(engine);
}

#[test]
fn an_overlapping_subscription_is_answered_and_changes_nothing() {
    let engine = engine(|_| {});
    let mut client = Client::hello(engine.local_addr());
    client.publish_records("m/a", vec![keyed("k", "1")]);
    client.subscribe_to("m/a");
    let (overlapping, patch) = client.subscribe(wire::Subscribe { max_hz: 1, ..subscribe("m/*") });
    assert!(overlapping.resumed);
    assert_eq!((patch.from, patch.to, patch.reset, patch.records.len()), (1, 1, false, 0));
    assert!(patch.checksum.is_some());
    Client::hello(engine.local_addr()).publish_records("m/b", vec![keyed("k", "1")]);
    assert_eq!(subscribed(&mut client).matching, 2);
    client.patch();

    // Once the first is gone, the next one serves the topic, anew.
    client.send(client_frame::Body::Unsubscribe(wire::Unsubscribe { topic: "m/a".into() }));
    let Body::Unsubscribed(unsubscribed) = client.body() else { panic!("no Unsubscribed") };
    assert_eq!((unsubscribed.topic.as_str(), unsubscribed.reason()), ("m/a", Code::Ok));
    let next = subscribed(&mut client);
    assert_eq!((next.resumed, next.matching), (false, 2), "of those that the pattern matches");
    let patch = client.patch();
    assert_eq!((patch.from, patch.to, patch.reset), (0, 1, true));
    end(engine);
}

#[test]
fn the_same_string_again_starts_anew_with_the_new_options() {
    let engine = engine(|_| {});
    let mut client = Client::hello(engine.local_addr());
    client.publish_records("m/a", vec![keyed("a", "1"), keyed("b", "2"), event("e")]);
    let (_, patch) = client.subscribe_to("m/a");
    assert_eq!(patch.records.len(), 3);
    let filtered = wire::Subscribe { key_prefix: Bytes::from_static(b"b"), events_only_new: true, ..subscribe("m/a") };
    let (again, patch) = client.subscribe(filtered);
    assert!(!again.resumed && patch.reset);
    // The other key and the event from before are held back, and without the whole state there is no checksum.
    assert_eq!((patch.to, patch.records.len(), patch.filtered, patch.checksum), (3, 1, 2, None));
    end(engine);
}

// Resuming

#[test]
fn a_position_that_is_gone_starts_anew_and_a_pattern_has_none() {
    let engine = engine(|_| {});
    let mut client = Client::hello(engine.local_addr());
    client.publish_records("a", vec![keyed("k", "1"), keyed("k", "2")]);
    let (answer, _) = client.subscribe_to("a");
    let resumed_at = |epoch, offset| {
        let mut other = Client::hello(engine.local_addr());
        let resume = Some(wire::Position { epoch, offset });
        let (answer, patch) = other.subscribe(wire::Subscribe { resume, ..subscribe("a") });
        (answer.resumed, patch.reset, patch.from, patch.to)
    };
    assert_eq!(resumed_at(answer.epoch, 1), (true, false, 1, 2));
    assert_eq!(resumed_at(answer.epoch, 2), (true, false, 2, 2), "a patch follows, even an empty one");
    assert_eq!(resumed_at(answer.epoch, 3), (false, true, 0, 2), "above the head");
    assert_eq!(resumed_at(answer.epoch + 1, 1), (false, true, 0, 2), "another epoch");

    let resume = Some(wire::Position { epoch: answer.epoch, offset: 1 });
    client.send(client_frame::Body::Subscribe(wire::Subscribe { resume, ..subscribe("*") }));
    assert_eq!(client.error().code(), Code::Invalid);
    end(engine);
}

// Publishing

#[test]
fn replace_appends_what_changed_deletes_first() {
    let engine = engine(|_| {});
    let mut client = Client::hello(engine.local_addr());
    client.publish_records("a", vec![keyed("gone", "1"), keyed("same", "2"), keyed("other", "3")]);
    client.subscribe_to("a");
    let replace = |records| wire::Publish { topic: "a".into(), records, replace: true, ..wire::Publish::default() };
    client.send(client_frame::Body::Publish(replace(vec![keyed("same", "2"), keyed("other", "4")])));
    let mut frames = [client.body(), client.body()];
    frames.sort_by_key(|body| matches!(body, Body::Patch(_)));
    let [Body::Published(published), Body::Patch(patch)] = frames else { panic!("other frames") };
    assert_eq!(published.offset, 5);
    let records: Vec<_> = patch.records.iter().map(|record| (&record.key[..], record.delete)).collect();
    assert_eq!(records, [(&b"gone"[..], true), (b"other", false)]);

    client.send(client_frame::Body::Publish(replace(vec![event("e")])));
    assert_eq!(client.error().code(), Code::Invalid);
    client.send(client_frame::Body::Publish(replace(vec![])));
    let frames = [client.body(), client.body()];
    let patch = frames.into_iter().find_map(|body| if let Body::Patch(patch) = body { Some(patch) } else { None });
    let patch = patch.expect("every key is deleted");
    assert!(patch.records.iter().all(|record| record.delete) && patch.checksum == Some(0), "{patch:?}");
    end(engine);
}

#[test]
fn a_lasting_refusal_uses_its_number_up() {
    let engine = engine(|_| {});
    let mut client = Client::hello(engine.local_addr());
    let publish = |records| wire::Publish { topic: "a".into(), records, sequence: 3, ..wire::Publish::default() };
    let bad = wire::Record { delete: true, ..wire::Record::default() };
    client.send(client_frame::Body::Publish(publish(vec![bad])));
    assert_eq!(client.error().code(), Code::Invalid);
    assert_eq!(client.publish(publish(vec![keyed("k", "v")])), wire::Published { offset: 0, duplicate: true });
    end(engine);
}

// Flow control, errors

#[test]
fn credit_is_for_those_who_asked_for_it() {
    let engine = engine(|_| {});
    let mut client = Client::hello(engine.local_addr());
    let request = client.send(client_frame::Body::Credit(wire::Credit { bytes: 1 }));
    let frame = client.frame();
    let Some(Body::Error(error)) = frame.body else { panic!("no Error") };
    assert_eq!((error.code(), frame.request), (Code::Invalid, request));
    end(engine);
}

#[test]
fn a_malformed_message_is_answered_and_the_connection_goes_on() {
    let engine = engine(|_| {});
    let mut client = Client::hello(engine.local_addr());
    client.socket.send(Message::Binary(Bytes::from_static(&[0xFF; 3]))).expect("the connection is open");
    assert_eq!(client.error().code(), Code::Invalid);
    client.send(client_frame::Body::Hello(wire::Hello::default()));
    assert_eq!(client.error().code(), Code::Invalid, "Hello is said once");
    client.send(client_frame::Body::Ping(wire::Ping { client_time_us: 5 }));
    let Body::Pong(pong) = client.body() else { panic!("no Pong") };
    assert_eq!(pong.client_time_us, 5);
    end(engine);
}
