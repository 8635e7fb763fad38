//! After the sends: what was taken is accounted for, what was not begun is taken back.

use bytes::Bytes;

use crate::kernel::SocketId;
use crate::shard::connection::{NO_ENTRY, Stage};
use crate::shard::core::{Core, Order};
use crate::shard::outbox::TakenBack;

impl Core {
    /// Whether something follows from a send that went whole, which must not wait for the next completion.
    pub(super) fn must_settle_soon(&self) -> bool {
        !self.resumable.is_empty()
            || self.outbox.entries.iter().any(|entry| {
                let connection = self.connections[entry.connection as usize].as_deref();
                connection.is_some_and(|connection| {
                    connection.is_paused_by_answers || matches!(connection.stage, Stage::Closing)
                })
            })
    }

    /// The socket took only the first `taken` bytes of this turn's send.
    pub(super) fn sent_short(&mut self, socket: SocketId, taken: usize, errno: i32) {
        let Some(connection) = self.connection(socket) else { return };
        let entry = connection.entry;
        if entry == NO_ENTRY {
            return;
        }
        self.counters.short_sends += 1;
        if errno != 0 {
            self.outbox.entries[entry as usize].is_settled = true;
            self.at(socket.index).entry = NO_ENTRY;
            return self.ended(socket.index);
        }
        let mut pieces: Vec<Bytes> = Vec::new();
        self.outbox.pieces(entry, &mut pieces);
        let begun = self.at(socket.index).outlet.settle(&pieces, taken).begun;
        let back = self.outbox.cut(entry, begun);
        self.counters.frames_taken_back += back.len() as u64;
        for taken_back in back {
            self.take_back(socket.index, taken_back);
        }
        self.commit(entry, begun, taken);
        let connection = self.at(socket.index);
        connection.outlet.is_blocked = true;
        // Whatever was cut: what is subscribed to from now on is not brought to the head either.
        connection.is_pressed = true;
        self.orders.push(Order::AwaitWritable(socket));
    }

    fn take_back(&mut self, index: u32, taken_back: TakenBack) {
        match taken_back {
            TakenBack::Patch { subscriber, patch } => {
                let patch = &self.outbox.patches[patch as usize];
                let (before, is_empty) = (patch.before.clone(), patch.patch.from == patch.patch.to);
                let is_owed = is_empty || patch.patch.reset;
                self.move_behind(index, subscriber, before);
                let connection = self.at(index);
                connection.is_pressed = true;
                let subscriber = &mut connection.subscribers[subscriber as usize];
                if let Some(extra) = subscriber.extra.as_deref_mut() {
                    extra.not_before = crate::clock::Moment::default();
                }
                if is_owed {
                    subscriber.extra().owes_patch = true;
                }
            }
            TakenBack::Announcement { subscriber, announcement } => {
                let extra = self.at(index).subscribers[subscriber as usize].extra();
                extra.announcements.insert(0, announcement);
                extra.owes_patch = true;
            }
        }
    }

    /// Accounts for the sends that went whole, then reads from those that waited for it.
    pub(super) fn settle(&mut self) {
        for entry in 0..self.outbox.entries.len() {
            if !self.outbox.entries[entry].is_settled {
                let bytes = self.outbox.entries[entry].bytes;
                self.commit(entry as u32, usize::MAX, bytes);
            }
        }
        self.outbox.clear();
        for socket in std::mem::take(&mut self.resumable) {
            if self.connection(socket).is_some() {
                self.resume_reading(socket.index);
            }
        }
    }

    /// The first `begun` frames of a send count as sent.
    fn commit(&mut self, entry: u32, begun: usize, taken: usize) {
        let now = self.now;
        let mut payload = 0;
        for sent in self.outbox.begun(entry, begun) {
            let (patch, class) = (&sent.patch, &mut self.counters.classes[sent.class.0 as usize]);
            payload += patch.payload_len as u64;
            class.patches += 1;
            class.ahead += patch.counts.ahead;
            class.ledger.due += patch.to.since(patch.from);
            class.ledger.delivered += patch.counts.records;
            class.ledger.conflated += patch.counts.conflated;
            class.ledger.filtered += patch.counts.filtered;
            class.ledger.expired += patch.counts.expired;
            class.ledger.overrun += patch.counts.overrun;
            class.ledger.lost += patch.counts.lost;
        }
        let has_marker = self.outbox.has_marker(entry, begun);
        let index = self.outbox.entries[entry as usize].connection;
        self.outbox.entries[entry as usize].is_settled = true;
        self.counters.bytes_sent += taken as u64;
        self.counters.markers_sent += u64::from(has_marker);
        let limit = self.settings.limits.answer_bytes;
        let connection = self.at(index);
        connection.entry = NO_ENTRY;
        connection.bytes_taken += taken as u64;
        let window = &mut connection.outlet.window;
        window.sent(payload, now);
        if has_marker || (window.wants_mark(0) && (window.has_credit() || connection.is_unmarked)) {
            connection.outlet.window.place_mark(now);
            connection.marker = connection.pings;
            connection.heard_since_mark = false;
            let overdue = now + std::time::Duration::from_secs(10);
            self.arm(index, overdue);
        }
        let connection = self.at(index);
        let socket = connection.socket;
        if connection.is_paused_by_answers && connection.outlet.waiting() <= limit / 2 {
            connection.is_paused_by_answers = false;
            self.resumable.push(socket);
        }
        let connection = self.at(index);
        if matches!(connection.stage, Stage::Closing) && connection.outlet.waiting() == 0 && !connection.is_finished {
            connection.is_finished = true;
            self.orders.push(Order::Finish(socket));
        }
    }
}
