//! Tidegate's own protocol, `tidegate.v1`.

use std::net::SocketAddr;

use prost::Message as _;

use super::skim::{self, Envelope, PatchHead};
use super::verifier::Verifier;
use super::{Arrival, Dialect, Duty, Outgoing, Role, Taken, take_frames, websocket_request};
use crate::cli::bench::frames::{self, FIN_BINARY, put_frame};
use crate::client::CREDIT_STEP;
use crate::protocol::envelope;
use crate::protocol::wire::{self, client_frame, server_frame::Body};

/// One connection. A publisher's records are one to a publish, each acknowledged.
pub(in crate::cli::bench) struct Tidegate {
    topic: String,
    duty: Duty,
    verifier: Option<Box<Verifier>>,
    /// Bytes that were consumed and not confirmed.
    unconfirmed: u64,
}

impl Tidegate {
    pub(in crate::cli::bench) fn new(role: &Role<'_>) -> Self {
        let is_verifying = matches!(role.duty, Duty::Subscribe { is_verifying: true, .. });
        let verifier = is_verifying.then(Box::default);
        Self { topic: role.topic.to_owned(), duty: role.duty, verifier, unconfirmed: 0 }
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
                if let Some(verifier) = &mut self.verifier {
                    verifier.apply(bytes)?;
                    (arrival.seen.verified, arrival.seen.checksums) = (verifier.verified, verifier.checksums);
                }
                self.patch(&patch, payload.len(), arrival)
            }
            Some(Envelope::Published) => {
                arrival.acknowledged(1);
                Ok(())
            }
            Some(Envelope::Other) => self.answer(payload, arrival),
            None => Err("a message is no ServerFrame".into()),
        }
    }

    fn patch(&mut self, patch: &PatchHead, payload_len: usize, arrival: &mut Arrival<'_>) -> Result<(), String> {
        let seen = &mut *arrival.seen;
        let expected = if patch.reset { 0 } else { seen.cursor };
        if patch.from != expected || (patch.reset && seen.is_ready) {
            return Err(format!("the chain is broken: at {}, and a patch from {}", seen.cursor, patch.from));
        }
        let due = patch.to.checked_sub(patch.from).ok_or("a patch goes backwards")?;
        let named = patch.records + patch.filtered + patch.expired + patch.overrun + patch.lost;
        let conflated = due.checked_sub(named).ok_or("a patch names more records than it moves over")?;
        seen.messages += 1;
        seen.ledger.due += due;
        seen.ledger.delivered += patch.records;
        seen.ledger.conflated += conflated;
        seen.ledger.filtered += patch.filtered;
        seen.ledger.expired += patch.expired;
        seen.ledger.overrun += patch.overrun;
        seen.ledger.lost += patch.lost;
        seen.cursor = patch.to;
        seen.newest = seen.newest.max(patch.newest_stamp);
        arrival.ready();
        if patch.oldest_stamp > 0 {
            arrival.latency(patch.oldest_stamp);
        }
        if let Some(window) = self.credit() {
            self.unconfirmed += payload_len as u64;
            if self.unconfirmed >= CREDIT_STEP.min(window / 4) {
                self.tick(arrival.out);
            }
        }
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
            _ => Ok(()),
        }
    }

    /// Counts a patch by its head, of which `bytes` hold the beginning, if that says everything: then the rest of the frame
    /// need not be read. Returns how much that is.
    fn head_alone(&mut self, bytes: &[u8], arrival: &mut Arrival<'_>) -> Result<Option<usize>, String> {
        if !matches!(self.duty, Duty::Subscribe { is_verifying: false, wants_newest: false, .. }) {
            return Ok(None);
        }
        let Some(head) = frames::head(bytes).filter(|head| head.first == FIN_BINARY) else { return Ok(None) };
        let Some(patch) = skim::patch_of_beginning(&bytes[head.len..], head.payload_len) else { return Ok(None) };
        self.patch(&patch, head.payload_len, arrival)?;
        Ok(Some(head.len + head.payload_len - bytes.len()))
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
            let subscribe = wire::Subscribe { topic: self.topic.clone(), ..Default::default() };
            put_message(out, 2, client_frame::Body::Subscribe(subscribe));
        }
    }

    fn publish(&mut self, record: &Outgoing<'_>, out: &mut Vec<u8>) {
        let (key, value) = (record.key.to_owned().into(), record.value.to_owned().into());
        let records = vec![wire::Record { key, value, ..Default::default() }];
        let publish = wire::Publish { topic: self.topic.clone(), records, ..Default::default() };
        put_message(out, record.serial, client_frame::Body::Publish(publish));
    }

    fn take(&mut self, bytes: &[u8], arrival: &mut Arrival<'_>) -> Result<Taken, String> {
        let used = take_frames(bytes, arrival, |first, payload, arrival| self.message(first, payload, arrival))?;
        let discard = self.head_alone(&bytes[used..], arrival)?;
        Ok(discard.map_or(Taken { used, discard: 0 }, |discard| Taken { used: bytes.len(), discard }))
    }

    fn tick(&mut self, out: &mut Vec<u8>) {
        if self.unconfirmed > 0 {
            let credit = wire::Credit { bytes: std::mem::take(&mut self.unconfirmed) };
            put_message(out, 0, client_frame::Body::Credit(credit));
        }
    }
}

/// Appends a client's message.
fn put_message(out: &mut Vec<u8>, request: u64, body: client_frame::Body) {
    let message = envelope::encode_client(&wire::ClientFrame { request, body: Some(body) });
    put_frame(out, FIN_BINARY, &message);
}
