//! `docs/protocol.md` is held to what it says: its bytes are decoded, its checksum and counts are worked out again, and
//! its session is played against a real engine.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{decode_varint, encode_varint};
use support::{Client, end, engine};
use tidegate::config::Shards;
use tidegate::protocol::CloseCode;
use tidegate::protocol::wire::{self, client_frame, server_frame};
use tungstenite::Message;

const DOCUMENT: &str = include_str!("../docs/protocol.md");
const CONTRACT: &str = include_str!("../proto/tidegate/v1/tidegate.proto");

/// Fields that differ from run to run.
const RANDOM: [&str; 8] = [
    "ServerFrame.welcome.session",
    "ServerFrame.welcome.server_time_us",
    "ServerFrame.welcome.server",
    "ServerFrame.subscribed.epoch",
    "ServerFrame.patch.time_us",
    "ServerFrame.pong.server_time_us",
    "ServerFrame.go_away.reconnect_after_ms",
    "ClientFrame.subscribe.resume.epoch",
];

#[test]
fn every_hex_block_is_the_message_that_it_is_named_after() {
    let blocks = hex_blocks();
    let schema = Schema::of(CONTRACT);
    let examples = examples();
    let names = |names: Vec<&str>| {
        let mut names: Vec<_> = names.into_iter().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(
        names(blocks.keys().map(String::as_str).collect()),
        names(examples.iter().map(|(name, _)| *name).collect()),
        "blocks of the document, and examples of this test"
    );
    let mut corrections = String::new();
    for (name, example) in &examples {
        let expected = schema.annotated(example.message(), &example.encode());
        if blocks[*name].text != expected {
            corrections += &format!("```hex {name}\n{expected}```\n");
        }
    }
    assert!(corrections.is_empty(), "these blocks should be:\n{corrections}");
    for (name, example) in &examples {
        let bytes = Bytes::from(blocks[*name].bytes.clone());
        match example {
            Example::Client(frame) => assert_eq!(wire::ClientFrame::decode(bytes).as_ref(), Ok(frame), "{name}"),
            Example::Server(frame) => assert_eq!(wire::ServerFrame::decode(bytes).as_ref(), Ok(frame), "{name}"),
        }
    }
}

#[test]
fn the_checksum_is_worked_out_right() {
    let block = block_of("checksum");
    let mut sum = 0_u32;
    let mut stated_sum = None;
    for line in block.lines() {
        let (before, stated) = line.split_once("0x").expect("each line ends with a number");
        let stated = u32::from_str_radix(stated.split_whitespace().next().expect("digits"), 16).expect("hexadecimal");
        let (bytes, _) = hex_of(before);
        if bytes.is_empty() {
            stated_sum = Some(stated);
        } else {
            assert_eq!(crc32fast::hash(&bytes), stated, "{line}");
            sum = sum.wrapping_add(stated);
        }
    }
    assert_eq!(stated_sum, Some(sum));
    assert_eq!(patch_of("snapshot").checksum, Some(sum), "the snapshot's");
}

#[test]
fn the_counts_of_each_patch_add_up_as_the_document_says() {
    for (name, conflated) in [("snapshot", 1), ("delta", 0), ("catching-up", 1)] {
        let patch = patch_of(name);
        let counts = [
            (patch.records.len() as u64, "records"),
            (conflated, "conflated"),
            (patch.filtered, "filtered"),
            (patch.expired, "expired"),
            (patch.overrun, "overrun"),
            (patch.lost, "lost"),
        ];
        assert_eq!(patch.to - patch.from, counts.iter().map(|(count, _)| count).sum::<u64>(), "{name}");
        let sum: Vec<_> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        let equation = format!("{} - {} = {}", patch.to, patch.from, sum.join(" + "));
        assert!(DOCUMENT.contains(&equation), "the document should say of `{name}`: {equation}");
    }
}

#[test]
fn the_table_of_close_codes_says_who_comes_back() {
    let mut rows = 0;
    for line in DOCUMENT.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, code, _, reconnect, _] = cells[..] else { continue };
        let Some(code) = code.parse().ok().filter(|code| *code >= 1000) else { continue };
        assert_eq!(reconnect.starts_with("yes"), CloseCode(code).invites_reconnect(), "{line}");
        rows += 1;
    }
    assert!(rows >= 15, "only {rows} rows of close codes were found");
}

