//! The flush: what each connection is sent this turn.
//!
//! Two ways lead into a connection's one send. Connections that woke (their socket takes bytes again, their window has
//! room, answers wait, a timer ran out) *gather* what is due to them, topic by topic. And each topic that got records
//! *offers* one shared frame to everyone at its head. A subscriber that cannot take it is listed as behind, and costs
//! nothing until its connection wakes.

use std::cmp::Reverse;
use std::time::Duration;

use crate::clock::Moment;
use crate::fanout::{Announcement, Place, Ready, SubscriptionOptions};
use crate::ids::Offset;
use crate::limits::{
    FAIRNESS_INTERVAL, FILTERED_PATCH_INTERVAL, PATCH_BYTES, SENDS_PER_TURN, TURN_BYTES_PER_CONNECTION,
};
use crate::protocol::envelope;
use crate::protocol::frame::{Opcode, frame};
use crate::protocol::wire::{self, server_frame::Body};
use crate::shard::connection::{NO_ENTRY, Stage};
use crate::shard::core::{Core, Order};
use crate::shard::outbox::TurnPatch;
use crate::topic::{Ask, Cursor, PressureWindows, Priority, TopicIndex};

/// What came of giving one topic its turn on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// The client is at the head.
    Head,
    /// Another chunk must follow.
    More,
    /// The connection can take nothing.
    NoRoom,
    /// Not before this moment.
    Wait(Moment),
}

/// A topic that has something for a connection: the highest priority pending, when it was last served (in chunks), and which of
/// the connection's subscribers it is. Ordered by whose turn it is.
type Want = (Reverse<Option<Priority>>, u32, u32);

