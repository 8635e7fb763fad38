//! `docs/protocol.md` is held to what it says: its bytes are decoded, its checksum and counts are worked out again, and
//! its session is played against a real engine.

mod blocks;
mod examples;
mod schema;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use blocks::{Block, block_of, hex_blocks, hex_of, patch_of};
use bytes::Bytes;
use examples::{CREDIT, Example, examples};
use prost::Message as _;
use schema::Schema;
use support::{Client, end, engine};
use tidegate::config::Shards;
use tidegate::protocol::CloseCode;
use tidegate::protocol::wire::{self, client_frame, server_frame};
use tungstenite::Message;

const DOCUMENT: &str = include_str!("../../docs/protocol.md");
const CONTRACT: &str = include_str!("../../proto/tidegate/v1/tidegate.proto");

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

/// Codes of the contract that no frame of this version carries.
const UNUSED: [wire::Code; 3] = [wire::Code::Forbidden, wire::Code::Revoked, wire::Code::SessionExpired];

#[test]
fn every_code_that_the_engine_sends_is_explained() {
    let codes: Vec<_> = (0..).map_while(|number| wire::Code::try_from(number).ok()).collect();
    assert_eq!(codes.last(), Some(&wire::Code::Internal), "the contract's last one");
    for code in codes {
        let is_explained = DOCUMENT.contains(&format!("`{}`", code.as_str_name()));
        assert_eq!(is_explained, !UNUSED.contains(&code), "{}", code.as_str_name());
    }
    // Those that answer a frame without ending the connection have a row that says what to do.
    for code in ["INVALID", "UNAUTHENTICATED", "NOT_FOUND", "TOO_LARGE", "RATE_LIMITED", "OVERLOADED", "LIMIT_REACHED"]
    {
        assert!(DOCUMENT.contains(&format!("\n| `CODE_{code}` |")), "no row for CODE_{code}");
    }
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

#[test]
fn the_credit_is_the_length_of_the_patches_before_it() {
    let blocks = hex_blocks();
    let length: usize = ["snapshot", "delta"].iter().map(|name| blocks[*name].bytes.len()).sum();
    assert_eq!(length as u64, CREDIT);
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
