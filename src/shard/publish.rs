//! Publishing: records into a topic's log, once, and the acknowledgement.
//!
//! A publish is parsed where its publisher is connected, applied at its topic's home (often another shard), and answered
//! where it came from.

use std::time::Duration;

use crate::clock::Moment;
use crate::fanout::Publisher;
use crate::ids::{ClassId, Offset};
use crate::kernel::SocketId;
use crate::protocol::wire::{self, Code, server_frame::Body};
use crate::session::SessionId;
use crate::shard::Appended;
use crate::shard::connection::Connection;
use crate::shard::core::{Core, Order};
use crate::shard::message::{Origin, Publish, ShardMessage};
use crate::topic::{ApplyError, NewRecord, RecordError, SequenceCheck, TopicIndex, TopicName};

/// Why a publish was refused. All of these last: the same publish would be refused again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// For the client's program.
    pub code: Code,
    /// For its author.
    pub message: String,
}

impl Refused {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl Core {
    /// A publish, after the rate was looked at. One with a sequence is never refused for a passing reason: reading pauses.
    /// `refused`: why its records are not there.
    pub(super) fn publish_admitted(
        &mut self,
        index: u32,
        request: u64,
        publish: wire::Publish,
        refused: Option<Refused>,
    ) {
        if let Err(wait) = self.take_rate(index) {
            if publish.sequence == 0 {
                return self.over_rate(index, request, wait);
            }
            self.pause_reading(index, |connection| connection.is_paused_by_rate = true);
            let until = self.now + wait;
            let connection = self.at(index);
            connection.wake_at = connection.wake_at.min(until);
            self.arm(index, until);
        }
        match self.parse(index, request, publish, refused) {
            Ok(publish) => self.send_home(index, publish),
            Err(refused) => self.refuse(index, request, &refused),
        }
    }

    /// Checks what can be checked where the publisher is, and starts the windows.
    fn parse(
        &mut self,
        index: u32,
        request: u64,
        publish: wire::Publish,
        refused: Option<Refused>,
    ) -> Result<Publish, Refused> {
        let here = self.topics.find(&publish.topic).map(|topic| self.topics.topic(topic));
        let known = here.map(|topic| (topic.name.clone(), topic.class));
        let (topic, class) = match known {
            Some(known) => known,
            None => {
                let topic = match self.name_of_topic_elsewhere(&publish.topic) {
                    Some(known) => known,
                    None => TopicName::parse(&publish.topic)
                        .map_err(|error| Refused::new(Code::Invalid, error.to_string()))?,
                };
                let class = self.topics.class_of(&topic);
                (topic, class)
            }
        };
        let records = match refused {
            None => self.parse_records(class, publish.records, publish.replace),
            Some(refused) => Err(refused),
        };
        let connection = self.at(index).socket;
        let session = self.at(index).session.expect("a publisher said Hello");
        let (shard, since, sequence) = (self.shard, self.at(index).session_since, publish.sequence);
        let origin = Origin::Client { shard, connection, request, session, since, sequence };
        Ok(Publish { origin, topic, records, replace: publish.replace, at: self.now })
    }

    /// The name of a topic that exists, here or elsewhere.
    pub(super) fn name_of_topic(&self, name: &str) -> Option<TopicName> {
        let here = self.topics.find(name).map(|topic| self.topics.topic(topic).name.clone());
        here.or_else(|| self.name_of_topic_elsewhere(name))
    }

    fn name_of_topic_elsewhere(&self, name: &str) -> Option<TopicName> {
        Some(self.directory.topic(self.directory.find(name)?)?.name.clone())
    }

    fn parse_records(
        &mut self,
        class: ClassId,
        records: Vec<wire::Record>,
        replace: bool,
    ) -> Result<Vec<NewRecord>, Refused> {
        if records.is_empty() && !replace {
            return Err(Refused::new(Code::Invalid, "a publish without records"));
        }
        let defaults = &self.settings.classes[class.0 as usize];
        let limits = &self.settings.limits;
        let hits = &mut self.counters.limit_hits;
        let parse = |record| {
            NewRecord::parse(record, defaults, limits).map_err(|error| {
                hits.key_bytes += u64::from(matches!(error, RecordError::KeyTooLong { .. }));
                hits.value_bytes += u64::from(matches!(error, RecordError::ValueTooLarge { .. }));
                Refused::new(error.code(), error.to_string())
            })
        };
        records.into_iter().map(parse).collect()
    }

