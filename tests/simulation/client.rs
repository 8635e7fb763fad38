//! A simulated client: what it holds, what it has asked for, and how it reads.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tidegate::clock::Moment;
use tidegate::kernel::PeerId;
use tidegate::protocol::wire::{self, client_frame};

use crate::explain::Options;
use crate::model::term;
use crate::stream::Stream;

/// How fast a connection is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Prompt,
    /// So many bytes each so often.
    Slow(usize, Duration),
    /// Not before then.
    Stalled(Moment),
}

/// One connection of a client.
#[derive(Debug)]
pub struct Link {
    pub client: usize,
    pub peer: PeerId,
    pub stream: Stream,
    /// Bytes read of a frame that is not complete.
    pub unfinished: usize,
    pub pace: Pace,
    pub next_read: Moment,
    pub has_credit: bool,
    pub is_welcome: bool,
    /// The client sent FIN or RST.
    pub was_left: bool,
    /// The client showed its session on another connection.
    pub was_taken_over: bool,
    pub close_code: Option<u16>,
    pub is_over: bool,
    pub began: Moment,
    pub topics: BTreeMap<u32, String>,
    /// The session that its Hello showed, and the one that it was given.
    #[allow(dead_code, reason = "the simulation of all shards looks at it")]
    pub shown: Bytes,
    pub session: Bytes,
}

/// What a client holds of a topic.
#[derive(Clone, Debug, Default)]
pub struct Held {
    pub epoch: u64,
    pub cursor: u64,
    pub keys: BTreeMap<Bytes, Bytes>,
    /// It came under the options that the client still wants: resuming takes the same filter.
    pub may_resume: bool,
}

/// A subscription of a client; asked for again on every connection.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub topic: String,
    pub options: Options,
}

/// A publish that was not acknowledged yet.
#[derive(Clone, Debug)]
pub struct Pending {
    pub number: usize,
    pub request: u64,
}

#[derive(Debug, Default)]
pub struct Client {
    pub link: Option<usize>,
    pub session: Bytes,
    pub wanted: Vec<Wanted>,
    pub held: BTreeMap<String, Held>,
    pub pending: VecDeque<Pending>,
    pub sequence: u64,
    pub next_act: Moment,
    pub is_publisher: bool,
    /// It changes its subscriptions all the time.
    pub flits: bool,
    pub slowness: Option<Pace>,
    pub credit_bytes: u64,
}

impl Held {
    /// Applies a patch; the chain and the checksum are the client's own proof.
    pub fn apply(&mut self, patch: &wire::Patch) {
        if patch.reset {
            self.keys.clear();
            self.cursor = 0;
        }
        assert_eq!(patch.from, self.cursor, "the client's chain");
        for record in patch.records.iter().chain(&patch.ahead).filter(|record| !record.key.is_empty()) {
            if record.delete {
                self.keys.remove(&record.key);
            } else {
                self.keys.insert(record.key.clone(), record.value.clone());
            }
        }
        self.cursor = patch.to;
        if let Some(checksum) = patch.checksum {
            let sum = self.keys.iter().fold(0_u32, |sum, (key, value)| sum.wrapping_add(term(key, value)));
            assert_eq!(sum, checksum, "the client's state at {}", self.cursor);
        }
    }
}

pub const UPGRADE: &[u8] = b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: tidegate.v1\r\n\r\n";

/// A masked frame.
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

pub fn message(request: u64, body: client_frame::Body) -> Vec<u8> {
    masked(2, &wire::ClientFrame { request, body: Some(body) }.encode_to_vec())
}
