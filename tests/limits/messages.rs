//! What a client sends: its request's head, its messages, its silence.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use tidegate::protocol::wire::{Code, Ping, Publish, Record, client_frame::Body, server_frame};
use tidegate::shard::LimitHits;

use super::support::raw::{BINARY, CONTINUATION, FIN, Heard, Raw, envelope, head, masked};
use super::support::{end, read_head};
use super::{hits, strict};

/// An envelope of exactly so many bytes.
fn envelope_of(len: usize) -> Vec<u8> {
    let with_value = |value: usize| {
        let record = Record { value: Bytes::from(vec![b'v'; value]), ..Record::default() };
        envelope(1, Body::Publish(Publish { topic: "t".into(), records: vec![record], ..Publish::default() }))
    };
    (0..len).map(with_value).find(|envelope| envelope.len() == len).expect("a value of the right length")
}

#[test]
fn a_message_has_so_many_bytes_and_fragments() {
    let engine = strict(|limits| (limits.message_bytes, limits.message_fragments) = (1_000, 4));
    let whole = envelope_of(1_000);
    let is_published = |client: &mut Raw| assert!(matches!(client.body(), server_frame::Body::Published(_)));

    let mut client = Raw::hello(engine.local_addr());
    client.send_frame(FIN | BINARY, &whole);
    is_published(&mut client);
    // As many fragments as there may be, the last one empty.
    client.send_frame(BINARY, &whole[..1]);
    client.send_frame(CONTINUATION, &whole[1..500]);
    client.send_frame(CONTINUATION, &whole[500..]);
    client.send_frame(FIN | CONTINUATION, &[]);
    is_published(&mut client);
    assert_eq!(hits(&engine), LimitHits::default());

    // Refused by its head alone.
    client.write(&head(FIN | BINARY, 1_001));
    assert_eq!(client.error(), (Code::TooLarge, "the message is too big".to_owned()));
    assert_eq!(client.closed(), 1009);

    let mut client = Raw::hello(engine.local_addr());
    client.send_frame(BINARY, &whole[..999]);
    client.write(&head(FIN | CONTINUATION, 2));
    assert_eq!(client.error(), (Code::TooLarge, "the message is too big".to_owned()));
    assert_eq!(client.closed(), 1009);
    assert_eq!(hits(&engine), LimitHits { message_bytes: 2, ..LimitHits::default() });

    let mut client = Raw::hello(engine.local_addr());
    client.send_frame(BINARY, &[]);
    (0..4).for_each(|_| client.send_frame(CONTINUATION, &[]));
    assert_eq!(client.error(), (Code::TooLarge, "the message has too many fragments".to_owned()));
    assert_eq!(client.closed(), 1009);
    assert_eq!(hits(&engine), LimitHits { message_bytes: 2, message_fragments: 1, ..LimitHits::default() });
    end(engine);
}

#[test]
fn a_message_arrives_in_so_long() {
    let engine = strict(|limits| limits.message_time = Duration::from_millis(300));
    let mut punctual = Raw::hello(engine.local_addr());
    let mut late = Raw::hello(engine.local_addr());
    let ping = envelope(3, Body::Ping(Ping::default()));
    punctual.send_frame(BINARY, &ping[..1]);
    late.send_frame(BINARY, &ping[..1]);
    punctual.send_frame(FIN | CONTINUATION, &ping[1..]);
    assert_eq!(punctual.frame().request, 3);
    assert_eq!(late.error(), (Code::Invalid, "a message took too long to arrive".to_owned()));
    assert_eq!(late.closed(), 1002);
    punctual.is_served();

    // The same within one frame, and within its head.
    for begun in [&masked(FIN | BINARY, &ping)[..9], &[FIN | BINARY]] {
        let mut late = Raw::hello(engine.local_addr());
        late.write(begun);
        assert_eq!(late.error().0, Code::Invalid);
        assert_eq!(late.closed(), 1002);
    }
    assert_eq!(hits(&engine), LimitHits { message_time: 3, ..LimitHits::default() });
    end(engine);
}

const UPGRADE: &str = "GET /v1/ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: tidegate.v1\r\n";

/// Sends a request; returns the status.
fn status(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("the engine reads");
    read_head(stream)[9..12].to_owned()
}

#[test]
fn a_head_has_so_many_bytes_and_headers() {
    let engine = strict(|limits| (limits.head_bytes, limits.head_headers) = (512, 8));
    let address = engine.local_addr();
    let padded = |len: usize| format!("{UPGRADE}X: {}\r\n\r\n", "x".repeat(len - UPGRADE.len() - 7));
    assert_eq!(padded(512).len(), 512);
    assert_eq!(status(&mut Raw::tcp(address), &padded(512)), "101");
    assert_eq!(status(&mut Raw::tcp(address), &format!("{UPGRADE}{}\r\n", "X: y\r\n".repeat(2))), "101");
    assert_eq!(hits(&engine), LimitHits::default());
    assert_eq!(status(&mut Raw::tcp(address), &padded(513)), "431");
    assert_eq!(hits(&engine), LimitHits { head_bytes: 1, ..LimitHits::default() });
    assert_eq!(status(&mut Raw::tcp(address), &format!("{UPGRADE}{}\r\n", "X: y\r\n".repeat(3))), "431");
    assert_eq!(hits(&engine), LimitHits { head_bytes: 1, head_headers: 1, ..LimitHits::default() });
    end(engine);
}

