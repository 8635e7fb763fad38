//! The publisher: one record per publish, each acknowledged.

use std::io::{self, Read};

use mio::net::TcpStream;
use prost::Message as _;

use super::payload;
use super::skim::{self, Envelope, FIN_BINARY, FIN_PING, FIN_PONG};
use super::socket::{put_frame, put_message, write_out};
use crate::protocol::wire::{self, client_frame, server_frame::Body};

/// Publishes numbered records to one topic.
pub(super) struct Publisher {
    pub(super) stream: TcpStream,
    topic: String,
    /// Bytes of each value.
    bytes: usize,
    /// How many keys take turns; 0: events.
    keys: u64,
    tail: Vec<u8>,
    out: Vec<u8>,
    /// Records published.
    pub(super) published: u64,
    /// Publishes acknowledged.
    pub(super) acknowledged: u64,
    /// Stamp of the newest record.
    pub(super) newest: u64,
}

impl Publisher {
    pub(super) fn new(stream: TcpStream, topic: &str, bytes: usize, keys: u64) -> Self {
        let mut out = Vec::new();
        let hello = wire::Hello { agent: "tidegate bench".into(), ..Default::default() };
        put_message(&mut out, 1, client_frame::Body::Hello(hello));
        let (tail, topic) = (Vec::new(), topic.to_owned());
        Self { stream, topic, bytes, keys, tail, out, published: 0, acknowledged: 0, newest: 0 }
    }

    /// Publishes that have not been acknowledged.
    pub(super) fn outstanding(&self) -> u64 {
        self.published - self.acknowledged
    }

    /// Queues a record that was due at `stamp`.
    pub(super) fn publish(&mut self, stamp: u64) {
        self.published += 1;
        self.newest = stamp;
        let key = if self.keys > 0 { format!("key-{:06}", self.published % self.keys) } else { String::new() };
        let value = payload::value(stamp, self.published, self.bytes).into();
        let record = wire::Record { key: key.into(), value, ..Default::default() };
        let publish = wire::Publish { topic: self.topic.clone(), records: vec![record], ..Default::default() };
        put_message(&mut self.out, self.published, client_frame::Body::Publish(publish));
    }

    /// Writes what waits and reads what came.
    ///
    /// # Errors
    /// If the connection breaks or a publish is refused.
    pub(super) fn pump(&mut self, scratch: &mut [u8]) -> Result<(), String> {
        let broke = |error: io::Error| format!("the publisher's connection broke: {error}");
        write_out(&mut self.stream, &mut self.out).map_err(broke)?;
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Err("the server closed the publisher's connection".into()),
                Ok(n) => {
                    self.tail.extend_from_slice(&scratch[..n]);
                    self.consume()?;
                    if n < scratch.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broke(error)),
            }
        }
        write_out(&mut self.stream, &mut self.out).map_err(broke)
    }

    fn consume(&mut self) -> Result<(), String> {
        let mut used = 0;
        while let Some(frame) = skim::frame(&self.tail[used..]) {
            used += frame.len;
            match frame.first {
                FIN_BINARY if skim::envelope(frame.payload) == Some(Envelope::Published) => self.acknowledged += 1,
                FIN_BINARY => {
                    let frame = wire::ServerFrame::decode(frame.payload).map_err(|error| error.to_string())?;
                    if let Some(Body::Error(error)) = frame.body {
                        return Err(format!("a publish was refused: {}", error.message));
                    }
                }
                FIN_PING => put_frame(&mut self.out, FIN_PONG, frame.payload),
                first => return Err(format!("the publisher was sent a frame that begins with {first:#04x}")),
            }
        }
        self.tail.drain(..used);
        Ok(())
    }
}
