//! Offering: each topic with news hands the way to its head to everyone who is ready for it.

use std::cmp::Reverse;

use super::chunk::Chunk;
use crate::fanout::Ready;
use crate::ids::Offset;
use crate::limits::{FAIRNESS_INTERVAL, PATCH_BYTES, SENDS_PER_TURN};
use crate::shard::core::Core;
use crate::topic::{Cursor, TopicIndex};

impl Core {
    /// Offers each topic with news to everyone at its head.
    pub(super) fn offer_dirty(&mut self) {
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

    /// The lowest cursor of those who are behind, other shards among them; the log keeps what they need if it can.
    pub(in crate::shard) fn lowest_behind(&self, topic: TopicIndex) -> Option<Offset> {
        let (channel, head) = (&self.channels[topic.at()], self.topics.topic(topic).log.head());
        let here = (!channel.behind.is_empty()).then_some(channel.lowest_behind);
        let elsewhere = channel.followers.iter().map(|follower| follower.cursor.needs()).filter(|needs| *needs < head);
        here.into_iter().chain(elsewhere).min()
    }
}