/// Whose turn it is out of order: a topic's waiting time counts double for each priority that it stands above low, so that of those
/// which only get such turns the lowest still lose most. Whoever waits comes to its turn in the end.
fn longest_waiting(wants: &[Want], chunks: u32) -> usize {
    let weighed = |at: &usize| {
        let (Reverse(priority), served, _) = wants[*at];
        u64::from(chunks.wrapping_sub(served)) << priority.map_or(0, Priority::index)
    };
    // The first of equal ones.
    (0..wants.len()).rev().max_by_key(weighed).expect("somebody wants something")
}

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
            self.topics.topic_mut(topic).log.release_runs();
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
        if let Some(pong) = connection.pong.take() {
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

    /// Offers the connection's topics their turns, those with pending critical records first, equal ones by waiting time,
    /// and every eighth chunk to whoever waits longest, as [`longest_waiting`] has it.
    fn gather(&mut self, index: u32) {
        let mut wants: Vec<Want> = Vec::new();
        let mut wake_at = Moment::NEVER;
        for position in 0..self.at(index).subscribers.len() {
            let cursor = self.cursor(index, position as u32);
            let now = self.now;
            let connection = self.connections[index as usize].as_deref().expect("its caller holds its index");
            let subscriber = &connection.subscribers[position];
            if subscriber.is_waiting() {
                continue;
            }
            let log = &self.topics.topic(subscriber.topic).log;
            if cursor.offset == log.head() && !subscriber.owes() {
                continue;
            }
            if subscriber.not_before() > now && !subscriber.owes() {
                wake_at = wake_at.min(subscriber.not_before());
                continue;
            }
            wants.push((Reverse(log.pending_priority(&cursor)), subscriber.served, position as u32));
        }
        wants.sort_unstable();
        let mut is_at_head = true;
        while !wants.is_empty() {
            let connection = self.at(index);
            connection.chunks = connection.chunks.wrapping_add(1);
            let (chunks, is_pressed) = (connection.chunks, connection.is_pressed);
            let (mut chosen, mut limit) = (0, PATCH_BYTES);
            if chunks.is_multiple_of(FAIRNESS_INTERVAL) {
                chosen = longest_waiting(&wants, chunks);
                if is_pressed {
                    // Out of turn it takes little, or what low priorities are spared would be what high ones lack.
                    limit = self.room(index) / FAIRNESS_INTERVAL as usize;
                }
            }
            let (_, _, position) = wants.remove(chosen);
            match self.chunk(index, position, limit) {
                Chunk::Head => {}
                Chunk::More => is_at_head = false,
                Chunk::Wait(at) => wake_at = wake_at.min(at),
                Chunk::NoRoom => {
                    is_at_head = false;
                    break;
                }
            }
        }
        let connection = self.at(index);
        connection.is_pressed = !is_at_head;
        if wake_at < Moment::NEVER {
            connection.wake_at = connection.wake_at.min(wake_at);
            self.arm(index, wake_at);
        }
        if !is_at_head && self.at(index).outlet.window.room() > self.payload(index) {
            // Only this turn's budget was used up.
            self.make_due(index);
        }
    }

    /// Offers each topic with news to everyone at its head.
    fn offer_dirty(&mut self) {
        let mut order: Vec<_> = (0..self.dirty.len())
            .map(|at| {
                let topic = self.dirty[at];
                let since = Cursor::at(self.channels[topic.at()].flushed);
                (Reverse(self.topics.topic(topic).log.pending_priority(&since)), at)
            })
            .collect();
        order.sort_unstable();
        let mut is_done = vec![false; order.len()];
        let (mut by_priority, mut by_waiting) = (order.iter().map(|(_, at)| *at), 0..order.len());
        while self.outbox.entries.len() < SENDS_PER_TURN {
            self.picks = self.picks.wrapping_add(1);
            let next = if self.picks.is_multiple_of(FAIRNESS_INTERVAL) {
                by_waiting.find(|at| !is_done[*at])
            } else {
                by_priority.find(|at| !is_done[*at])
            };
            let Some(at) = next else { break };
            let topic = self.dirty[at];
            if !self.offer(topic) {
                break;
            }
            is_done[at] = true;
            self.offered(topic);
        }
        let mut done = is_done.into_iter();
        self.dirty.retain(|_| !done.next().unwrap_or(false));
    }

    /// Everyone ready was offered the head.
    fn offered(&mut self, topic: TopicIndex) {
        let log = &mut self.topics.topic_mut(topic).log;
        let channel = &mut self.channels[topic.at()];
        channel.is_dirty = false;
        channel.forwarded = None;
        channel.flushed = log.head();
        log.mark_flushed();
        self.retain(topic);
        self.resume_publishers(topic);
    }

    /// The lowest cursor of those who are behind, other shards among them; the log keeps what they need if it can.
    pub(super) fn lowest_behind(&self, topic: TopicIndex) -> Option<Offset> {
        let (channel, head) = (&self.channels[topic.at()], self.topics.topic(topic).log.head());
        let here = (!channel.behind.is_empty()).then_some(channel.lowest_behind);
        let elsewhere = channel.followers.iter().map(|follower| follower.cursor.needs()).filter(|needs| *needs < head);
        here.into_iter().chain(elsewhere).min()
    }

    /// Offers a topic's head to everyone ready; false if the turn's budget ended first.
    fn offer(&mut self, topic: TopicIndex) -> bool {
        self.offer_to_followers(topic);
        let log = &self.topics.topic(topic).log;
        let (head, floor) = (log.head(), log.floor());
        let start = self.channels[topic.at()].next.min(self.channels[topic.at()].ready.len());
        // Whoever leaves the list has its place taken by the last one. That one was not visited yet in the first pass,
        // and in the second it is either not visited or at the head already.
        for (mut at, end) in [(start, usize::MAX), (0, start)] {
            while let Some(entry) = self.channels[topic.at()].ready.get(at).copied().filter(|_| at < end) {
                if entry.cursor == head {
                    at += 1;
                    continue;
                }
                if self.outbox.entries.len() >= SENDS_PER_TURN {
                    self.channels[topic.at()].next = at;
                    return false;
                }
                if self.offer_to(topic, floor, at, entry) {
                    at += 1;
                }
            }
        }
        self.channels[topic.at()].next = 0;
        true
    }

    /// Offers a topic's head to one subscriber; false if it left the list.
    fn offer_to(&mut self, topic: TopicIndex, floor: Offset, at: usize, entry: Ready) -> bool {
        let index = entry.connection;
        // A replica's floor may rise by more than the last flush: who is below it is told that it starts anew.
        if floor <= entry.cursor && !entry.has_options() && !self.at(index).outlet.is_blocked {
            let patch = self.shared(topic, entry.cursor);
            let made = &self.outbox.patches[patch as usize].patch;
            let (len, to, is_whole) = (made.payload_len, made.to, !made.more);
            if is_whole && self.admits(index, len) {
                let send = self.entry(index);
                self.outbox.push_patch(send, entry.subscriber(), patch);
                self.channels[topic.at()].ready[at].cursor = to;
                return true;
            }
        }
        match self.chunk(index, entry.subscriber(), PATCH_BYTES) {
            Chunk::Head => true,
            Chunk::Wait(until) => {
                let connection = self.at(index);
                connection.wake_at = connection.wake_at.min(until);
                self.arm(index, until);
                true
            }
            Chunk::More => {
                self.at(index).is_pressed = true;
                if self.at(index).outlet.window.room() > self.payload(index) {
                    self.make_due(index);
                }
                false
            }
            Chunk::NoRoom => {
                self.at(index).is_pressed = true;
                self.fall_behind(index, entry.subscriber());
                if !self.at(index).outlet.is_blocked && self.at(index).outlet.window.room() > self.payload(index) {
                    self.make_due(index);
                }
                false
            }
        }
    }

    /// Moves a subscriber from the ready to those behind, where it stands.
    fn fall_behind(&mut self, index: u32, position: u32) {
        let cursor = self.cursor(index, position);
        self.move_behind(index, position, cursor);
    }

    /// Gives one topic its turn on a connection; a patch of its own has at most `limit` bytes, or one record.
    fn chunk(&mut self, index: u32, position: u32, limit: usize) -> Chunk {
        if self.at(index).outlet.is_blocked {
            return Chunk::NoRoom;
        }
        let (now, wall) = (self.now, self.wall);
        self.say_announcements(index, position);
        let not_before = self.at(index).subscribers[position as usize].not_before();
        if not_before > now {
            return Chunk::Wait(not_before);
        }
        let room = self.room(index);
        if room == 0 {
            return Chunk::NoRoom;
        }
        let topic = self.at(index).subscribers[position as usize].topic;
        let mut cursor = self.cursor(index, position);
        if !self.topics.topic(topic).log.is_valid(&cursor) {
            self.counters.restarts += 1;
            cursor = self.topics.topic(topic).log.start(None).0;
            let announcement = Announcement { request: 0, is_resumed: false, matching: 1 };
            self.at(index).subscribers[position as usize].extra().announcements.push(announcement);
            self.say_announcements(index, position);
        }
        let options = self.options(index, position);
        let is_pressed = self.at(index).is_pressed;
        let patch = match self.shareable(topic, &cursor, options.as_deref(), is_pressed) {
            Some(patch) if self.admits(index, self.outbox.patches[patch as usize].patch.payload_len) => patch,
            _ => {
                let class = self.topics.topic(topic).class;
                let settings = &self.settings.classes[class.0 as usize];
                let pressure = is_pressed
                    .then_some(PressureWindows { low: settings.pressure_low, normal: settings.pressure_normal });
                let ask = Ask {
                    now,
                    wall,
                    room: room.min(limit),
                    pressure,
                    window: options.as_ref().and_then(|options| options.window),
                    filter: options.as_ref().and_then(|options| options.filter.as_ref()),
                    only_new_events: options.as_ref().is_some_and(|options| options.only_new_events),
                };
                self.encoded.push(topic);
                let topic = self.topics.topic_mut(topic);
                let patch = topic.log.patch(topic.id, &cursor, &ask);
                self.counters.own_patches += 1;
                self.outbox.keep(TurnPatch { patch, class, before: cursor, takers: 0 })
            }
        };
        if let Some(until) = self.empty_too_soon(index, position, patch, options.as_deref()) {
            return Chunk::Wait(until);
        }
        let send = self.entry(index);
        self.outbox.push_patch(send, position, patch);
        self.advance(index, position, patch, options.as_deref())
    }

    /// Moves a subscriber's cursor behind a patch that was queued for it.
    fn advance(&mut self, index: u32, position: u32, patch: u32, options: Option<&SubscriptionOptions>) -> Chunk {
        let now = self.now;
        let made = &self.outbox.patches[patch as usize].patch;
        let (next, to, has_more) = (made.next.clone(), made.to, made.more);
        let connection = self.at(index);
        let chunks = connection.chunks;
        let subscriber = &mut connection.subscribers[position as usize];
        subscriber.served = chunks;
        if let Some(extra) = subscriber.extra.as_deref_mut() {
            extra.owes_patch = false;
            extra.not_before = Moment::default();
        }
        if let Some(options) = options {
            if let Some(interval) = options.interval {
                subscriber.extra().not_before = now + interval;
            } else if options.filter.is_some() {
                // Only patches that say nothing are held to this: see `empty_too_soon`.
                subscriber.extra().filtered_at = now;
            }
        }
        subscriber.tidy();
        if has_more {
            self.move_behind(index, position, next);
            return Chunk::More;
        }
        let (topic, place) = (subscriber.topic, subscriber.place);
        match place {
            Place::Ready(at) => self.channels[topic.at()].ready[at as usize].cursor = to,
            Place::Behind(_) => {
                self.unlist(topic, place);
                self.list_ready(index, position, to);
            }
        }
        Chunk::Head
    }

    /// A subscription with a filter is moved on by an empty patch only once a second: until when it waits.
    fn empty_too_soon(
        &mut self,
        index: u32,
        position: u32,
        patch: u32,
        options: Option<&SubscriptionOptions>,
    ) -> Option<Moment> {
        options?.filter.as_ref()?;
        let made = &self.outbox.patches[patch as usize].patch;
        if made.counts.records > 0 || made.more || made.reset {
            return None;
        }
        let subscriber = &self.at(index).subscribers[position as usize];
        let extra = subscriber.extra.as_ref()?;
        let until = extra.filtered_at + FILTERED_PATCH_INTERVAL;
        (!extra.owes_patch && until > self.now).then_some(until)
    }

    /// The turn's patch from `cursor` that others may have too, if this subscriber may take it.
    fn shareable(
        &mut self,
        topic: TopicIndex,
        cursor: &Cursor,
        options: Option<&SubscriptionOptions>,
        is_pressed: bool,
    ) -> Option<u32> {
        if is_pressed || cursor.is_catching_up() || options.is_some_and(|options| options.filter.is_some()) {
            return None;
        }
        let patch = self.shared(topic, cursor.offset);
        let oldest = self.outbox.patches[patch as usize].patch.oldest_event;
        let window = options.and_then(|options| options.window).unwrap_or(Duration::MAX);
        (oldest == Moment::NEVER || self.now.since(oldest) < window).then_some(patch)
    }

    /// The patch from `from` to the head, made once a turn.
    pub(super) fn shared(&mut self, topic: TopicIndex, from: Offset) -> u32 {
        let turn = self.turn;
        if let Some(patch) = self.channels[topic.at()].frame(from, turn) {
            return patch;
        }
        let ask = Ask {
            now: self.now,
            wall: self.wall,
            room: PATCH_BYTES,
            pressure: None,
            window: None,
            filter: None,
            only_new_events: false,
        };
        let cursor = Cursor::at(from);
        let forwarded = self.forwarded(topic, from);
        let made = self.topics.topic_mut(topic);
        let class = made.class;
        let patch = match forwarded {
            Some(patch) => {
                self.counters.forwarded += 1;
                patch
            }
            None => {
                self.encoded.push(topic);
                self.counters.shared_patches += 1;
                made.log.patch(made.id, &cursor, &ask)
            }
        };
        let patch = self.outbox.keep(TurnPatch { patch, class, before: cursor, takers: 0 });
        self.channels[topic.at()].remember(from, patch, turn);
        patch
    }

    /// Puts the `Subscribed` frames that are due before a patch.
    fn say_announcements(&mut self, index: u32, position: u32) {
        let subscriber = &mut self.at(index).subscribers[position as usize];
        let topic = subscriber.topic;
        let Some(extra) = subscriber.extra.as_deref_mut() else { return };
        for announcement in std::mem::take(&mut extra.announcements) {
            let topic = self.topics.topic(topic);
            let subscribed = wire::Subscribed {
                topic_id: topic.id.0,
                topic: topic.name.as_str().to_owned(),
                epoch: topic.epoch.0,
                head: topic.log.head().0,
                resumed: announcement.is_resumed,
                matching: announcement.matching,
            };
            let bytes = envelope::encode(announcement.request, Body::Subscribed(subscribed));
            let send = self.entry(index);
            self.outbox.push_announcement(send, position, bytes, announcement);
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

    fn options(&mut self, index: u32, position: u32) -> Option<Box<SubscriptionOptions>> {
        let connection = self.at(index);
        let serving = connection.subscribers[position as usize].subscription;
        connection.subscriptions[serving as usize].as_ref()?.options.clone()
    }
}