/// Sends the document's own bytes, and compares what the engine answers with the document's.
#[test]
fn the_session_of_the_document_happens_so() {
    // Topics are numbered from 1 where there is one shard.
    let engine = engine(|config| config.shards = Shards::Count(1));
    let mut client = Client::connect(engine.local_addr());
    let mut played = Played { blocks: hex_blocks(), schema: Schema::of(CONTRACT) };

    played.say(&mut client, "hello");
    played.hear(&mut client, "welcome");
    played.say(&mut client, "publish");
    played.hear(&mut client, "published");
    played.say(&mut client, "publish-again");
    played.hear(&mut client, "published-again");
    played.say(&mut client, "subscribe");
    let subscribed = played.hear(&mut client, "subscribed");
    played.hear(&mut client, "snapshot");
    played.say(&mut client, "publish-delta");
    played.hear(&mut client, "delta");

    // The credit is used up: what is published now waits at its cursor, until there is more.
    played.say(&mut client, "publish-burst");
    played.hear(&mut client, "published-burst");
    std::thread::sleep(Duration::from_millis(60));
    played.say(&mut client, "credit");
    played.hear(&mut client, "catching-up");

    played.say(&mut client, "publish");
    played.hear(&mut client, "duplicate");
    played.say(&mut client, "ping");
    played.hear(&mut client, "pong");
    played.say(&mut client, "unsubscribe-unknown");
    played.hear(&mut client, "error");

    let Some(server_frame::Body::Subscribed(subscribed)) = subscribed.body else { panic!("no Subscribed") };
    let mut other = Client::hello(engine.local_addr());
    let mut resume = wire::ClientFrame::decode(&*played.blocks["subscribe-resume"].bytes).expect("decoded before");
    let Some(client_frame::Body::Subscribe(subscribe)) = &mut resume.body else { panic!("no Subscribe") };
    subscribe.resume.as_mut().expect("the example has a position").epoch = subscribed.epoch;
    other.socket.send(Message::Binary(resume.encode_to_vec().into())).expect("the connection is open");
    played.hear(&mut other, "resumed");
    let patch = other.patch();
    assert_eq!((patch.from, patch.to, patch.reset), (4, 8, false), "what was missed, and nothing else");

    let shutdown = std::thread::spawn(move || end(engine));
    played.hear(&mut client, "go-away");
    assert_eq!(client.try_frame().expect_err("the connection ends").code(), 1001);
    drop((client, other));
    shutdown.join().expect("the engine shuts down");
}

