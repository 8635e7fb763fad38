//! What clients say must not change what operators see: log lines, and the number of metric series.

use std::io::Write as _;

use tidegate::protocol::wire::{self, client_frame};

use super::serve::Serve;
use super::support::raw::{CLOSE, FIN, Heard, Raw};
use super::support::{Client, keyed, read_head};

/// A line of its own in a log that takes it as it is, with colours, and what ends a string in C.
const FORGED: &str = "x\r\n2026-01-01T00:00:00Z ERROR forged\n\u{1b}[31mred\u{1b}[0m\u{0}\u{9b}2J\u{202e}\u{8}";

#[test]
fn nothing_that_a_client_says_makes_a_line_of_the_log_or_colours_one() {
    let server = Serve::start(&["env"], &[("TIDEGATE_LOG", "trace")]);
    // In heads, by bytes that a head may have, and by those that it may not.
    for header in
        ["User-Agent: a\tb\u{1b}[31m\u{9b}", "Origin: \u{1b}]0;title\u{7}", "X: a\rb", "Sec-WebSocket-Protocol: \u{1b}"]
    {
        let mut stream = Raw::tcp(server.address);
        let request = format!("GET /v1/ws?\u{1b}[31m HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it is open");
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 4"), "{header:?}");
    }
    // In every text of the protocol.
    let hello =
        wire::Hello { agent: FORGED.into(), session: FORGED.as_bytes()[..16].to_vec().into(), ..Default::default() };
    let (mut raw, _) = Raw::hello_with(server.address, hello);
    let text = || FORGED.to_owned();
    let bodies = [
        client_frame::Body::Subscribe(wire::Subscribe { topic: text(), ..Default::default() }),
        client_frame::Body::Unsubscribe(wire::Unsubscribe { topic: text() }),
        client_frame::Body::Publish(wire::Publish {
            topic: text(),
            records: vec![keyed("k", "v")],
            ..Default::default()
        }),
        client_frame::Body::Publish(wire::Publish {
            topic: "fine".into(),
            records: vec![keyed(FORGED, FORGED)],
            ..Default::default()
        }),
    ];
    for body in bodies {
        raw.send(1, body);
        raw.frame();
    }
    raw.send_frame(FIN | CLOSE, &[&1000_u16.to_be_bytes()[..], FORGED.as_bytes()].concat());
    assert_eq!(raw.closed(), 1000);
    let mut texting = Raw::hello(server.address);
    texting.send_frame(FIN | 1, FORGED.as_bytes());
    while !matches!(texting.hear(), Heard::End) {}
    let hello = wire::Hello { token: text(), ..Default::default() };
    let mut refused = Raw::connect(server.address);
    refused.send(1, client_frame::Body::Hello(hello));
    while !matches!(refused.hear(), Heard::End) {}
    // Or the server would wait for these to say that they heard its goodbye.
    drop((raw, texting, refused));

    let log = server.end();
    assert!(!log.contains("forged"), "what a client said is in the log: {log}");
    for line in log.lines() {
        let is_plain = line.chars().all(|char| !char.is_control() && char != '\u{202e}');
        assert!(is_plain && line.starts_with("20"), "{line:?}");
    }
    assert!(log.lines().count() > 1, "the log is empty: this looked at nothing");
}

#[test]
fn there_are_as_many_series_with_thousands_of_topics_as_with_ten() {
    let server = Serve::start(&["env"], &[]);
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    let mut publisher = Client::hello(server.address);
    let mut counts = Vec::new();
    for topics in [0..10, 10..5_000] {
        for topic in topics {
            publisher.publish_records(&format!("topic/{topic}"), vec![keyed("k", "v")]);
        }
        counts.push(series(&server.admin().metrics()));
    }
    assert_eq!(server.admin().value("tidegate_topics"), 5_000);
    assert!(counts[0] > 50 && counts[0] == counts[1], "{counts:?}");
    drop(publisher);
    server.end();
}
