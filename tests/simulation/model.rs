//! Topics as a list of everything that was ever appended: slow, and so plain that it cannot be wrong in the same way as the log.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use prost::Message as _;
use tidegate::clock::Moment;
use tidegate::protocol::wire;
use tidegate::topic::{Log, Priority, TopicClass, TopicName};

/// What was appended at one offset, and what became of it.
#[derive(Debug)]
pub struct Past {
    pub kind: Kind,
    pub key: Bytes,
    pub value: Bytes,
    pub priority: Priority,
    pub arrived: Moment,
    pub deadline: Moment,
    /// Earlier deadlines, with the head at which each was replaced: a replica at that head may not know yet.
    pub earlier: Vec<(u64, Moment)>,
    pub gone: Option<Gone>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Value,
    Delete,
    Event,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// A newer record of its key came, or it deleted nothing.
    Superseded,
    /// The log let the event go, in this turn.
    Evicted(Fate, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Expired,
    Overrun,
    Lost,
}

/// One topic.
#[derive(Debug)]
pub struct Topic {
    pub name: String,
    pub class: usize,
    /// The record of offset 1 comes first.
    pub past: Vec<Past>,
    /// The live record of each key, values as well as deletes.
    live: BTreeMap<Bytes, usize>,
    pub events: VecDeque<usize>,
    pub event_bytes: usize,
    pub evicted_to: u64,
    /// It stands for the log of a shard that is not the topic's home.
    pub is_replica: bool,
    /// When its home came to the head: frames that were encoded since may be under way.
    pub head_at: Moment,
    /// So many of its home's deeds it has followed.
    #[allow(dead_code, reason = "the simulation of all shards looks at it")]
    pub deeds: usize,
}

impl Topic {
    pub fn new(name: &str, classes: &[TopicClass]) -> Self {
        let parsed = TopicName::parse(name).expect("the scenario's names are valid");
        let class = classes.iter().position(|class| class.pattern.matches(&parsed)).expect("the last matches all");
        Self {
            name: name.to_owned(),
            class,
            past: Vec::new(),
            live: BTreeMap::new(),
            events: VecDeque::new(),
            event_bytes: 0,
            evicted_to: 0,
            is_replica: false,
            head_at: Moment::default(),
            deeds: 0,
        }
    }

    pub fn head(&self) -> u64 {
        self.past.len() as u64
    }

    /// Applies a publish; returns how many records that appended.
    pub fn apply(&mut self, publish: &wire::Publish, class: &TopicClass, now: Moment) -> u64 {
        let before = self.head();
        if publish.replace {
            self.replace(&publish.records, class, now);
        } else {
            publish.records.iter().for_each(|record| self.append(record, class, now));
        }
        self.head() - before
    }

    fn replace(&mut self, records: &[wire::Record], class: &TopicClass, now: Moment) {
        let mut last: BTreeMap<&Bytes, usize> = BTreeMap::new();
        records.iter().enumerate().for_each(|(index, record)| _ = last.insert(&record.key, index));
        let is_kept = |key: &Bytes| last.get(key).is_some_and(|index| !records[*index].delete);
        let mut gone: Vec<usize> = self.values().filter(|at| !is_kept(&self.past[*at].key)).collect();
        gone.sort_unstable();
        gone.into_iter().for_each(|at| self.delete(at, now));
        for (index, record) in records.iter().enumerate() {
            if record.delete || last[&record.key] != index {
                continue;
            }
            let old = self.live.get(&record.key).copied().filter(|at| self.past[*at].kind == Kind::Value);
            match old {
                Some(at) if self.past[at].value == record.value => {
                    let (head, earlier) = (self.head(), self.past[at].deadline);
                    self.past[at].deadline = window_of(record, class).map_or(Moment::NEVER, |window| now + window);
                    if self.is_replica {
                        self.past[at].earlier.push((head, earlier));
                    }
                }
                _ => self.append(record, class, now),
            }
        }
    }

    fn delete(&mut self, at: usize, now: Moment) {
        let (key, priority) = (self.past[at].key.clone(), self.past[at].priority);
        self.push(Kind::Delete, key, Bytes::new(), priority, now, Moment::NEVER);
    }