#[test]
fn a_head_arrives_in_so_long() {
    let engine = strict(|limits| limits.head_time = Duration::from_millis(300));
    let mut silent = Raw::tcp(engine.local_addr());
    let mut dripping = Raw::tcp(engine.local_addr());
    dripping.write_all(&UPGRADE.as_bytes()[..20]).expect("the engine reads");
    let mut punctual = Raw::tcp(engine.local_addr());
    punctual.write_all(&UPGRADE.as_bytes()[..20]).expect("the engine reads");
    assert_eq!(status(&mut punctual, &format!("{}\r\n", &UPGRADE[20..])), "101");
    assert_eq!(status(&mut silent, ""), "408");
    assert_eq!(status(&mut dripping, ""), "408");
    Raw { stream: punctual }.send_frame(FIN | BINARY, &envelope(1, Body::Hello(Default::default())));
    assert_eq!(hits(&engine), LimitHits { head_time: 2, ..LimitHits::default() });
    end(engine);
}

#[test]
fn hello_comes_in_so_long() {
    let engine = strict(|limits| limits.hello_time = Duration::from_millis(300));
    let mut polite = Raw::hello(engine.local_addr());
    let mut silent = Raw::connect(engine.local_addr());
    assert_eq!(silent.error(), (Code::HeartbeatTimeout, "Hello did not come in time".to_owned()));
    assert_eq!(silent.closed(), 4002);
    polite.is_served();
    assert_eq!(hits(&engine), LimitHits { hello_time: 1, ..LimitHits::default() });
    end(engine);
}

#[test]
fn pings_are_answered_in_so_long() {
    let engine = strict(|limits| {
        limits.heartbeat_interval = Duration::from_millis(100);
        limits.heartbeat_answer = Duration::from_millis(200);
        limits.stall_timeout = Duration::from_millis(300);
    });
    // Its TCP is alive, so it is told.
    let mut mute = Raw::hello(engine.local_addr());
    let mut alive = Raw::hello(engine.local_addr());
    let alive_until_the_end = std::thread::spawn(move || {
        loop {
            match alive.hear() {
                Heard::Ping(payload) => alive.send_frame(FIN | super::support::raw::PONG, &payload),
                Heard::Frame(frame) => break frame,
                other => panic!("{other:?}"),
            }
        }
    });
    assert_eq!(mute.go_away(), (Code::HeartbeatTimeout, true));
    assert_eq!(mute.closed(), 4001);
    assert_eq!(hits(&engine), LimitHits { stall_timeout: 1, ..LimitHits::default() });
    end(engine);
    let last = alive_until_the_end.join().expect("it was served");
    let Some(server_frame::Body::GoAway(go_away)) = last.body else { panic!("{last:?}") };
    assert_eq!(go_away.reason(), Code::ShuttingDown, "who answers stays to the end");
}

#[test]
fn a_session_without_subscriptions_says_something_in_so_long() {
    let engine = strict(|limits| limits.idle_timeout = Duration::from_millis(300));
    let mut subscriber = super::support::Client::hello(engine.local_addr());
    subscriber.send(Body::Subscribe(tidegate::protocol::wire::Subscribe { topic: "t".into(), ..Default::default() }));
    subscriber.body();
    let mut idle = Raw::hello(engine.local_addr());
    // Control frames do not count as saying something.
    idle.send_frame(FIN | super::support::raw::PONG, b"");
    let Some(server_frame::Body::GoAway(go_away)) = idle.frame().body else { panic!("it is told why") };
    assert_eq!((go_away.reason(), go_away.reconnect_after_ms > 0), (Code::Ok, true));
    assert_eq!(idle.closed(), 1000);
    assert_eq!(hits(&engine), LimitHits { idle_timeout: 1, ..LimitHits::default() });
    subscriber.publish_records("t", vec![super::support::event("still here")]);
    end(engine);
}

