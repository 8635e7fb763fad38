//! A client's end of a connection: frames out of bytes, and the answers that any WebSocket client gives by itself.

#![allow(dead_code, reason = "each test file uses its part")]

use prost::Message as _;
use tidegate::kernel::{PeerId, Simulation};
use tidegate::protocol::wire::{self, client_frame};

use super::support::raw::{BINARY, CLOSE, FIN, PING, PONG, envelope, masked};

const UPGRADE: &[u8] = b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: tidegate.v1\r\n\r\n";

/// What the engine said.
pub(super) enum Said {
    /// With its length.
    Frame(wire::ServerFrame, usize),
    /// A ping, and the pong that is to be written.
    Ping(Vec<u8>),
    /// A close frame's code, and the frame that is to be written.
    Close(u16, Vec<u8>),
}

/// Bytes that were read and are no whole frame yet.
#[derive(Default)]
pub(super) struct Incoming(Vec<u8>);

impl Incoming {
    /// What these bytes complete.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Vec<Said> {
        self.0.extend_from_slice(bytes);
        let (mut said, mut at) = (Vec::new(), 0);
        while let Some((first, head, len)) = frame(&self.0[at..]) {
            let payload = &self.0[at + head..at + head + len];
            said.push(match first & 0x0F {
                BINARY => Said::Frame(wire::ServerFrame::decode(payload).expect("a ServerFrame"), len),
                PING => Said::Ping(masked(FIN | PONG, payload)),
                CLOSE => {
                    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    Said::Close(code, masked(FIN | CLOSE, payload))
                }
                other => panic!("opcode {other}"),
            });
            at += head + len;
        }
        self.0.drain(..at);
        said
    }
}

/// Of the frame that `bytes` begin with: the first byte, the lengths of head and payload. `None` if it is not complete.
fn frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (head, len) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).expect("a length")),
        len => (2, usize::from(len)),
    };
    (bytes.len() >= head + len).then_some((bytes[0], head, len))
}

/// A connection in the simulation.
pub(super) struct Link {
    peer: PeerId,
    incoming: Incoming,
    is_upgraded: bool,
    pub(super) is_closed: bool,
    pub(super) close_code: Option<u16>,
}

impl Link {
    /// Connects and asks for WebSocket, and says nothing more.
    pub(super) fn upgrade(simulation: &mut Simulation) -> Self {
        let peer = simulation.connect();
        simulation.peer_write(peer, UPGRADE);
        Self { peer, incoming: Incoming::default(), is_upgraded: false, is_closed: false, close_code: None }
    }

    /// Connects and says Hello; with credit, if any is given.
    pub(super) fn new(simulation: &mut Simulation, credit_bytes: u64) -> Self {
        let link = Self::upgrade(simulation);
        link.say(simulation, client_frame::Body::Hello(wire::Hello { credit_bytes, ..wire::Hello::default() }));
        link
    }

    pub(super) fn say(&self, simulation: &mut Simulation, body: client_frame::Body) {
        self.write(simulation, &masked(FIN | BINARY, &envelope(1, body)));
    }

    /// Bytes, whether they are a frame or not.
    pub(super) fn write(&self, simulation: &mut Simulation, bytes: &[u8]) {
        simulation.peer_write(self.peer, bytes);
    }

    /// From now on the engine's socket takes so many bytes before they are read.
    pub(super) fn set_capacity(&self, simulation: &mut Simulation, capacity: usize) {
        simulation.set_capacity(self.peer, capacity);
    }

    /// Its host is gone: nothing arrives any more, either way.
    pub(super) fn go_silent(&self, simulation: &mut Simulation) {
        simulation.peer_tcp_dead(self.peer, true);
    }

    /// Reads so many bytes at most; returns what they complete, with each frame's length. Pings and a close frame are
    /// answered when they are read.
    pub(super) fn read(&mut self, simulation: &mut Simulation, most: usize) -> Vec<(wire::ServerFrame, usize)> {
        let mut bytes = simulation.peer_read(self.peer, most);
        if !self.is_upgraded && !bytes.is_empty() {
            let end = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("the head arrives whole");
            assert!(bytes.starts_with(b"HTTP/1.1 101 "));
            bytes.drain(..end + 4);
            self.is_upgraded = true;
        }
        let mut frames = Vec::new();
        for said in self.incoming.read(&bytes) {
            match said {
                Said::Frame(frame, len) => frames.push((frame, len)),
                Said::Ping(pong) => simulation.peer_write(self.peer, &pong),
                Said::Close(code, close) => {
                    (self.is_closed, self.close_code) = (true, Some(code));
                    simulation.peer_write(self.peer, &close);
                    simulation.peer_finish(self.peer);
                }
            }
        }
        frames
    }
}
