//! After the sends: what was taken is accounted for, what was not begun is taken back.

use bytes::Bytes;

use crate::kernel::SocketId;
use crate::shard::connection::{NO_ENTRY, Stage};
use crate::shard::core::{Core, Order};
use crate::shard::deadlines::MARKER_OVERDUE;
use crate::shard::outbox::{TakenBack, TurnPatch};

impl Core {
    /// Whether something follows from a send that went whole, which must not wait for the next completion.
    pub(super) fn must_settle_soon(&self) -> bool {
        self.must_settle_soon || !self.resumable.is_empty()
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
                let (from, payload_len) = (patch.patch.from, patch.patch.payload_len);
                self.restore_resent(index, subscriber, from, payload_len);
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
        self.account();
        self.outbox.clear();
        for socket in std::mem::take(&mut self.resumable) {
            if self.connection(socket).is_some() {
                self.resume_reading(socket.index);
            }
        }
    }

    /// Books each patch of this turn once for all who took it: most were taken by many.
    fn account(&mut self) {
        for TurnPatch { patch, class, takers, .. } in &self.outbox.patches {
            let class = &mut self.counters.classes[class.0 as usize];
            class.patches += takers;
            class.ahead += takers * patch.counts.ahead;
            class.ledger.due += takers * patch.to.since(patch.from);
            class.ledger.delivered += takers * patch.counts.records;
            class.ledger.conflated += takers * patch.counts.conflated;
            class.ledger.filtered += takers * patch.counts.filtered;
            class.ledger.expired += takers * patch.counts.expired;
            class.ledger.overrun += takers * patch.counts.overrun;
            class.ledger.lost += takers * patch.counts.lost;
        }
    }

    /// The first `begun` frames of a send count as sent.
    fn commit(&mut self, entry: u32, begun: usize, taken: usize) {
        let now = self.now;
        let payload = self.outbox.begin(entry, begun);
        let has_marker = self.outbox.has_marker(entry, begun);
        let send = &mut self.outbox.entries[entry as usize];
        send.is_settled = true;
        let socket = send.socket;
        self.counters.bytes_sent += taken as u64;
        self.counters.markers_sent += u64::from(has_marker);
        let connection = self.connections[socket.index as usize].as_deref_mut().expect("it was given a send");
        connection.entry = NO_ENTRY;
        connection.bytes_taken += taken as u64;
        let window = &mut connection.outlet.window;
        window.sent(payload, now);
        let is_marked = has_marker || (window.wants_mark(0) && (window.has_credit() || connection.is_unmarked));
        if is_marked {
            window.place_mark(now);
            connection.marker = connection.pings;
            connection.heard_since_mark = false;
        }
        if connection.is_paused_by_answers && connection.outlet.waiting() <= self.settings.limits.answer_bytes / 2 {
            connection.is_paused_by_answers = false;
            self.resumable.push(socket);
        }
        if matches!(connection.stage, Stage::Closing) && connection.outlet.waiting() == 0 && !connection.is_finished {
            connection.is_finished = true;
            self.orders.push(Order::Finish(socket));
        }
        let overdue = is_marked.then(|| now + MARKER_OVERDUE);
        let look = overdue.into_iter().chain(connection.outlet.window.starves_at()).min();
        if let Some(at) = look {
            self.arm(socket.index, at);
        }
    }
}
