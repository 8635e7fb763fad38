//! Gathering: the topics of a connection that woke are given their turns.

use std::cmp::Reverse;

use super::chunk::Chunk;
use crate::clock::Moment;
use crate::limits::{FAIRNESS_INTERVAL, PATCH_BYTES};
use crate::shard::core::Core;
use crate::topic::Priority;

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

impl Core {
    /// Offers the connection's topics their turns, those with pending critical records first, equal ones by waiting time,
    /// and every eighth chunk to whoever waits longest, as [`longest_waiting`] has it.
    pub(super) fn gather(&mut self, index: u32) {
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
}
