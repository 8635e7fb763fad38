//! Publishing: records into a topic's log, once, and the acknowledgement.

use std::time::Duration;

use crate::protocol::wire::{self, Code, server_frame::Body};
use crate::shard::Appended;
use crate::shard::connection::Connection;
use crate::shard::core::{Core, Order};
use crate::topic::{ApplyError, NewRecord, RecordError, SequenceCheck, TopicIndex, TopicName};

/// Why a publish was refused. All of these last: the same publish would be refused again.
struct Refused {
    code: Code,
    message: String,
}

impl Refused {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl Core {
    /// A publish, after the rate was looked at. One with a sequence is never refused for a passing reason: reading pauses.
    pub(super) fn publish_admitted(&mut self, index: u32, request: u64, publish: wire::Publish) {
        if let Err(wait) = self.take_rate(index) {
            if publish.sequence == 0 {
                return self.over_rate(index, request, wait);
            }
            self.pause_reading(index, |connection| &mut connection.is_paused_by_rate);
            let until = self.now + wait;
            let connection = self.at(index);
            connection.wake_at = connection.wake_at.min(until);
            self.arm(index, until);
        }
        self.publish(index, request, publish);
    }

    fn publish(&mut self, index: u32, request: u64, publish: wire::Publish) {
        let (sequence, session) = (publish.sequence, self.at(index).session.expect("a publisher said Hello").0);
        let topic = match self.topic_to_publish(&publish.topic) {
            Ok(topic) => topic,
            Err(refused) => return self.refuse(index, request, &refused),
        };
        let id = self.topics.topic(topic).id;
        if sequence > 0
            && let SequenceCheck::Duplicate { offset } = self.sequences.check(session, id, sequence)
        {
            self.counters.duplicates += 1;
            let offset = offset.map_or(0, |offset| offset.0);
            return self.acknowledge(index, request, wire::Published { offset, duplicate: true });
        }
        let before = self.topics.topic(topic).log.head();
        match self.apply(topic, publish) {
            Ok(last) => {
                self.note_appended(topic, request, last.since(before));
                if sequence > 0 {
                    self.sequences.note(session, id, sequence, last);
                }
                self.acknowledge(index, request, wire::Published { offset: last.0, duplicate: false });
                self.pause_if_unflushed(index, topic);
            }
            Err(refused) => {
                // A lasting refusal uses the number up.
                if sequence > 0 {
                    self.sequences.note(session, id, sequence, crate::ids::Offset::ZERO);
                }
                self.refuse(index, request, &refused);
            }
        }
    }

    fn acknowledge(&mut self, index: u32, request: u64, published: wire::Published) {
        if request > 0 {
            self.answer(index, request, Body::Published(published));
        }
    }

    fn refuse(&mut self, index: u32, request: u64, refused: &Refused) {
        self.answer_error(index, request, refused.code, &refused.message, Duration::ZERO);
    }

    /// The topic of that name; made, if it does not exist.
    fn topic_to_publish(&mut self, name: &str) -> Result<TopicIndex, Refused> {
        if let Some(topic) = self.topics.find(name) {
            return Ok(topic);
        }
        let name = TopicName::parse(name).map_err(|error| Refused::new(Code::Invalid, error.to_string()))?;
        let Ok(topic) = self.topics.create(&name, self.now) else {
            self.counters.limit_hits.topics += 1;
            let message = format!("there are {} topics, as many as there may be", self.settings.limits.topics);
            return Err(Refused::new(Code::LimitReached, message));
        };
        self.topic_created(topic, &name);
        Ok(topic)
    }

    /// Parses the records and appends them, all or none.
    fn apply(&mut self, topic: TopicIndex, publish: wire::Publish) -> Result<crate::ids::Offset, Refused> {
        let now = self.now;
        let limits = &self.settings.limits;
        let class = self.topics.topic(topic).class;
        let defaults = &self.settings.classes[class.0 as usize];
        let mut records = Vec::with_capacity(publish.records.len());
        for record in publish.records {
            let record = NewRecord::parse(record, defaults, limits).map_err(|error| {
                let hits = &mut self.counters.limit_hits;
                hits.key_bytes += u64::from(matches!(error, RecordError::KeyTooLong { .. }));
                hits.value_bytes += u64::from(matches!(error, RecordError::ValueTooLarge { .. }));
                Refused::new(error.code(), error.to_string())
            })?;
            records.push(record);
        }
        if records.is_empty() && !publish.replace {
            return Err(Refused::new(Code::Invalid, "a publish without records"));
        }
        let applied = self.topics.topic_mut(topic).log.apply(records, publish.replace, now).map_err(|error| {
            self.counters.limit_hits.keys += u64::from(matches!(error, ApplyError::KeysFull { .. }));
            Refused::new(error.code(), error.to_string())
        })?;
        self.counters.classes[class.0 as usize].published += applied.appended;
        self.appended(topic);
        Ok(applied.last)
    }

    /// For a harness that keeps a model of the topics.
    pub(super) fn note_appended(&mut self, topic: TopicIndex, request: u64, count: u64) {
        let at = self.now;
        if let Some(journal) = &mut self.journal {
            let topic = self.topics.topic(topic);
            journal.push(Appended { topic: topic.id, request, last: topic.log.head(), count, at });
        }
    }

    /// A topic's log grew, or its timers may have changed.
    pub(super) fn appended(&mut self, topic: TopicIndex) {
        self.make_dirty(topic);
        self.arm_topic_deadlines(topic);
    }

    /// Unflushed events pause their publishers, so that everyone at the head has a chance at each.
    fn pause_if_unflushed(&mut self, index: u32, topic: TopicIndex) {
        if self.topics.topic(topic).log.unflushed_event_bytes() <= self.settings.limits.unflushed_event_bytes {
            return;
        }
        let connection = self.at(index);
        let socket = connection.socket;
        if connection.is_open() && !connection.is_paused_by_flush {
            self.counters.limit_hits.unflushed_event_bytes += 1;
            self.pause_reading(index, |connection| &mut connection.is_paused_by_flush);
            self.channels[topic.at()].paused_publishers.push(socket);
        }
    }

    /// Stops reading from a connection, for the reason that `flag` stands for.
    pub(super) fn pause_reading(&mut self, index: u32, flag: impl FnOnce(&mut Connection) -> &mut bool) {
        let connection = self.at(index);
        if connection.is_open() {
            let was_paused = connection.is_paused();
            *flag(connection) = true;
            if !was_paused {
                let socket = connection.socket;
                self.orders.push(Order::Pause(socket));
            }
        }
    }

    /// The topic was offered to everyone at its head: who published it may go on.
    pub(super) fn resume_publishers(&mut self, topic: TopicIndex) {
        for socket in std::mem::take(&mut self.channels[topic.at()].paused_publishers) {
            if let Some(connection) = self.connection(socket) {
                connection.is_paused_by_flush = false;
                self.resumable.push(socket);
            }
        }
    }
}
