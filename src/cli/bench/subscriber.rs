//! One subscriber: reads, counts, answers, and on one in fifty verifies.

use std::io::{self, Read};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use prost::Message as _;

use super::payload::Stopwatch;
use super::skim::{self, Envelope, FIN_BINARY, FIN_CLOSE, FIN_PING, FIN_PONG};
use super::socket::{put_frame, put_message, write_out};
use super::verifier::Verifier;
use crate::client::CREDIT_STEP;
use crate::protocol::wire::{self, client_frame, server_frame::Body};
use crate::shard::Ledger;

/// What all subscribers observe together.
pub(super) struct Observations {
    /// From the moment that a patch's oldest record was due to be published to the moment that it was read, in
    /// nanoseconds: one value for each patch, the worst in it.
    pub(super) latency: Histogram<u64>,
    /// Not during warm-up and drain.
    pub(super) is_measuring: bool,
    pub(super) clock: Stopwatch,
}

/// One subscriber's connection.
pub(super) struct Subscriber {
    pub(super) stream: TcpStream,
    /// The beginning of a frame that is not all there.
    tail: Vec<u8>,
    out: Vec<u8>,
    /// The offset that it has been brought to.
    pub(super) cursor: u64,
    /// Whether it was sent its first patch.
    pub(super) is_placed: bool,
    /// Stamp of the newest record that it holds.
    pub(super) newest: u64,
    pub(super) ledger: Ledger,
    pub(super) patches: u64,
    /// Bytes on the wire, WebSocket headers and control frames included.
    pub(super) bytes: u64,
    pub(super) verifier: Option<Box<Verifier>>,
    /// `Hello.credit_bytes`, and what was consumed and not confirmed.
    credit: Option<(u64, u64)>,
    /// The other side closed the connection.
    pub(super) has_ended: bool,
}

impl Subscriber {
    /// Greets and subscribes.
    pub(super) fn new(stream: TcpStream, topic: &str, credit: u64, is_verifying: bool) -> Self {
        let mut out = Vec::new();
        let hello = wire::Hello { agent: "tidegate bench".into(), credit_bytes: credit, ..Default::default() };
        put_message(&mut out, 1, client_frame::Body::Hello(hello));
        let subscribe = wire::Subscribe { topic: topic.to_owned(), ..Default::default() };
        put_message(&mut out, 2, client_frame::Body::Subscribe(subscribe));
        let credit = (credit > 0).then_some((credit, 0));
        Self { out, credit, ..Self::placed(stream, is_verifying) }
    }

    /// Says nothing, and waits for patches from 0.
    pub(super) fn placed(stream: TcpStream, is_verifying: bool) -> Self {
        Self {
            stream,
            tail: Vec::new(),
            out: Vec::new(),
            cursor: 0,
            is_placed: false,
            newest: 0,
            ledger: Ledger::default(),
            patches: 0,
            bytes: 0,
            verifier: is_verifying.then(Box::default),
            credit: None,
            has_ended: false,
        }
    }

    /// Reads up to `limit` bytes; false when there may be more to read.
    ///
    /// # Errors
    /// If the connection breaks or what comes is wrong.
    pub(super) fn read(
        &mut self,
        scratch: &mut [u8],
        limit: usize,
        observations: &mut Observations,
    ) -> Result<bool, String> {
        let size = scratch.len().min(limit);
        let n = match self.stream.read(&mut scratch[..size]) {
            Ok(0) => {
                self.has_ended = true;
                return Err("the server closed a subscriber's connection".into());
            }
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            Err(error) => return Err(format!("a subscriber's connection broke: {error}")),
        };
        self.bytes += n as u64;
        if self.tail.is_empty() {
            let used = self.consume(&scratch[..n], observations)?;
            self.tail.extend_from_slice(&scratch[used..n]);
        } else {
            let mut tail = std::mem::take(&mut self.tail);
            tail.extend_from_slice(&scratch[..n]);
            let used = self.consume(&tail, observations)?;
            tail.drain(..used);
            self.tail = tail;
        }
        if let Some((window, consumed)) = self.credit
            && consumed >= CREDIT_STEP.min(window / 4)
        {
            self.confirm();
        }
        self.flush()?;
        Ok(n < size)
    }

    /// Confirms what was consumed, if the client does so.
    pub(super) fn confirm(&mut self) {
        if let Some((_, consumed)) = &mut self.credit
            && *consumed > 0
        {
            let credit = wire::Credit { bytes: std::mem::take(consumed) };
            put_message(&mut self.out, 0, client_frame::Body::Credit(credit));
        }
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) -> Result<(), String> {
        write_out(&mut self.stream, &mut self.out).map_err(|error| format!("a subscriber's connection broke: {error}"))
    }

    /// Takes whole frames from the front; returns their length.
    fn consume(&mut self, bytes: &[u8], observations: &mut Observations) -> Result<usize, String> {
        let now = observations.clock.now();
        let mut used = 0;
        while let Some(frame) = skim::frame(&bytes[used..]) {
            used += frame.len;
            match frame.first {
                FIN_BINARY => match skim::envelope(frame.payload) {
                    Some(Envelope::Patch(patch)) => {
                        if let Some((_, consumed)) = &mut self.credit {
                            *consumed += frame.payload.len() as u64;
                        }
                        self.patch(patch, now, observations)?;
                    }
                    Some(_) => self.answer(frame.payload)?,
                    None => return Err("a message is no ServerFrame".into()),
                },
                FIN_PING => put_frame(&mut self.out, FIN_PONG, frame.payload),
                FIN_CLOSE => return Err("the server closed a subscriber's connection".into()),
                first => return Err(format!("a frame begins with {first:#04x}")),
            }
        }
        Ok(used)
    }

    fn patch(&mut self, bytes: &[u8], now: u64, observations: &mut Observations) -> Result<(), String> {
        let patch = skim::patch(bytes).ok_or("a message is no Patch")?;
        let expected = if patch.reset { 0 } else { self.cursor };
        if patch.from != expected || (patch.reset && self.is_placed) {
            return Err(format!("the chain is broken: at {}, and a patch from {}", self.cursor, patch.from));
        }
        let due = patch.to.checked_sub(patch.from).ok_or("a patch goes backwards")?;
        let named = patch.records + patch.filtered + patch.expired + patch.overrun + patch.lost;
        let conflated = due.checked_sub(named).ok_or("a patch names more records than it moves over")?;
        if let Some(verifier) = &mut self.verifier {
            verifier.apply(bytes)?;
        }
        self.patches += 1;
        self.ledger.due += due;
        self.ledger.delivered += patch.records;
        self.ledger.conflated += conflated;
        self.ledger.filtered += patch.filtered;
        self.ledger.expired += patch.expired;
        self.ledger.overrun += patch.overrun;
        self.ledger.lost += patch.lost;
        self.cursor = patch.to;
        self.is_placed = true;
        self.newest = self.newest.max(patch.newest_stamp);
        if observations.is_measuring && patch.oldest_stamp > 0 {
            let latency = now.saturating_sub(patch.oldest_stamp);
            observations.latency.record(latency).expect("a histogram that grows takes every value");
        }
        Ok(())
    }

    fn answer(&mut self, payload: &[u8]) -> Result<(), String> {
        let frame = wire::ServerFrame::decode(payload).map_err(|error| format!("a frame does not decode: {error}"))?;
        match frame.body {
            Some(Body::Error(error)) => Err(format!("the server says: {}", error.message)),
            Some(Body::GoAway(_)) => Err("the server sends its clients away".into()),
            _ => Ok(()),
        }
    }
}
