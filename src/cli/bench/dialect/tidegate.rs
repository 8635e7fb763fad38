//! Tidegate's own protocol, `tidegate.v1`.

use std::net::SocketAddr;

use prost::Message as _;

use super::skim::{self, Envelope, PatchHead};
use super::verifier::Verifier;
use super::{Arrival, Dialect, Duty, Outgoing, Position, Role, Values, take_frames, websocket_request};
use crate::cli::bench::frames::{FIN_BINARY, put_frame};
use crate::client::CREDIT_STEP;
use crate::protocol::envelope;
use crate::protocol::wire::{self, client_frame, server_frame::Body};

/// Topics of one recording, at most.
const MAX_TOPICS: usize = 65_536;

/// One connection. A publisher's records are one to a publish, each acknowledged.
pub(in crate::cli::bench) struct Tidegate {
    topic: String,
    duty: Duty,
    values: Values,
    resume: Option<Position>,
    /// The topics that it is subscribed to; one, if its own is no pattern.
    held: Vec<Held>,
    /// Of a publisher of what was recorded, by request: the offset that the publish came to.
    heads: Vec<u64>,
    /// Bytes that were consumed and not confirmed.
    unconfirmed: u64,
}

/// One topic of a subscriber.
struct Held {
    id: u64,
    epoch: u64,
    cursor: u64,
    /// A patch came.
    is_placed: bool,
    verifier: Option<Box<Verifier>>,
}

impl Tidegate {
    pub(in crate::cli::bench) fn new(role: &Role<'_>) -> Self {
        let Role { topic, duty, values, resume } = *role;
        let topic = topic.to_owned();
        Self { topic, duty, values, resume, held: Vec::new(), heads: Vec::new(), unconfirmed: 0 }
    }

    /// A topic's log is gone through from `position`, or from its beginning.
    fn hold(&mut self, id: u64, epoch: u64, cursor: u64) -> &mut Held {
        // What an earlier connection held is not known to this one, so it cannot prove it.
        let is_verifying = matches!(self.duty, Duty::Subscribe { is_verifying: true, .. }) && cursor == 0;
        let verifier = is_verifying.then(|| Box::new(Verifier::new(self.values)));
        self.held.push(Held { id, epoch, cursor, is_placed: false, verifier });
        self.held.last_mut().expect("it was just put there")
    }

    /// Appends the Subscribe.
    pub(in crate::cli::bench) fn subscribe(&self, out: &mut Vec<u8>) {
        let resume = self.resume.map(|Position { epoch, offset }| wire::Position { epoch, offset });
        let subscribe = wire::Subscribe { topic: self.topic.clone(), resume, ..Default::default() };
        put_message(out, 2, client_frame::Body::Subscribe(subscribe));
    }

    /// The window that the client confirms, if it does so.
    fn credit(&self) -> Option<u64> {
        match self.duty {
            Duty::Subscribe { credit, .. } if credit > 0 => Some(credit),
            _ => None,
        }
    }

    fn message(&mut self, first: u8, payload: &[u8], arrival: &mut Arrival<'_>) -> Result<(), String> {
        if first != FIN_BINARY {
            return Err(format!("a frame begins with {first:#04x}"));
        }
        match skim::envelope(payload) {
            Some(Envelope::Patch(bytes)) => {
                let patch = skim::patch(bytes).ok_or("a message is no Patch")?;
                self.patch(&patch, payload.len(), bytes, arrival)
            }
            Some(Envelope::Published) if self.values == Values::Recorded => self.head(payload, arrival),
            Some(Envelope::Published) => {
                arrival.acknowledged(1);
                Ok(())
            }
            Some(Envelope::Other) => self.answer(payload, arrival),
            None => Err("a message is no ServerFrame".into()),
        }
    }

    /// `bytes`: all of it, for those who verify.
    fn patch(
        &mut self,
        patch: &PatchHead,
        payload_len: usize,
        bytes: &[u8],
        arrival: &mut Arrival<'_>,
    ) -> Result<(), String> {
        let at = self.held.iter().position(|held| held.id == patch.topic);
        let held = match at {
            Some(at) => &mut self.held[at],
            // The bare loop's, which answers no Subscribe.
            None if patch.topic == 0 => self.hold(0, 0, 0),
            None => return Err(format!("a patch of topic {}, which was not subscribed to", patch.topic)),
        };
        let expected = if patch.reset { 0 } else { held.cursor };
        if patch.from != expected || (patch.reset && (held.is_placed || held.cursor > 0)) {
            return Err(format!("the chain is broken: at {}, and a patch from {}", held.cursor, patch.from));
        }
        let due = patch.to.checked_sub(patch.from).ok_or("a patch goes backwards")?;
        let named = patch.records + patch.filtered + patch.expired + patch.overrun + patch.lost;
        let conflated = due.checked_sub(named).ok_or("a patch names more records than it moves over")?;
        let seen = &mut *arrival.seen;
        if let Some(verifier) = &mut held.verifier {
            let (records, checksums) = (verifier.verified, verifier.checksums);
            verifier.apply(bytes)?;
            seen.verified += verifier.verified - records;
            seen.checksums += verifier.checksums - checksums;
        }
        (held.cursor, held.is_placed) = (patch.to, true);
        seen.messages += 1;
        seen.ledger.due += due;
        seen.ledger.delivered += patch.records;
        seen.ledger.conflated += conflated;
        seen.ledger.filtered += patch.filtered;
        seen.ledger.expired += patch.expired;
        seen.ledger.overrun += patch.overrun;
        seen.ledger.lost += patch.lost;
        seen.cursor += due;
        arrival.ready();
        if self.values != Values::Recorded {
            arrival.seen.newest = arrival.seen.newest.max(patch.newest_stamp);
            if patch.oldest_stamp > 0 {
                arrival.latency(patch.oldest_stamp);
            }
        }
        if let Some(window) = self.credit() {
            self.unconfirmed += payload_len as u64;
            if self.unconfirmed >= CREDIT_STEP.min(window / 4) {
                self.tick(arrival.out);
            }
        }
        Ok(())
    }