#[test]
fn a_connection_has_so_many_messages_a_second() {
    let engine = strict(|limits| (limits.messages_per_second, limits.message_burst) = (1, 5));
    let mut client = Raw::hello(engine.local_addr());
    // In one write, so that no second passes between them.
    let ping = |request| masked(FIN | BINARY, &envelope(request, Body::Ping(Ping::default())));
    client.write(&(1..=5).flat_map(ping).collect::<Vec<_>>());
    for request in 1..=5 {
        let frame = client.frame();
        assert!(frame.request == request && matches!(frame.body, Some(server_frame::Body::Pong(_))), "{frame:?}");
    }
    assert_eq!(hits(&engine), LimitHits::default());

    let mut client = Raw::hello(engine.local_addr());
    client.write(&(1..=11).flat_map(ping).collect::<Vec<_>>());
    (1..=5).for_each(|request| assert_eq!(client.frame().request, request));
    for request in 6..=10 {
        let frame = client.frame();
        let Some(server_frame::Body::Error(error)) = frame.body else { panic!("{frame:?}") };
        assert_eq!((frame.request, error.code()), (request, Code::RateLimited));
        assert_eq!(error.message, "at most 1 messages a second, 5 at once");
        assert!((1..=5_000).contains(&error.retry_after_ms), "{}", error.retry_after_ms);
    }
    let frame = client.frame();
    let Some(server_frame::Body::Error(error)) = frame.body else { panic!("{frame:?}") };
    assert_eq!((frame.request, error.code()), (11, Code::RateLimited));
    assert_eq!(error.message, "far too many messages");
    assert_eq!(client.closed(), 1008);
    assert_eq!(hits(&engine), LimitHits { messages_per_second: 6, ..LimitHits::default() });
    end(engine);
}

#[test]
fn a_publish_with_a_sequence_waits_instead_of_being_refused() {
    let engine = strict(|limits| (limits.messages_per_second, limits.message_burst) = (20, 2));
    let mut client = Raw::hello(engine.local_addr());
    let publish = |sequence| {
        let records = vec![super::support::event("e")];
        let publish = Publish { topic: "t".into(), records, sequence, ..Publish::default() };
        masked(FIN | BINARY, &envelope(sequence, Body::Publish(publish)))
    };
    client.write(&(1..=8).flat_map(publish).collect::<Vec<_>>());
    for sequence in 1..=8 {
        let frame = client.frame();
        let Some(server_frame::Body::Published(published)) = frame.body else { panic!("{frame:?}") };
        assert_eq!((frame.request, published.offset, published.duplicate), (sequence, sequence, false));
    }
    let hits = hits(&engine);
    assert!(hits.messages_per_second > 0);
    assert_eq!(LimitHits { messages_per_second: 0, ..hits }, LimitHits::default());
    end(engine);
}

#[test]
fn a_publish_of_too_many_records_uses_its_number_up_and_waits_if_it_has_one() {
    let engine = strict(|limits| {
        (limits.messages_per_second, limits.message_burst, limits.publish_records) = (20, 2, 3);
    });
    let mut client = Raw::hello(engine.local_addr());
    let publish = |records, sequence| {
        let records = vec![super::support::event("e"); records];
        let publish = Publish { topic: "t".into(), records, sequence, ..Publish::default() };
        masked(FIN | BINARY, &envelope(sequence + 10, Body::Publish(publish)))
    };
    client.write(&(1..=8).flat_map(|sequence| publish(4, sequence)).collect::<Vec<_>>());
    for sequence in 1..=8 {
        let frame = client.frame();
        let Some(server_frame::Body::Error(error)) = frame.body else { panic!("{frame:?}") };
        assert_eq!((frame.request, error.code()), (sequence + 10, Code::TooLarge));
        assert_eq!(error.message, "The publish has too many records.");
    }
    let mut published = |records, sequence| {
        client.write(&publish(records, sequence));
        let frame = client.frame();
        let Some(server_frame::Body::Published(published)) = frame.body else { panic!("{frame:?}") };
        assert_eq!(frame.request, sequence + 10);
        (published.offset, published.duplicate)
    };
    assert_eq!([published(1, 8), published(4, 8), published(1, 7)], [(0, true); 3]);
    assert_eq!(published(3, 9), (3, false), "nothing of what was refused was applied");
    let hits = hits(&engine);
    assert!(hits.messages_per_second > 0);
    assert_eq!(
        LimitHits { messages_per_second: 0, publish_records: 9, ..LimitHits::default() },
        LimitHits { messages_per_second: 0, ..hits }
    );
    end(engine);
}

#[test]
fn who_is_trusted_has_no_limit_on_messages_and_what_is_sent_again() {
    let engine = super::support::engine(|config| {
        (config.limits.messages_per_second, config.limits.message_burst) = (1, 1);
        config.limits.resent_bytes = 1;
    });
    let mut client = Raw::hello(engine.local_addr());
    (0..20).for_each(|_| client.is_served());
    let subscribe = tidegate::protocol::wire::Subscribe { topic: "t/*".into(), ..Default::default() };
    let publish = tidegate::protocol::wire::Publish {
        topic: "t/x".into(),
        records: vec![super::support::keyed("k", "v")],
        ..Default::default()
    };
    client.send(21, Body::Publish(publish));
    client.frame();
    for request in 22..30 {
        client.send(request, Body::Subscribe(subscribe.clone()));
        let frame = client.frame();
        assert!(matches!(frame.body, Some(server_frame::Body::Subscribed(_))), "{frame:?}");
        client.frame();
    }
    assert_eq!(hits(&engine), LimitHits::default());
    end(engine);
}
