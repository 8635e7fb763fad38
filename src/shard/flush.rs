//! The flush: what each connection is sent this turn.
//!
//! Two ways lead into a connection's one send. Connections that woke (their socket takes bytes again, their window has
//! room, answers wait, a timer ran out) *gather* what is due to them, topic by topic (`gather.rs`). And each topic that got
//! records *offers* one shared frame to everyone at its head (`offer.rs`). A subscriber that cannot take it is listed as
//! behind, and costs nothing until its connection wakes. Both come down to `chunk.rs`: one topic, one connection, one patch.

mod chunk;
mod gather;
mod offer;

use crate::fanout::Place;
use crate::limits::{SENDS_PER_TURN, TURN_BYTES_PER_CONNECTION};
use crate::protocol::frame::{Opcode, frame};
use crate::shard::connection::{NO_ENTRY, Stage};
use crate::shard::core::{Core, Order};
use crate::topic::Cursor;

/// What a connection may be sent in this turn.
struct Room {
    /// Bytes of patches that may be added.
    bytes: usize,
    /// Bytes of patches that are queued.
    payload: u64,
}

impl Core {
    /// Makes this turn's sends.
    pub(super) fn flush(&mut self) {
        self.turn += 1;
        self.outbox.clear();
        // Those who woke get at most half of a turn in which topics have news, so that neither starves the other.
        let share = if self.dirty.is_empty() { SENDS_PER_TURN } else { SENDS_PER_TURN / 2 };
        for _ in 0..self.due.len() {
            if self.outbox.entries.len() >= share {
                break;
            }
            let Some(socket) = self.due.pop_front() else { break };
            if let Some(connection) = self.connection(socket) {
                connection.is_due = false;
                self.serve(socket.index);
            }
        }
        self.serve_followers();
        self.offer_dirty();
        self.answer_fences();
        self.finish_sends();
        for topic in self.encoded.drain(..) {
            let encodings = self.topics.topic_mut(topic).log.release_runs();
            self.counters.encodings += u64::from(encodings);
            // It stands there once for each patch of its own; the first release finds what was made for all of them.
            self.counters.encoded_topics += u64::from(encodings > 0);
        }
        if self.has_work() {
            self.counters.turns_over_budget += 1;
        }
    }

    /// Gives one connection everything that is due to it.
    fn serve(&mut self, index: u32) {
        let connection = self.at(index);
        if connection.outlet.is_blocked || matches!(connection.stage, Stage::Gone) {
            return;
        }
        if let Some(pong) = connection.take_pong() {
            connection.outlet.answer(&frame(Opcode::Pong, &pong));
        }
        if connection.outlet.waiting() > 0 {
            self.entry(index);
        } else if matches!(connection.stage, Stage::Closing) && !connection.is_finished {
            connection.is_finished = true;
            let socket = connection.socket;
            self.orders.push(Order::Finish(socket));
        }
        if self.at(index).is_open() {
            self.gather(index);
            let connection = self.at(index);
            let has_mark_to_place = !connection.outlet.window.has_credit()
                && !connection.is_unmarked
                && connection.outlet.window.in_flight() > 0
                && connection.outlet.window.wants_mark(0);
            if has_mark_to_place {
                self.entry(index);
            }
        }
    }

    /// Places a marker behind the patches of those whose window wants one, and looks whether anything follows from the sends.
    fn finish_sends(&mut self) {
        self.must_settle_soon = false;
        for send in 0..self.outbox.entries.len() {
            let (index, payload) = (self.outbox.entries[send].socket.index, self.outbox.entries[send].payload as u64);
            let connection = self.connections[index as usize].as_deref_mut().expect("it was given a send");
            self.must_settle_soon |= connection.is_paused_by_answers || matches!(connection.stage, Stage::Closing);
            let window = &connection.outlet.window;
            // Nothing comes behind a close frame.
            if window.wants_mark(payload)
                && connection.is_open()
                && !window.has_credit()
                && !connection.is_unmarked
                && window.in_flight() + payload > 0
            {
                connection.pings = connection.pings.wrapping_add(1);
                let ping = frame(Opcode::Ping, &connection.pings.to_be_bytes());
                self.outbox.push_marker(send as u32, ping);
            }
        }
    }

    /// The connection's send of this turn, begun if it is not.
    fn entry(&mut self, index: u32) -> u32 {
        let connection = self.connections[index as usize].as_deref_mut().expect("its caller holds its index");
        if connection.entry == NO_ENTRY {
            connection.entry = self.outbox.open(connection.socket, connection.outlet.take());
        }
        connection.entry
    }

    /// Whether a shared frame of so many bytes may go: it fits, or overshoots the window alone and the window allows it.
    fn admits(&mut self, index: u32, len: usize) -> bool {
        let Room { bytes, payload } = self.room_and_payload(index);
        len <= bytes || (bytes > 0 && payload == 0 && self.at(index).outlet.window.may_overshoot())
    }

    /// Bytes of patches that the connection may still be sent in this turn.
    fn room(&self, index: u32) -> usize {
        self.room_and_payload(index).bytes
    }

    /// Patch bytes queued for the connection in this turn.
    fn payload(&self, index: u32) -> u64 {
        self.room_and_payload(index).payload
    }

    fn room_and_payload(&self, index: u32) -> Room {
        let connection = self.connections[index as usize].as_deref().expect("its caller holds its index");
        let (payload, queued) = self
            .outbox
            .entries
            .get(connection.entry as usize)
            .map_or((0, 0), |entry| (entry.payload as u64, entry.bytes));
        let window = connection.outlet.window.room().saturating_sub(payload);
        let window = usize::try_from(window).unwrap_or(usize::MAX);
        Room { bytes: window.min(TURN_BYTES_PER_CONNECTION.saturating_sub(queued)), payload }
    }

    /// Where a subscriber stands.
    pub(super) fn cursor(&self, index: u32, position: u32) -> Cursor {
        let connection = self.connections[index as usize].as_deref().expect("its caller holds its index");
        let subscriber = &connection.subscribers[position as usize];
        match subscriber.place {
            Place::Ready(at) => Cursor::at(self.channels[subscriber.topic.at()].ready[at as usize].cursor),
            Place::Behind(_) => subscriber.cursor.clone(),
        }
    }

    /// Lists a subscriber as behind, at `cursor`, wherever it was listed.
    pub(super) fn move_behind(&mut self, index: u32, position: u32, cursor: Cursor) {
        let subscriber = &mut self.at(index).subscribers[position as usize];
        match subscriber.place {
            Place::Behind(_) => subscriber.cursor = cursor,
            place @ Place::Ready(_) => {
                let topic = subscriber.topic;
                self.unlist(topic, place);
                self.list_behind(index, position, cursor);
            }
        }
    }
}
