//! A plain log: a list of every offset ever given, and a map of keys.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::super::kinds::Fate;
use super::super::{Ask, Counts, Filter, LogSettings, NewRecord, Priority};
use crate::clock::Moment;
use crate::protocol::wire;

/// Everything that ever happened to a topic.
pub(super) struct Model {
    pub(super) settings: LogSettings,
    /// The record at offset `n` stands at `n - 1`.
    pub(super) all: Vec<Remembered>,
    /// Key to the offset of its live value.
    pub(super) values: BTreeMap<Bytes, u64>,
    /// Key to the offset of its live delete.
    pub(super) deletes: BTreeMap<Bytes, u64>,
}

#[derive(Clone)]
pub(super) struct Remembered {
    pub(super) record: NewRecord,
    pub(super) arrived: Moment,
    pub(super) deadline: Moment,
    /// What became of an event that is gone.
    pub(super) fate: Option<Fate>,
}

/// What a subscriber's past decides.
#[derive(Clone, Copy, Default)]
pub(super) struct Past {
    pub(super) reset_head: u64,
    pub(super) never_due: u64,
    pub(super) ahead_to: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Sent,
    Conflated,
    Filtered,
    Expired,
    Overrun,
    Lost,
}

impl Model {
    pub(super) fn new(settings: LogSettings) -> Self {
        Self { settings, all: Vec::new(), values: BTreeMap::new(), deletes: BTreeMap::new() }
    }

    pub(super) fn head(&self) -> u64 {
        self.all.len() as u64
    }

    pub(super) fn at(&self, offset: u64) -> &Remembered {
        &self.all[usize::try_from(offset).unwrap() - 1]
    }

    /// False if nothing was applied.
    pub(super) fn publish(&mut self, records: &[NewRecord], now: Moment) -> bool {
        let mut after = self.values.clone();
        for record in records.iter().filter(|record| !record.is_event()) {
            if record.is_delete {
                after.remove(&record.key);
            } else {
                after.insert(record.key.clone(), 0);
            }
        }
        if after.len() > self.settings.keys && after.len() > self.values.len() {
            return false;
        }
        records.iter().for_each(|record| self.append(record.clone(), now));
        true
    }

    pub(super) fn replace(&mut self, records: &[NewRecord], now: Moment) -> bool {
        let mut wanted: Vec<NewRecord> = Vec::new();
        for record in records {
            wanted.retain(|other| other.key != record.key);
            wanted.push(record.clone());
        }
        wanted.retain(|record| !record.is_delete);
        if wanted.len() > self.settings.keys {
            return false;
        }
        let mut gone: Vec<u64> = self.values.values().copied().collect();
        gone.sort_unstable();
        for offset in gone {
            if wanted.iter().all(|record| record.key != self.at(offset).record.key) {
                self.delete_at(offset, now);
            }
        }
        for record in wanted {
            match self.values.get(&record.key).copied() {
                Some(offset) if self.at(offset).record.value == record.value => {
                    self.all[usize::try_from(offset).unwrap() - 1].deadline = deadline(&record, now);
                }
                _ => self.append(record, now),
            }
        }
        true
    }

    pub(super) fn expire_keys(&mut self, now: Moment) -> u64 {
        let mut due: Vec<_> = self.values.values().map(|&offset| (self.at(offset).deadline, offset)).collect();
        due.retain(|&(deadline, _)| deadline <= now);
        due.sort_unstable();
        due.iter().for_each(|&(_, offset)| self.delete_at(offset, now));
        due.len() as u64
    }

    pub(super) fn retain(&mut self, now: Moment) {
        loop {
            let live: Vec<u64> = self.live_events().collect();
            let Some(&oldest) = live.first() else { break };
            let bytes: usize = live.iter().map(|&offset| self.body_len(offset)).sum();
            let event = self.at(oldest);
            let fate = if event.deadline <= now {
                Fate::Expired
            } else if live.len() <= self.settings.events
                && bytes <= self.settings.event_bytes
                && event.arrived + self.settings.event_age > now
            {
                break;
            } else if event.record.priority == Priority::Critical {
                Fate::Lost
            } else {
                Fate::Overrun
            };
            self.all[usize::try_from(oldest).unwrap() - 1].fate = Some(fate);
        }
        while self.deletes.len() > self.values.len() + self.settings.tombstones_beyond_keys {
            let (key, _) = self.deletes.iter().min_by_key(|(_, offset)| **offset).expect("there are some");
            let key = key.clone();
            self.deletes.remove(&key);
        }
    }

    pub(super) fn evicted_to(&self) -> u64 {
        (1..=self.head()).rev().find(|&offset| self.at(offset).fate.is_some()).unwrap_or(0)
    }

    pub(super) fn is_live(&self, offset: u64) -> bool {
        let Remembered { record, fate, .. } = self.at(offset);
        if record.is_event() {
            return fate.is_none();
        }
        self.values.get(&record.key) == Some(&offset) || self.deletes.get(&record.key) == Some(&offset)
    }