/// The messages that the document shows, by the names of their blocks.
fn examples() -> Vec<(&'static str, Example)> {
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
const CREDIT: u64 = 98;

#[test]
fn the_credit_is_the_length_of_the_patches_before_it() {
    let blocks = hex_blocks();
    let length: usize = ["snapshot", "delta"].iter().map(|name| blocks[*name].bytes.len()).sum();
    assert_eq!(length as u64, CREDIT);
}

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

enum Example {
    Client(wire::ClientFrame),
    Server(wire::ServerFrame),
}

impl Example {
    fn message(&self) -> &'static str {
        match self {
            Self::Client(_) => "ClientFrame",
            Self::Server(_) => "ServerFrame",
        }
    }

    /// The bytes that travel. In a patch the checksum stands behind the numbers, and the records come last, since they
    /// are copied there as they stand in the log.
    fn encode(&self) -> Vec<u8> {
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

/// The document's session, as far as it was played.
struct Played {
    blocks: BTreeMap<String, Block>,
    schema: Schema,
}

impl Played {
    fn say(&mut self, client: &mut Client, name: &str) {
        let bytes = self.blocks[name].bytes.clone();
        client.socket.send(Message::Binary(bytes.into())).expect("the connection is open");
    }

    /// The next message must be the block, but for what is random.
    fn hear(&mut self, client: &mut Client, name: &str) -> wire::ServerFrame {
        let bytes = loop {
            match client.socket.read().expect("the connection is open") {
                Message::Binary(bytes) => break bytes,
                Message::Ping(_) => {}
                other => panic!("instead of `{name}` came {other:?}"),
            }
        };
        let fields = |bytes| self.schema.fields("ServerFrame", bytes);
        assert_eq!(fields(&bytes), fields(&self.blocks[name].bytes), "`{name}`, as it came and as it stands there");
        wire::ServerFrame::decode(bytes).expect("it was taken apart before")
    }
}

struct Block {
    text: String,
    bytes: Vec<u8>,
}

/// The blocks of the document that begin with "```hex NAME".
fn hex_blocks() -> BTreeMap<String, Block> {
    let mut blocks = BTreeMap::new();
    for part in DOCUMENT.split("\n```hex ").skip(1) {
        let (name, rest) = part.split_once('\n').expect("the fence is a line");
        let text = rest.split("```").next().expect("there is always a first part").to_owned();
        let bytes = text.lines().flat_map(|line| hex_of(line).0).collect();
        assert!(blocks.insert(name.to_owned(), Block { text, bytes }).is_none(), "two blocks are named {name}");
    }
    blocks
}

fn block_of(fence: &str) -> &'static str {
    let (_, rest) = DOCUMENT.split_once(&format!("\n```{fence}\n")).expect("the document has this block");
    rest.split("```").next().expect("there is always a first part")
}

fn patch_of(name: &str) -> wire::Patch {
    let frame = wire::ServerFrame::decode(&*hex_blocks()[name].bytes).expect("decoded in another test");
    let Some(server_frame::Body::Patch(patch)) = frame.body else { panic!("{name} is no patch") };
    patch
}

/// The bytes that a line begins with, and the rest.
fn hex_of(line: &str) -> (Vec<u8>, &str) {
    let mut rest = line.trim_start();
    let mut bytes = Vec::new();
    while let Some((word, after)) = rest.split_at_checked(2)
        && let Ok(byte) = u8::from_str_radix(word, 16)
        && (after.is_empty() || after.starts_with(' '))
    {
        bytes.push(byte);
        rest = after.strip_prefix(' ').unwrap_or(after);
        if rest.starts_with(' ') {
            break; // two spaces end the bytes
        }
    }
    (bytes, rest.trim_start())
}

/// Names of the wire contract, so that annotations are compared with them and not with another copy.
struct Schema {
    /// By message and number: name and type.
    fields: HashMap<(String, u64), (String, String)>,
    /// By enumeration and number.
    values: HashMap<(String, u64), String>,
}

/// One field of a message, and of the messages in it.
struct Field {
    depth: usize,
    bytes: Vec<u8>,
    path: String,
    value: Value,
}

enum Value {
    Message(usize),
    Other(String),
}

impl Schema {
    /// Reads what it needs of a `.proto` file: messages that are not nested, one field a line.
    fn of(contract: &str) -> Self {
        let mut schema = Self { fields: HashMap::new(), values: HashMap::new() };
        let mut within = (String::new(), String::new());
        for line in contract.lines() {
            let line = line.split("//").next().expect("there is always a first part");
            let words: Vec<_> = line.split(|c: char| c.is_whitespace() || c == ';').filter(|w| !w.is_empty()).collect();
            match words[..] {
                [kind @ ("message" | "enum"), name, "{"] => within = (kind.to_owned(), name.to_owned()),
                [name, "=", number] if within.0 == "enum" => {
                    let number = number.parse().expect("a number");
                    schema.values.insert((within.1.clone(), number), name.to_owned());
                }
                [.., kind, name, "=", number] => {
                    let number = number.parse().expect("a number");
                    schema.fields.insert((within.1.clone(), number), (name.to_owned(), kind.to_owned()));
                }
                _ => {}
            }
        }
        schema
    }

    /// The fields in the order in which they travel, each with its value, those that are random without.
    fn fields(&self, message: &str, bytes: &[u8]) -> Vec<String> {
        let mut fields = Vec::new();
        self.walk(message, message, bytes, 0, &mut fields);
        let line = |Field { path, value, .. }: Field| match value {
            Value::Other(value) if !RANDOM.contains(&path.as_str()) => format!("{path}: {value}"),
            _ => path,
        };
        fields.into_iter().map(line).collect()
    }

    /// The message as the document shows it: a field a line, sixteen bytes at most, indented by depth.
    fn annotated(&self, message: &str, bytes: &[u8]) -> String {
        let mut fields = Vec::new();
        self.walk(message, message, bytes, 0, &mut fields);
        let mut text = String::new();
        for Field { depth, bytes, path, value } in fields {
            let name = path.rsplit('.').next().expect("there is always a last part");
            let mut note = match value {
                Value::Message(len) => format!("{name}: {len} bytes"),
                Value::Other(value) => format!("{name}: {value}"),
            };
            for row in bytes.chunks(16) {
                let hex: Vec<_> = row.iter().map(|byte| format!("{byte:02x}")).collect();
                let hex = format!("{}{}", "   ".repeat(depth), hex.join(" "));
                text += format!("{hex:54}{note}").trim_end();
                text += "\n";
                note.clear();
            }
        }
        text
    }

    fn walk(&self, path: &str, message: &str, mut bytes: &[u8], depth: usize, out: &mut Vec<Field>) {
        while !bytes.is_empty() {
            let start = bytes;
            let tag = decode_varint(&mut bytes).expect("a tag");
            let (name, kind) = &self.fields[&(message.to_owned(), tag >> 3)];
            let path = format!("{path}.{name}");
            let is_message = self.fields.keys().any(|(message, _)| message == kind);
            let (value, inner) = match tag & 7 {
                0 => (Value::Other(self.number(kind, decode_varint(&mut bytes).expect("a number"))), None),
                1 => (Value::Other(format!("0x{:016x}", u64::from_le_bytes(take(&mut bytes)))), None),
                5 => (Value::Other(format!("0x{:08x}", u32::from_le_bytes(take(&mut bytes)))), None),
                2 => {
                    let len = decode_varint(&mut bytes).expect("a length") as usize;
                    let (content, rest) = bytes.split_at(len);
                    let head = start.len() - bytes.len();
                    bytes = rest;
                    if is_message {
                        (Value::Message(len), Some((head, content)))
                    } else {
                        (Value::Other(quoted(content)), None)
                    }
                }
                other => panic!("wire type {other}"),
            };
            let own = inner.map_or(start.len() - bytes.len(), |(head, _)| head);
            out.push(Field { depth, bytes: start[..own].to_vec(), path: path.clone(), value });
            if let Some((_, content)) = inner {
                self.walk(&path, kind, content, depth + 1, out);
            }
        }
    }

    fn number(&self, kind: &str, number: u64) -> String {
        match kind {
            "bool" => (number != 0).to_string(),
            _ => self.values.get(&(kind.to_owned(), number)).cloned().unwrap_or_else(|| number.to_string()),
        }
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (taken, rest) = bytes.split_first_chunk().expect("enough bytes");
    *bytes = rest;
    *taken
}

fn quoted(content: &[u8]) -> String {
    match std::str::from_utf8(content) {
        Ok(text) if !text.contains(char::is_control) => format!("{text:?}"),
        _ => format!("{} random bytes", content.len()),
    }
}
