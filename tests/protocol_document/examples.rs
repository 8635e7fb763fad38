//! The messages that the document shows.

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::encode_varint;
use tidegate::protocol::wire::{self, client_frame, server_frame};

/// The messages that the document shows, by the names of their blocks.
pub(crate) fn examples() -> Vec<(&'static str, Example)> {
    const EPOCH: u64 = 0x0b5e_55ed_7a1d_e6a7;
    let topic = "market/BTC-USD".to_owned();
    let publish = |request, records: Vec<wire::Record>, sequence| {
        let publish = wire::Publish { topic: topic.clone(), records, sequence, replace: false };
        client(request, client_frame::Body::Publish(publish))
    };
    let published = |request, offset, duplicate| {
        server(request, server_frame::Body::Published(wire::Published { offset, duplicate }))
    };
    let patch = |patch| server(0, server_frame::Body::Patch(patch));
    let session = Bytes::from_static(&[
        0x9f, 0x1c, 0x0e, 0x83, 0x2b, 0x77, 0x40, 0xd5, 0xa6, 0x31, 0x5c, 0xe8, 0x04, 0xba, 0x92, 0x6d,
    ]);
    vec![
        (
            "hello",
            client(
                1,
                client_frame::Body::Hello(wire::Hello {
                    agent: "example/1.0".into(),
                    credit_bytes: 96,
                    ..wire::Hello::default()
                }),
            ),
        ),
        (
            "welcome",
            server(
                1,
                server_frame::Body::Welcome(wire::Welcome {
                    session,
                    heartbeat_ms: 25_000,
                    max_message_bytes: 65_536,
                    server_time_us: 1_793_318_400_000_000,
                    server: "tidegate/0.1.0".into(),
                }),
            ),
        ),
        ("publish", publish(2, vec![state("bid", "100.0", 0), state("ask", "101.0", 0)], 1)),
        ("published", published(2, 2, false)),
        ("publish-again", publish(3, vec![state("bid", "100.5", 0)], 2)),
        ("published-again", published(3, 3, false)),
        (
            "subscribe",
            client(
                4,
                client_frame::Body::Subscribe(wire::Subscribe { topic: topic.clone(), ..wire::Subscribe::default() }),
            ),
        ),
        ("subscribed", server(4, server_frame::Body::Subscribed(subscribed(&topic, EPOCH, 3, false)))),
        (
            "snapshot",
            patch(wire::Patch {
                topic_id: 1,
                to: 3,
                records: vec![state("ask", "101.0", 2), state("bid", "100.5", 3)],
                reset: true,
                checksum: Some(term("ask", "101.0").wrapping_add(term("bid", "100.5"))),
                time_us: 1_793_318_400_120_000,
                ..wire::Patch::default()
            }),
        ),
        ("publish-delta", publish(0, vec![state("ask", "100.9", 0)], 3)),
        (
            "delta",
            patch(wire::Patch {
                topic_id: 1,
                from: 3,
                to: 4,
                records: vec![state("ask", "100.9", 4)],
                checksum: Some(term("ask", "100.9").wrapping_add(term("bid", "100.5"))),
                time_us: 1_793_318_400_350_000,
                ..wire::Patch::default()
            }),
        ),
        (
            "publish-burst",
            publish(
                5,
                vec![
                    state("bid", "100.6", 0),
                    wire::Record { window_ms: 20, ..event("hint", 0, wire::Priority::Unspecified) },
                    state("bid", "100.7", 0),
                    event("sold 2", 0, wire::Priority::High),
                ],
                4,
            ),
        ),
        ("published-burst", published(5, 8, false)),
        ("credit", client(0, client_frame::Body::Credit(wire::Credit { bytes: CREDIT }))),
        (
            "catching-up",
            patch(wire::Patch {
                topic_id: 1,
                from: 4,
                to: 8,
                records: vec![state("bid", "100.7", 7), event("sold 2", 8, wire::Priority::High)],
                expired: 1,
                checksum: Some(term("ask", "100.9").wrapping_add(term("bid", "100.7"))),
                time_us: 1_793_318_400_360_000,
                ..wire::Patch::default()
            }),
        ),
        ("duplicate", published(2, 0, true)),
        ("ping", client(6, client_frame::Body::Ping(wire::Ping { client_time_us: 1_793_318_401_000_000 }))),
        (
            "pong",
            server(
                6,
                server_frame::Body::Pong(wire::Pong {
                    client_time_us: 1_793_318_401_000_000,
                    server_time_us: 1_793_318_401_000_950,
                }),
            ),
        ),
        (
            "unsubscribe-unknown",
            client(7, client_frame::Body::Unsubscribe(wire::Unsubscribe { topic: "market/ETH-USD".into() })),
        ),
        (
            "error",
            server(
                7,
                server_frame::Body::Error(wire::Error {
                    code: wire::Code::NotFound.into(),
                    message: "there is no subscription of that name".into(),
                    retry_after_ms: 0,
                }),
            ),
        ),
        (
            "subscribe-resume",
            client(
                2,
                client_frame::Body::Subscribe(wire::Subscribe {
                    topic: topic.clone(),
                    resume: Some(wire::Position { epoch: EPOCH, offset: 4 }),
                    ..wire::Subscribe::default()
                }),
            ),
        ),
        ("resumed", server(2, server_frame::Body::Subscribed(subscribed(&topic, EPOCH, 8, true)))),
        (
            "go-away",
            server(
                0,
                server_frame::Body::GoAway(wire::GoAway {
                    reason: wire::Code::ShuttingDown.into(),
                    reconnect_after_ms: 2_381,
                }),
            ),
        ),
    ]
}