    /// The answer to a publish of what was recorded: its request names a topic, and the publisher's cursor is the sum of all
    /// topics' heads.
    fn head(&mut self, payload: &[u8], arrival: &mut Arrival<'_>) -> Result<(), String> {
        let frame = wire::ServerFrame::decode(payload).map_err(|error| format!("a frame does not decode: {error}"))?;
        let Some(Body::Published(published)) = frame.body else { return Err("a publish was not answered".into()) };
        let topic = usize::try_from(frame.request).map_err(|error| error.to_string())?;
        if topic >= MAX_TOPICS {
            return Err(format!("request {topic} was never made"));
        }
        if self.heads.len() <= topic {
            self.heads.resize(topic + 1, 0);
        }
        self.heads[topic] = self.heads[topic].max(published.offset);
        arrival.seen.cursor = self.heads.iter().sum();
        arrival.acknowledged(1);
        Ok(())
    }

    fn answer(&mut self, payload: &[u8], arrival: &mut Arrival<'_>) -> Result<(), String> {
        let frame = wire::ServerFrame::decode(payload).map_err(|error| format!("a frame does not decode: {error}"))?;
        match frame.body {
            Some(Body::Error(error)) if self.duty == Duty::Publish => {
                Err(format!("a publish was refused: {}", error.message))
            }
            Some(Body::Error(error)) => Err(format!("the server says: {}", error.message)),
            Some(Body::GoAway(_)) => Err("the server sends its clients away".into()),
            Some(Body::Welcome(_)) if self.duty == Duty::Publish => {
                arrival.ready();
                Ok(())
            }
            Some(Body::Subscribed(subscribed)) => {
                let from = self.resume.take().filter(|_| subscribed.resumed).map_or(0, |position| position.offset);
                self.hold(subscribed.topic_id.into(), subscribed.epoch, from);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Dialect for Tidegate {
    fn request(&self, address: SocketAddr) -> Option<String> {
        Some(websocket_request(address, "/v1/ws", Some("tidegate.v1")))
    }

    fn open(&mut self, out: &mut Vec<u8>) {
        let credit_bytes = self.credit().unwrap_or(0);
        let hello = wire::Hello { agent: "tidegate bench".into(), credit_bytes, ..Default::default() };
        put_message(out, 1, client_frame::Body::Hello(hello));
        if self.duty != Duty::Publish {
            self.subscribe(out);
        }
    }

    fn publish(&mut self, record: &Outgoing<'_>, out: &mut Vec<u8>) {
        let (key, value) = (record.key.to_owned().into(), record.value.to_owned().into());
        let records = vec![wire::Record { key, value, ..Default::default() }];
        let publish = wire::Publish { topic: self.topic.clone(), records, ..Default::default() };
        put_message(out, record.serial, client_frame::Body::Publish(publish));
    }

    fn take(&mut self, bytes: &[u8], arrival: &mut Arrival<'_>) -> Result<usize, String> {
        take_frames(bytes, arrival, |first, payload, arrival| self.message(first, payload, arrival))
    }

    fn tick(&mut self, out: &mut Vec<u8>) {
        if self.unconfirmed > 0 {
            let credit = wire::Credit { bytes: std::mem::take(&mut self.unconfirmed) };
            put_message(out, 0, client_frame::Body::Credit(credit));
        }
    }

    fn position(&self) -> Option<Position> {
        let [held] = &self.held[..] else { return None };
        Some(Position { epoch: held.epoch, offset: held.cursor })
    }
}

/// Appends a client's message.
pub(in crate::cli::bench) fn put_message(out: &mut Vec<u8>, request: u64, body: client_frame::Body) {
    let message = envelope::encode_client(&wire::ClientFrame { request, body: Some(body) });
    put_frame(out, FIN_BINARY, &message);
}