    /// Deletes the keys whose window has passed; returns how many.
    pub fn expire_keys(&mut self, now: Moment) -> u64 {
        let mut due: Vec<(Moment, usize)> =
            self.values().map(|at| (self.past[at].deadline, at)).filter(|(deadline, _)| *deadline <= now).collect();
        due.sort_unstable();
        due.iter().for_each(|(_, at)| self.delete(*at, now));
        due.len() as u64
    }

    /// When the next key runs out.
    pub fn next_key_deadline(&self) -> Moment {
        self.values().map(|at| self.past[at].deadline).min().unwrap_or(Moment::NEVER)
    }

    fn append(&mut self, record: &wire::Record, class: &TopicClass, now: Moment) {
        let kind = match (record.key.is_empty(), record.delete) {
            (true, _) => Kind::Event,
            (false, true) => Kind::Delete,
            (false, false) => Kind::Value,
        };
        let priority = Priority::from_wire(record.priority).unwrap_or(class.priority);
        let is_for_ever = kind == Kind::Delete || (kind == Kind::Event && priority == Priority::Critical);
        let window = window_of(record, class).filter(|_| !is_for_ever);
        let deadline = window.map_or(Moment::NEVER, |window| now + window);
        self.push(kind, record.key.clone(), record.value.clone(), priority, now, deadline);
    }

    fn push(&mut self, kind: Kind, key: Bytes, value: Bytes, priority: Priority, arrived: Moment, deadline: Moment) {
        let at = self.past.len();
        let mut past = Past { kind, key, value, priority, arrived, deadline, earlier: Vec::new(), gone: None };
        if kind == Kind::Event {
            self.events.push_back(at);
            self.event_bytes += bytes_of(&past, at);
        } else {
            let old = self.live.get(&past.key).copied();
            if kind == Kind::Delete && old.is_none_or(|old| self.past[old].kind == Kind::Delete) {
                past.gone = Some(Gone::Superseded);
            } else {
                old.into_iter().for_each(|old| self.past[old].gone = Some(Gone::Superseded));
                self.live.insert(past.key.clone(), at);
            }
        }
        self.past.push(past);
    }

    /// Lets go of the events that `log` has let go of, if it was allowed to.
    pub fn evict_as(&mut self, log: &Log, class: &TopicClass, turn: u64, now: Moment) {
        while self.events.len() > log.event_count() {
            let at = *self.events.front().expect("there are some");
            let past = &self.past[at];
            let is_beyond = self.events.len() > class.events
                || self.event_bytes > class.event_bytes
                || past.arrived + class.event_age <= now;
            let fate = match (past.deadline <= now, past.priority) {
                (true, _) => Fate::Expired,
                (false, Priority::Critical) => Fate::Lost,
                (false, _) => Fate::Overrun,
            };
            assert!(
                fate == Fate::Expired || is_beyond,
                "{}: event {} was evicted within its limits",
                self.name,
                at + 1
            );
            self.event_bytes -= bytes_of(past, at);
            self.past[at].gone = Some(Gone::Evicted(fate, turn));
            self.events.pop_front();
            self.evicted_to = at as u64 + 1;
        }
        assert_eq!(self.events.len(), log.event_count(), "{}: events", self.name);
    }

    fn values(&self) -> impl Iterator<Item = usize> {
        self.live.values().copied().filter(|at| self.past[*at].kind == Kind::Value)
    }

    /// The keyed state.
    pub fn state(&self) -> impl Iterator<Item = &Past> {
        self.values().map(|at| &self.past[at])
    }

    pub fn checksum(&self) -> u32 {
        self.state().fold(0, |sum, past| sum.wrapping_add(term(&past.key, &past.value)))
    }
}

/// One key's part of the checksum, from its description in the wire contract.
pub fn term(key: &[u8], value: &[u8]) -> u32 {
    let len = u32::try_from(key.len()).expect("keys are short");
    crc32fast::hash(&[&len.to_le_bytes(), key, value].concat())
}

fn window_of(record: &wire::Record, class: &TopicClass) -> Option<std::time::Duration> {
    match record.window_ms {
        0 if record.key.is_empty() => class.event_window,
        0 => class.key_window,
        window_ms => Some(std::time::Duration::from_millis(window_ms.into())),
    }
}

/// What retention counts of an event: its record as it is encoded, without what is left of its window.
pub fn bytes_of(past: &Past, at: usize) -> usize {
    let (value, priority, offset) = (past.value.clone(), past.priority as i32, at as u64 + 1);
    wire::Record { value, priority, offset, ..wire::Record::default() }.encoded_len()
}