    pub(super) fn checksum(&self) -> u32 {
        self.values.iter().fold(0_u32, |sum, (key, &offset)| {
            let mut bytes = u32::try_from(key.len()).unwrap().to_le_bytes().to_vec();
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(&self.at(offset).record.value);
            sum.wrapping_add(crc32fast::hash(&bytes))
        })
    }

    pub(super) fn state(&self) -> BTreeMap<Bytes, Bytes> {
        self.values.iter().map(|(key, &offset)| (key.clone(), self.at(offset).record.value.clone())).collect()
    }

    /// What a subscriber that passes `offset` now is told of it.
    pub(super) fn class(&self, offset: u64, past: Past, ask: &Ask<'_>) -> Class {
        let Remembered { record, arrived, deadline, fate } = self.at(offset);
        if !record.is_event() {
            let is_old_delete = record.is_delete && offset <= past.reset_head;
            return match (self.is_live(offset) && !is_old_delete, ask.filter) {
                (false, _) => Class::Conflated,
                (true, Some(filter)) if !passes(filter, record) => Class::Filtered,
                (true, _) => Class::Sent,
            };
        }
        match fate {
            Some(_) if offset <= past.never_due => return Class::Conflated,
            Some(Fate::Expired) => return Class::Expired,
            Some(Fate::Overrun) => return Class::Overrun,
            Some(_) => return Class::Lost,
            None => {}
        }
        if *deadline <= ask.now {
            return Class::Expired;
        }
        let is_old = ask.only_new_events && offset <= past.reset_head;
        if is_old || ask.filter.is_some_and(|filter| !passes(filter, record)) {
            return Class::Filtered;
        }
        if until(record.priority, *arrived, *deadline, ask) <= ask.now { Class::Expired } else { Class::Sent }
    }

    pub(super) fn counts(&self, from: u64, to: u64, past: Past, ask: &Ask<'_>) -> (Counts, Vec<u64>) {
        let (mut counts, mut sent) = (Counts::default(), Vec::new());
        for offset in from + 1..=to {
            match self.class(offset, past, ask) {
                Class::Sent => sent.push(offset),
                Class::Conflated => counts.conflated += 1,
                Class::Filtered => counts.filtered += 1,
                Class::Expired => counts.expired += 1,
                Class::Overrun => counts.overrun += 1,
                Class::Lost => counts.lost += 1,
            }
        }
        counts.records = sent.len() as u64;
        (counts, sent)
    }

    /// The record as it is on the wire now.
    pub(super) fn wire(&self, offset: u64, now: Moment) -> wire::Record {
        let Remembered { record, deadline, .. } = self.at(offset);
        let left_ms = deadline.since(now).as_millis().max(1);
        wire::Record {
            key: record.key.clone(),
            value: record.value.clone(),
            delete: record.is_delete,
            priority: record.priority as i32,
            window_ms: if *deadline == Moment::NEVER { 0 } else { u32::try_from(left_ms).unwrap() },
            offset,
        }
    }

    fn live_events(&self) -> impl Iterator<Item = u64> {
        (1..=self.head()).filter(|&offset| self.at(offset).record.is_event() && self.is_live(offset))
    }

    fn body_len(&self, offset: u64) -> usize {
        wire::Record { window_ms: 0, ..self.wire(offset, Moment(0)) }.encoded_len()
    }

    fn delete_at(&mut self, offset: u64, now: Moment) {
        let NewRecord { key, priority, .. } = self.at(offset).record.clone();
        self.append(NewRecord { key, value: Bytes::new(), is_delete: true, priority, window: None }, now);
    }

    fn append(&mut self, record: NewRecord, now: Moment) {
        let key = record.key.clone();
        let (is_event, is_delete) = (record.is_event(), record.is_delete);
        let deadline = deadline(&record, now);
        self.all.push(Remembered { record, arrived: now, deadline, fate: None });
        let offset = self.head();
        if is_event {
        } else if !is_delete {
            self.deletes.remove(&key);
            self.values.insert(key, offset);
        } else if self.values.remove(&key).is_some() {
            self.deletes.insert(key, offset);
        }
    }
}

/// When an event may no longer be sent to that subscriber.
pub(super) fn until(priority: Priority, arrived: Moment, deadline: Moment, ask: &Ask<'_>) -> Moment {
    let mut until = deadline;
    if priority == Priority::Critical {
        return until;
    }
    if let Some(window) = ask.window {
        until = until.min(arrived + window);
    }
    match (priority, ask.pressure) {
        (Priority::Low, Some(pressure)) => until.min(arrived + pressure.low),
        (Priority::Normal, Some(pressure)) => until.min(arrived + pressure.normal),
        _ => until,
    }
}

fn deadline(record: &NewRecord, now: Moment) -> Moment {
    let is_for_ever = record.is_delete || (record.is_event() && record.priority == Priority::Critical);
    match record.window {
        Some(window) if !is_for_ever => now + window,
        _ => Moment::NEVER,
    }
}

fn passes(filter: &Filter, record: &NewRecord) -> bool {
    let is_high_enough = record.is_delete || filter.min_priority.is_none_or(|least| record.priority >= least);
    is_high_enough && (record.is_event() || record.key.starts_with(&filter.key_prefix))
}
