//! What subscribers and publishers say, server by server: the one place of the load generator that knows a protocol.
//!
//! To add a server's dialect:
//!
//! 1. A file here with a type for one connection that implements [`Dialect`]. It is made once for each connection, by its
//!    [`Role`], and keeps what the protocol wants remembered in between (a handshake's state, a packet number).
//! 2. A name in [`Peer`], and a line in [`Peer::dialect`].
//!
//! What it has to do: say that the connection may be used ([`Arrival::ready`]), pass each record's value on
//! ([`Arrival::record`]), and count acknowledgements ([`Arrival::acknowledged`]). Gaps, order, latency and the comparison of
//! every byte on verifying subscribers are done behind these. [`Broadcast`] is the smallest example.

mod arrival;
mod broadcast;
mod mqtt;
mod nats;
mod nchan;
#[cfg(test)]
mod peer_tests;
mod skim;
mod socketio;
mod stream;
mod tidegate;
mod verifier;

use std::net::SocketAddr;

use clap::ValueEnum;

pub(super) use arrival::{Arrival, Observations, Seen};
pub(super) use broadcast::Broadcast;
pub(super) use tidegate::{Tidegate, put_message};

use mqtt::Mqtt;
use nats::Nats;
use nchan::Nchan;
use socketio::SocketIo;

use super::frames::{self, FIN_CLOSE, FIN_PING, FIN_PONG, put_frame};

/// One connection's side of a protocol.
pub(super) trait Dialect {
    /// The HTTP request that the connection begins with ([`websocket_request`]); `None` where there is no HTTP.
    fn request(&self, address: SocketAddr) -> Option<String>;

    /// What is said first, after the upgrade. A protocol in which the server speaks first says nothing here, and answers in
    /// [`Dialect::take`].
    fn open(&mut self, out: &mut Vec<u8>);

    /// Appends a publish of one record. Asked of publishers only, once the connection is ready.
    fn publish(&mut self, record: &Outgoing<'_>, out: &mut Vec<u8>);

    /// Takes whole messages from the front of what came (behind the answer to the upgrade), answers into [`Arrival::out`], and
    /// returns how many bytes that were. What is left over is shown again with what comes behind it.
    ///
    /// # Errors
    /// What is wrong with it; the run ends with this sentence.
    fn take(&mut self, bytes: &[u8], arrival: &mut Arrival<'_>) -> Result<usize, String>;

    /// Appends what is to be said by the clock, every ten milliseconds.
    fn tick(&mut self, _out: &mut Vec<u8>) {}

    /// Where a subscriber of one topic may go on later, if the server knows such a thing.
    fn position(&self) -> Option<Position> {
        None
    }
}

/// A record to be published.
pub(super) struct Outgoing<'a> {
    /// Counts from 1.
    pub(super) serial: u64,
    /// Empty: an event.
    pub(super) key: &'a str,
    /// The stamp, the serial, and bytes that follow from it ([`super::payload`]).
    pub(super) value: &'a [u8],
}

/// What a connection is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Role<'a> {
    pub(super) topic: &'a str,
    pub(super) duty: Duty,
    pub(super) values: Values,
    /// Where an earlier connection of the same subscriber stopped (Tidegate's only).
    pub(super) resume: Option<Position>,
}

/// What the values of a topic's records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Values {
    /// Ours ([`super::payload`]), of one publisher: a record's serial is its offset.
    Numbered,
    /// Ours, of several publishers: each one's serials ascend.
    ByOrigin,
    /// Somebody else's.
    Recorded,
}

/// Where a subscriber is in a topic's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) epoch: u64,
    pub(super) offset: u64,
}

/// Publish or subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    Publish,
    Subscribe {
        /// Compares every record.
        is_verifying: bool,
        /// `Hello.credit_bytes` of Tidegate; 0: a plain client.
        credit: u64,
    },
}

/// The other servers that the same load can be put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Peer {
    /// A WebSocket server that sends every binary message which comes in on /publish to everyone on /subscribe, and
    /// answers each with a message of its own.
    Broadcast,
    /// NATS, by its WebSocket listener.
    Nats,
    /// Nchan, by WebSocket and HTTP.
    Nchan,
    /// An MQTT 3.1.1 broker, by WebSocket.
    Mqtt,
    /// socket.io 4, by WebSocket alone.
    SocketIo,
}

impl Peer {
    /// Makes one connection's dialect.
    pub(super) fn dialect(self, role: &Role<'_>) -> Box<dyn Dialect> {
        match self {
            Self::Broadcast => Box::new(Broadcast::new(role)),
            Self::Nats => Box::new(Nats::new(role)),
            Self::Nchan => Box::new(Nchan::new(role)),
            Self::Mqtt => Box::new(Mqtt::new(role)),
            Self::SocketIo => Box::new(SocketIo::new(role)),
        }
    }
}

/// Makes one connection's dialect: a peer's, or Tidegate's.
pub(super) fn of(peer: Option<Peer>, role: &Role<'_>) -> Box<dyn Dialect> {
    peer.map_or_else(|| Box::new(Tidegate::new(role)) as Box<dyn Dialect>, |peer| peer.dialect(role))
}

/// The upgrade request of RFC 6455 section 4.1.
pub(super) fn websocket_request(address: SocketAddr, path: &str, subprotocol: Option<&str>) -> String {
    let subprotocol = subprotocol.map_or_else(String::new, |name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
    format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{subprotocol}\r\n"
    )
}

/// Takes whole WebSocket frames from the front; returns their length. Pings are answered and a close is an error; the rest is
/// given to `message`, with the frame's first byte (FIN and opcode).
pub(super) fn take_frames(
    bytes: &[u8],
    arrival: &mut Arrival<'_>,
    mut message: impl FnMut(u8, &[u8], &mut Arrival<'_>) -> Result<(), String>,
) -> Result<usize, String> {
    let mut used = 0;
    while let Some(frame) = frames::frame(&bytes[used..]) {
        used += frame.len;
        match frame.first {
            FIN_PING => put_frame(arrival.out, FIN_PONG, frame.payload),
            FIN_PONG => {}
            FIN_CLOSE => {
                let reason = String::from_utf8_lossy(frame.payload.get(2..).unwrap_or_default());
                return Err(format!("the server closed a connection: \"{reason}\""));
            }
            first => message(first, frame.payload, arrival)?,
        }
    }
    Ok(used)
}
