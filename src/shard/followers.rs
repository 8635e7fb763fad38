//! At a topic's home: the other shards, each of which is kept at the head like a subscriber.
//!
//! A follower that finds room on the way to its shard is sent the turn's shared frame; one that does not waits as a cursor, and what
//! it is sent then is merged.

use crate::clock::Moment;
use crate::fanout::Follower;
use crate::ids::{Offset, ShardId, TopicId};
use crate::session::SessionId;
use crate::shard::core::{Core, Fence};
use crate::shard::message::{SAID_BYTES, ShardMessage};
use crate::topic::{Pattern, TopicIndex};

impl Core {
    /// The other shards.
    pub(super) fn others(&self) -> impl Iterator<Item = ShardId> + use<> {
        let me = self.shard;
        (0..self.mesh.shard_count()).map(ShardId).filter(move |shard| *shard != me)
    }

    /// Says something to every other shard.
    pub(super) fn tell_others(&mut self, message: impl Fn() -> ShardMessage) {
        for other in self.others() {
            self.mesh.push(other, message(), 0);
        }
    }

    /// Says to every other shard that a session ended; to one that says nothing only as long as there is room on the way, since nobody
    /// pauses who causes it. Its home then remembers the session's sequences until it needs their room.
    pub(super) fn tell_ended(&mut self, session: SessionId, since: Moment, at: Moment) {
        for other in self.others() {
            if self.may_ask(&[other]) {
                self.mesh.push_question(other, ShardMessage::SessionEnded { session, since, at }, SAID_BYTES);
            }
        }
    }

    /// A topic came into being here.
    pub(super) fn tell_created(&mut self, topic: TopicIndex) {
        let topic = self.topics.topic(topic);
        let (name, id, epoch) = (topic.name.clone(), topic.id, topic.epoch);
        self.tell_others(|| ShardMessage::Created { name: name.clone(), id, epoch });
    }

    /// Another shard has subscribers. A topic that is not known was forgotten, and the shard is about to hear of it.
    pub(super) fn attach_follower(&mut self, shard: ShardId, id: TopicId, generation: u32) {
        let Some(topic) = self.topics.find_id(id) else { return };
        let cursor = self.topics.topic(topic).log.start_replica();
        let channel = &mut self.channels[topic.at()];
        channel.followers.retain(|follower| follower.shard != shard);
        channel.followers.push(Follower {
            shard,
            generation,
            cursor,
            shown: Offset::ZERO,
            unfinished_bytes: 0,
            is_wanted: false,
        });
        self.note_lag(topic);
    }

    /// It has had none for a while.
    pub(super) fn detach_follower(&mut self, shard: ShardId, id: TopicId, generation: u32) {
        let Some(topic) = self.topics.find_id(id) else { return };
        let is_meant = |follower: &Follower| follower.shard == shard && follower.generation == generation;
        self.channels[topic.at()].followers.retain(|follower| !is_meant(follower));
        self.look_after_idle_topic(topic);
    }

    /// Whether it has subscribers that keep the topic alive.
    pub(super) fn follower_wants(&mut self, shard: ShardId, id: TopicId, generation: u32, is_wanted: bool) {
        let Some(topic) = self.topics.find_id(id) else { return };
        for follower in &mut self.channels[topic.at()].followers {
            if follower.shard == shard && follower.generation == generation {
                follower.is_wanted = is_wanted;
            }
        }
        self.look_after_idle_topic(topic);
    }

    /// Has the next flush look at the topic's followers.
    fn note_lag(&mut self, topic: TopicIndex) {
        let channel = &mut self.channels[topic.at()];
        if !channel.is_lagging {
            channel.is_lagging = true;
            self.lagging.push(topic);
        }
    }

    /// Sends followers that waited for room what is due to them.
    pub(super) fn serve_followers(&mut self) {
        for topic in std::mem::take(&mut self.lagging) {
            if self.topics.contains(topic) && std::mem::take(&mut self.channels[topic.at()].is_lagging) {
                self.offer_to_followers(topic);
            }
        }
    }

    /// Moves the topic's followers towards the head, as far as there is room on the way to each.
    pub(super) fn offer_to_followers(&mut self, topic: TopicIndex) {
        for at in 0..self.channels[topic.at()].followers.len() {
            let follower = &self.channels[topic.at()].followers[at];
            let (shard, generation) = (follower.shard, follower.generation);
            if !self.topics.topic(topic).log.is_behind(&follower.cursor) {
                continue;
            }
            if !self.mesh.admits_patch(shard) {
                self.counters.mesh_full += 1;
                self.note_lag(topic);
                continue;
            }
            self.send_transfer(topic, at, generation);
            // What is sent in one turn is a moment of the state. One chunk a turn is enough, unless more is appended meanwhile.
            while self.must_finish(topic, at) {
                self.send_transfer(topic, at, generation);
            }
            let follower = &self.channels[topic.at()].followers[at];
            if self.topics.topic(topic).log.is_behind(&follower.cursor) {
                self.note_lag(topic);
            }
        }
    }

