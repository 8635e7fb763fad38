//! At a shard with subscribers: replicas of the topics whose home is elsewhere.
//!
//! ```text
//!   Created ─▶ in the directory ──first subscriber──▶ attaching ──first whole transfer──▶ current ──▶ ...
//!                     ▲                                                                     │
//!                     └───────────────── no subscriber for the class's linger ──────────────┘
//! ```

use crate::clock::Moment;
use crate::fanout::{Announcement, Channel};
use crate::ids::{Epoch, ShardId, TopicId};
use crate::shard::core::Core;
use crate::shard::directory::Remote;
use crate::shard::message::{Match, ShardMessage};
use crate::topic::{Attachment, TopicIndex, TopicName, Transfer};

impl Core {
    /// A topic came into being at another shard: everyone here whose subscription matches gets it.
    pub(super) fn created_elsewhere(&mut self, home: ShardId, name: TopicName, id: TopicId, epoch: Epoch) {
        self.directory.add(id, Remote { name: name.clone(), epoch, home });
        self.attach_interested(&name, Match::Elsewhere(id));
    }

    /// A topic is no more.
    pub(super) fn forgotten_elsewhere(&mut self, id: TopicId) {
        let remote = self.directory.remove(id).expect("it was created before it was forgotten");
        self.matches_no_longer(&remote.name);
        if let Some(topic) = self.topics.find_id(id) {
            self.forget(topic);
        }
    }

    /// The topic on this shard; a replica is begun if there is none.
    pub(super) fn bring_here(&mut self, found: Match) -> TopicIndex {
        let id = match found {
            Match::Here(topic) | Match::Lagging(topic) => return topic,
            Match::Elsewhere(id) => id,
        };
        if let Some(topic) = self.topics.find_id(id) {
            return topic;
        }
        let Remote { name, epoch, home } = self.directory.topic(id).expect("its caller found it there").clone();
        self.attachments = self.attachments.wrapping_add(1);
        let generation = self.attachments;
        let topic = self.topics.replicate(&name, id, epoch, Attachment { home, generation }, self.now);
        self.make_channel(topic);
        self.mesh.push(home, ShardMessage::Attach { topic: id, generation }, 0);
        topic
    }

    /// What moves a replica came from its home.
    pub(super) fn transferred(&mut self, id: TopicId, generation: u32, transfer: Transfer) {
        let found = self.topics.find_id(id).filter(|topic| {
            self.topics.topic(*topic).follows.is_some_and(|attachment| attachment.generation == generation)
        });
        let Some(topic) = found else {
            // Detached, or forgotten and attached anew, while it was on its way.
            self.counters.stale_transfers += 1;
            return;
        };
        let log = &mut self.topics.topic_mut(topic).log;
        let (was_current, before) = (log.is_current(), log.head());
        let forwarded = transfer.shareable().filter(|patch| was_current && patch.from == before).cloned();
        log.follow(transfer);
        let (is_current, after) = (log.is_current(), log.head());
        self.channels[topic.at()].forwarded = forwarded.map(Box::new);
        if is_current && !was_current {
            self.begin_waiting(topic);
        }
        if after > before {
            self.appended(topic);
        } else if !self.channels[topic.at()].is_dirty {
            // Only fates came, and everyone at the head has had its chance.
            self.retain(topic);
        }
    }

    /// Whether a message would have a replica drop critical events that came here and were not offered to everyone yet.
    pub(super) fn drops_unflushed_critical(&self, message: &ShardMessage) -> bool {
        let ShardMessage::Transfer { topic, generation, transfer } = message else { return false };
        let Some(at) = self.topics.find_id(*topic) else { return false };
        let (made, channel) = (self.topics.topic(at), &self.channels[at.at()]);
        let is_meant = made.follows.is_some_and(|attachment| attachment.generation == *generation);
        is_meant && channel.is_dirty && made.log.drops_critical(transfer, channel.flushed)
    }

    /// The replica has its first head, or has caught up with its home: those who waited for it begin.
    pub(super) fn begin_waiting(&mut self, topic: TopicIndex) {
        let behind: Vec<_> = self.channels[topic.at()].behind.clone();
        for entry in behind {
            let (index, position) = (entry.connection, entry.subscriber);
            let subscriber = &mut self.at(index).subscribers[position as usize];
            let Some(waiting) = subscriber.extra().waiting.take() else { continue };
            let (cursor, is_resumed) = self.topics.topic(topic).log.start(waiting.resume);
            self.move_behind(index, position, cursor);
            let announcement = Announcement { request: waiting.request, is_resumed, matching: waiting.matching };
            let head = self.topics.topic(topic).log.head();
            let extra = self.at(index).subscribers[position as usize].extra();
            extra.resent_to = extra.resent_to.min(head);
            extra.announcements.insert(0, announcement);
            extra.owes_patch = true;
            self.make_due(index);
        }
        self.raise_lowest(topic);
    }

    /// The first subscriber by exact name came, or the last one went: the home is told, since they keep the topic alive.
    pub(super) fn exact_subscribers_changed(&mut self, topic: TopicIndex) {
        let made = self.topics.topic(topic);
        let Some(Attachment { home, generation }) = made.follows else { return };
        let (id, is_wanted) = (made.id, self.channels[topic.at()].exact_subscribers > 0);
        self.mesh.push(home, ShardMessage::Wanted { topic: id, generation, is_wanted }, 0);
    }

    /// A replica without subscribers is given up after its class's linger.
    pub(super) fn give_up(&mut self, topic: TopicIndex) {
        let made = self.topics.topic(topic);
        let Attachment { home, generation } = made.follows.expect("only replicas are given up");
        let id = made.id;
        self.mesh.push(home, ShardMessage::Detach { topic: id, generation }, 0);
        self.drop_topic(topic);
    }

    /// Takes a topic without subscribers out of everything that names it.
    pub(super) fn drop_topic(&mut self, topic: TopicIndex) {
        debug_assert_eq!(self.channels[topic.at()].subscribers(), 0);
        // An empty topic holds nobody back; and should one do so, nobody else would ever let them go.
        self.resume_publishers(topic);
        self.channels[topic.at()] = Channel::default();
        self.dirty.retain(|dirty| *dirty != topic);
        self.lagging.retain(|lagging| *lagging != topic);
        self.encoded.retain(|encoded| *encoded != topic);
        self.topics.forget(topic);
    }

    /// Room for what fan-out knows of a topic.
    pub(super) fn make_channel(&mut self, topic: TopicIndex) {
        if self.channels.len() <= topic.at() {
            self.channels.resize_with(topic.at() + 1, Default::default);
        }
    }

    /// The home's frame from `from` to the head, if it came and still may be sent.
    pub(super) fn forwarded(&mut self, topic: TopicIndex, from: crate::ids::Offset) -> Option<crate::topic::Patch> {
        let head = self.topics.topic(topic).log.head();
        let patch = self.channels[topic.at()].forwarded.as_deref()?;
        let is_fit = patch.from == from && patch.to == head && patch.valid_until > self.now;
        debug_assert!(patch.valid_until > Moment::default());
        is_fit.then(|| patch.clone())
    }
}