/// What the client confirms: the lengths of the frames `snapshot` and `delta`.
pub(crate) const CREDIT: u64 = 98;

fn client(request: u64, body: client_frame::Body) -> Example {
    Example::Client(wire::ClientFrame { request, body: Some(body) })
}

fn server(request: u64, body: server_frame::Body) -> Example {
    Example::Server(wire::ServerFrame { request, body: Some(body) })
}

/// A keyed record; with an offset, as a patch has it.
fn state(key: &'static str, value: &'static str, offset: u64) -> wire::Record {
    let priority = if offset > 0 { wire::Priority::Normal } else { wire::Priority::Unspecified };
    wire::Record { key: key.into(), ..event(value, offset, priority) }
}

fn event(value: &'static str, offset: u64, priority: wire::Priority) -> wire::Record {
    wire::Record { value: value.into(), priority: priority.into(), offset, ..wire::Record::default() }
}

fn subscribed(topic: &str, epoch: u64, head: u64, resumed: bool) -> wire::Subscribed {
    wire::Subscribed { topic_id: 1, topic: topic.to_owned(), epoch, head, resumed, matching: 1 }
}

/// As the document explains it.
fn term(key: &str, value: &str) -> u32 {
    let mut bytes = (key.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(key.as_bytes());
    bytes.extend_from_slice(value.as_bytes());
    crc32fast::hash(&bytes)
}

pub(crate) enum Example {
    Client(wire::ClientFrame),
    Server(wire::ServerFrame),
}

impl Example {
    pub(crate) fn message(&self) -> &'static str {
        match self {
            Self::Client(_) => "ClientFrame",
            Self::Server(_) => "ServerFrame",
        }
    }

    /// The bytes that travel. In a patch the checksum stands behind the numbers, and the records come last, since they
    /// are copied there as they stand in the log.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let frame = match self {
            Self::Client(frame) => return frame.encode_to_vec(),
            Self::Server(frame) => frame,
        };
        let Some(server_frame::Body::Patch(patch)) = &frame.body else { return frame.encode_to_vec() };
        let mut body = wire::Patch { records: Vec::new(), checksum: None, ..patch.clone() }.encode_to_vec();
        body.extend(wire::Patch { checksum: patch.checksum, ..wire::Patch::default() }.encode_to_vec());
        for record in &patch.records {
            body.push(4 << 3 | 2);
            encode_varint(record.encoded_len() as u64, &mut body);
            record.encode(&mut body).expect("a vector grows");
        }
        let mut bytes = vec![6 << 3 | 2];
        encode_varint(body.len() as u64, &mut bytes);
        bytes.extend(body);
        bytes
    }
}