    /// Whether a follower was sent so much without reaching the head that it must not be left there: what it holds would grow for ever.
    /// That a large log takes many chunks is no reason; that it took twice as much as the log has is one.
    fn must_finish(&self, topic: TopicIndex, at: usize) -> bool {
        let unfinished = self.channels[topic.at()].followers[at].unfinished_bytes;
        let limit = self.mesh.limits().catch_up_bytes;
        unfinished > limit && unfinished > limit.max(2 * self.topics.topic(topic).log.memory_bytes())
    }

    /// Moves one follower by one transfer.
    fn send_transfer(&mut self, topic: TopicIndex, at: usize, generation: u32) {
        // Taken out while the log makes the transfer.
        let follower = self.channels[topic.at()].followers.swap_remove(at);
        let from = follower.cursor.offset();
        let head = self.topics.topic(topic).log.head();
        let is_at_previous_head = from < head && from >= self.channels[topic.at()].flushed;
        let shared = is_at_previous_head
            .then(|| self.shared(topic, from))
            .filter(|patch| !self.outbox.patches[*patch as usize].patch.more);
        let shared_patch = shared.map(|patch| &self.outbox.patches[patch as usize].patch);
        self.encoded.push(topic);
        let (now, wall, room) = (self.now, self.wall, self.mesh.limits().transfer_bytes);
        let made = self.topics.topic_mut(topic);
        let (transfer, cursor) = made.log.transfer(made.id, &follower.cursor, shared_patch, now, wall, room);
        let (id, weight) = (made.id, transfer.weight());
        let (shown, unfinished_bytes) = if transfer.has_more() {
            (follower.shown, follower.unfinished_bytes + weight)
        } else {
            (cursor.offset(), 0)
        };
        self.counters.transfers += 1;
        let message = ShardMessage::Transfer { topic: id, generation, transfer: Box::new(transfer) };
        self.mesh.push(follower.shard, message, weight);
        let followers = &mut self.channels[topic.at()].followers;
        followers.push(Follower { cursor, shown, unfinished_bytes, ..follower });
        let last = followers.len() - 1;
        followers.swap(at, last);
    }

    /// A shard wants to know that it has heard everything up to now of the topics that match.
    pub(super) fn fence(&mut self, shard: ShardId, question: u64, pattern: &Pattern) {
        let found: Vec<_> = if pattern.is_exact() {
            self.topics.find(pattern.as_str()).into_iter().collect()
        } else {
            let matching = self.topics.iter().filter(|(_, topic)| pattern.matches(&topic.name));
            matching.map(|(topic, _)| topic).collect()
        };
        let is_followed =
            |topic: &TopicIndex| self.channels[topic.at()].followers.iter().any(|follower| follower.shard == shard);
        let head_of = |topic: TopicIndex| (self.topics.topic(topic).id, self.topics.topic(topic).log.head());
        let heads = found.into_iter().filter(is_followed).map(head_of).collect();
        self.fences.push(Fence { shard, question, heads });
    }

    /// Answers the fences whose shard has been sent everything, behind it.
    pub(super) fn answer_fences(&mut self) {
        for mut fence in std::mem::take(&mut self.fences) {
            fence.heads.retain(|(id, head)| {
                let Some(topic) = self.topics.find_id(*id) else { return false };
                // What the log let go since the last transfer: nobody is to find it at the replica.
                self.offer_to_followers(topic);
                let log = &self.topics.topic(topic).log;
                let mut followers = self.channels[topic.at()].followers.iter();
                followers.any(|follower| {
                    let offset = follower.cursor.offset();
                    // One that has all records may lack the end of what was let go, and its replica stands where it was until then.
                    let lacks_the_end = offset == log.head() && log.is_behind(&follower.cursor);
                    follower.shard == fence.shard && (follower.shown < *head || lacks_the_end)
                })
            });
            if fence.heads.is_empty() {
                self.mesh.push(fence.shard, ShardMessage::FenceReached { question: fence.question }, 0);
            } else {
                self.fences.push(fence);
            }
        }
    }
}