    /// Hands a publish to its topic's home, which answers.
    fn send_home(&mut self, index: u32, publish: Publish) {
        let home = self.settings.homes.home_of(publish.topic.as_str());
        if home == self.shard {
            return self.publish(publish);
        }
        if matches!(publish.origin, Origin::Client { sequence: 1.., .. }) {
            self.at(index).has_sequences_elsewhere = true;
        }
        let weight = publish.weight();
        self.mesh.push_publish(home, ShardMessage::Publish(Box::new(publish)), weight);
        if self.mesh.is_backed_up(home) {
            let connection = self.at(index).socket;
            self.pause_reading(index, |connection| connection.is_paused_by_mesh = true);
            self.paused_by_mesh.push((home, connection));
        }
    }

    /// At home: a publish, from this shard or another.
    pub(super) fn publish(&mut self, mut publish: Publish) {
        let outcome = self.apply_once(&mut publish);
        match publish.origin {
            Origin::Client { shard, connection, request, .. } if shard == self.shard => {
                self.published(connection, request, outcome);
            }
            Origin::Client { shard, connection, request, .. } => {
                self.mesh.push(shard, ShardMessage::Published { connection, request, outcome }, 0);
            }
            Origin::Program(None) => {}
            Origin::Program(Some(reply)) => {
                // Whoever asked may have given up waiting.
                let _ = reply.try_send(outcome);
            }
        }
    }

    /// At the publisher's shard: what came of a publish.
    pub(super) fn published(&mut self, connection: SocketId, request: u64, outcome: Result<wire::Published, Refused>) {
        if !self.connection(connection).is_some_and(|connection| connection.is_open()) {
            return;
        }
        match outcome {
            Ok(published) if request > 0 => self.answer(connection.index, request, Body::Published(published)),
            Ok(_) => {}
            Err(refused) => self.refuse(connection.index, request, &refused),
        }
    }

    fn refuse(&mut self, index: u32, request: u64, refused: &Refused) {
        self.answer_error(index, request, refused.code, &refused.message, Duration::ZERO);
    }

    /// Applies a publish unless its sequence was applied before.
    fn apply_once(&mut self, publish: &mut Publish) -> Result<wire::Published, Refused> {
        let (publisher, request, session, since, sequence) = match publish.origin {
            Origin::Client { shard, connection, request, session, since, sequence } => {
                (Publisher::Client(shard, connection), request, session, since, sequence)
            }
            Origin::Program(_) => (Publisher::Program, 0, SessionId::NOBODY, Moment::default(), 0),
        };
        let topic = match self.topics.find(publish.topic.as_str()) {
            Some(topic) => topic,
            None => {
                // What is refused brings nothing into being; but a number is used up under the topic's id.
                if sequence == 0 {
                    self.check_first(publish)?;
                }
                self.create_topic(&publish.topic)?
            }
        };
        let id = self.topics.topic(topic).id;
        if sequence > 0
            && let SequenceCheck::Duplicate { offset } = self.sequences.check(session.0, id, sequence)
        {
            self.counters.duplicates += 1;
            return Ok(wire::Published { offset: offset.map_or(0, |offset| offset.0), duplicate: true });
        }
        let before = self.topics.topic(topic).log.head();
        let records = std::mem::replace(&mut publish.records, Ok(Vec::new()));
        let applied = records.and_then(|records| self.apply(topic, records, publish.replace, publish.at));
        if sequence > 0 {
            // A lasting refusal uses the number up.
            let offset = applied.as_ref().copied().unwrap_or(Offset::ZERO);
            self.sequences.note(session.0, since, id, sequence, offset);
            self.tell_forgotten_sequences();
        }
        let last = applied?;
        self.note_appended(topic, request, last.since(before), publish.at);
        self.pause_if_unflushed(publisher, topic);
        Ok(wire::Published { offset: last.0, duplicate: false })
    }

    /// Whether the first publish to a topic will be applied.
    fn check_first(&mut self, publish: &Publish) -> Result<(), Refused> {
        let records = publish.records.as_ref().map_err(Refused::clone)?;
        let checked = self.topics.empty_log(&publish.topic).check(records, publish.replace);
        checked.map_err(|error| self.refusal(error))
    }

    fn create_topic(&mut self, name: &TopicName) -> Result<TopicIndex, Refused> {
        let limit = self.settings.limits.topics;
        let created = (self.topics.len() + self.directory.len() < limit).then(|| self.topics.create(name, self.now));
        let Some(Ok(topic)) = created else {
            self.counters.limit_hits.topics += 1;
            let message = format!("there are {limit} topics, as many as there may be");
            return Err(Refused::new(Code::LimitReached, message));
        };
        self.tell_created(topic);
        self.topic_created(topic, name);
        Ok(topic)
    }

    /// Appends the records, all or none.
    fn apply(
        &mut self,
        topic: TopicIndex,
        records: Vec<NewRecord>,
        replace: bool,
        at: Moment,
    ) -> Result<Offset, Refused> {
        let applied = self.topics.topic_mut(topic).log.apply(records, replace, at);
        let applied = applied.map_err(|error| self.refusal(error))?;
        let class = self.topics.topic(topic).class;
        self.counters.classes[class.0 as usize].published += applied.appended;
        self.appended(topic);
        Ok(applied.last)
    }

    fn refusal(&mut self, error: ApplyError) -> Refused {
        self.counters.limit_hits.keys += u64::from(matches!(error, ApplyError::KeysFull { .. }));
        Refused::new(error.code(), error.to_string())
    }

    /// For a harness that keeps a model of the topics.
    pub(super) fn note_appended(&mut self, topic: TopicIndex, request: u64, count: u64, at: Moment) {
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
    fn pause_if_unflushed(&mut self, publisher: Publisher, topic: TopicIndex) {
        if self.topics.topic(topic).log.unflushed_event_bytes() <= self.settings.limits.unflushed_event_bytes {
            return;
        }
        self.counters.limit_hits.unflushed_event_bytes += 1;
        let paused = &mut self.channels[topic.at()].paused_publishers;
        if paused.contains(&publisher) {
            return;
        }
        paused.push(publisher);
        match publisher {
            Publisher::Client(shard, connection) if shard == self.shard => self.hold_publisher(connection),
            Publisher::Client(shard, connection) => {
                self.mesh.push(shard, ShardMessage::HoldPublisher(connection), 0);
            }
            Publisher::Program => self.program_holds += 1,
        }
    }

    /// At the publisher's shard: its topic's home wants no more for the moment.
    pub(super) fn hold_publisher(&mut self, connection: SocketId) {
        if self.connection(connection).is_some() {
            self.pause_reading(connection.index, |connection| connection.flush_holds += 1);
        }
    }

    /// At the publisher's shard: it may go on.
    pub(super) fn release_publisher(&mut self, connection: SocketId) {
        if let Some(held) = self.connection(connection) {
            // Other topics may hold it still. One that is closing is held by none.
            held.flush_holds = held.flush_holds.saturating_sub(1);
            self.resumable.push(connection);
        }
    }

    /// Stops reading from a connection, for a reason that `note` writes down.
    pub(super) fn pause_reading(&mut self, index: u32, note: impl FnOnce(&mut Connection)) {
        let connection = self.at(index);
        if connection.is_open() {
            let was_paused = connection.is_paused();
            note(connection);
            if !was_paused {
                let socket = connection.socket;
                self.orders.push(Order::Pause(socket));
            }
        }
    }

    /// The topic was offered to everyone at its head: who published it may go on.
    pub(super) fn resume_publishers(&mut self, topic: TopicIndex) {
        for publisher in std::mem::take(&mut self.channels[topic.at()].paused_publishers) {
            match publisher {
                Publisher::Client(shard, connection) if shard == self.shard => self.release_publisher(connection),
                Publisher::Client(shard, connection) => {
                    self.mesh.push(shard, ShardMessage::ReleasePublisher(connection), 0);
                }
                Publisher::Program => self.program_holds -= 1,
            }
        }
    }

    /// The ways to other shards that were full have room again: who waited for them is read from.
    pub(super) fn resume_paused_by_mesh(&mut self) {
        let mut still = Vec::new();
        for (home, socket) in std::mem::take(&mut self.paused_by_mesh) {
            if self.mesh.is_backed_up(home) {
                still.push((home, socket));
            } else if let Some(connection) = self.connection(socket) {
                connection.is_paused_by_mesh = false;
                self.resumable.push(socket);
            }
        }
        self.paused_by_mesh = still;
    }
}
