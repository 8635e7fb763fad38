//! A topic's log: records in order of offset, compacted by key.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::cursor::CatchUp;
use super::entry::{Entry, Kind};
use super::key_index::KeyIndex;
use super::kinds::Kinds;
use super::record::NewRecord;
use super::replica::Following;
use super::run::Runs;
use super::segment::Segments;
use super::{Cursor, Priority, TopicClass};
use crate::clock::Moment;
use crate::ids::Offset;
use crate::limits::{Limits, TOMBSTONES_BEYOND_KEYS};
use crate::protocol::wire;

/// A topic's records. Live are: the newest record of each key, values as well as deletes that somebody may still need,
/// and the events that [`Log::retain`] has not evicted.
#[derive(Debug)]
pub struct Log {
    pub(super) settings: LogSettings,
    pub(super) head: Offset,
    /// When the newest record arrived.
    pub(super) head_arrived: Moment,
    pub(super) records: Segments,
    keys: KeyIndex,
    live_keys: usize,
    /// The live deletes.
    pub(super) tombstones: BTreeSet<Offset>,
    /// Deletes up to here may be forgotten.
    pub(super) tombstone_floor: Offset,
    /// The live values with a window: exactly those, so a key that is rewritten all the time has one entry.
    key_deadlines: BTreeSet<(Moment, Offset)>,
    /// The live events, oldest first.
    pub(super) events: VecDeque<Offset>,
    pub(super) event_bytes: usize,
    pub(super) unflushed_event_bytes: usize,
    pub(super) kinds: Kinds,
    pub(super) checksum: u32,
    /// The last offset of each priority.
    pub(super) last_of_priority: [Offset; 4],
    /// Cleared by everything that changes what is live.
    pub(super) runs: Runs,
    /// So many windows of standing values began anew. No offset says so to replicas.
    pub(super) restarts: u64,
    /// The live values among them, with the number of the last time.
    pub(super) restarted: BTreeMap<Offset, u64>,
    /// Of a replica.
    pub(super) following: Option<Box<Following>>,
}

/// What a log is allowed to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Live keys.
    pub keys: usize,
    /// Events.
    pub events: usize,
    /// Encoded bytes of events.
    pub event_bytes: usize,
    /// Age of events.
    pub event_age: std::time::Duration,
    /// Entries of the memory of what evicted events were.
    pub kind_runs: usize,
    /// So many more deletes than live keys.
    pub tombstones_beyond_keys: usize,
}

/// What [`Log::apply`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The last record's offset; the head as it was if nothing was appended.
    pub last: Offset,
    /// How many offsets were given.
    pub appended: u64,
}

/// Why nothing of a publish was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The topic would have more live keys than its class allows.
    #[error("the topic would have more than {limit} keys")]
    KeysFull {
        /// The limit.
        limit: usize,
    },
    /// A `replace` is about keys alone.
    #[error("a publish that replaces the keyed state has no events")]
    EventInReplace,
}

impl ApplyError {
    /// The code that tells the publisher.
    #[must_use]
    pub fn code(self) -> wire::Code {
        match self {
            Self::KeysFull { .. } => wire::Code::LimitReached,
            Self::EventInReplace => wire::Code::Invalid,
        }
    }
}

impl LogSettings {
    /// Those of topics of that class.
    #[must_use]
    pub fn new(class: &TopicClass, limits: &Limits) -> Self {
        Self {
            keys: class.keys,
            events: class.events,
            event_bytes: class.event_bytes,
            event_age: class.event_age,
            kind_runs: limits.kind_runs,
            tombstones_beyond_keys: TOMBSTONES_BEYOND_KEYS,
        }
    }
}

impl Log {
    /// An empty log.
    #[must_use]
    pub fn new(settings: LogSettings) -> Self {
        Self {
            settings,
            head: Offset::ZERO,
            head_arrived: Moment::default(),
            records: Segments::default(),
            keys: KeyIndex::default(),
            live_keys: 0,
            tombstones: BTreeSet::new(),
            tombstone_floor: Offset::ZERO,
            key_deadlines: BTreeSet::new(),
            events: VecDeque::new(),
            event_bytes: 0,
            unflushed_event_bytes: 0,
            kinds: Kinds::default(),
            checksum: 0,
            last_of_priority: [Offset::ZERO; 4],
            runs: Runs::default(),
            restarts: 0,
            restarted: BTreeMap::new(),
            following: None,
        }
    }

    /// Appends the records of one publish, which arrived at `now`: at consecutive offsets, all or none. With `replace`
    /// they are the whole keyed state, and what is appended is what changed, deletes first.
    ///
    /// # Errors
    ///
    /// Why nothing was applied.
    pub fn apply(&mut self, records: Vec<NewRecord>, replace: bool, now: Moment) -> Result<Applied, ApplyError> {
        assert!(self.following.is_none(), "only the home appends");
        let before = self.head;
        if replace {
            self.replace(&records, now)?;
        } else {
            self.check_room(&records)?;
            records.iter().for_each(|record| self.append(record, now));
        }
        Ok(Applied { last: self.head, appended: self.head.since(before) })
    }

    /// Whether [`Log::apply`] would take such a publish.
    ///
    /// # Errors
    ///
    /// Those of [`Log::apply`].
    pub fn check(&self, records: &[NewRecord], replace: bool) -> Result<(), ApplyError> {
        if replace { self.check_replace(records).map(drop) } else { self.check_room(records) }
    }

    /// The limit holds for the state that results, in whatever order the records come.
    fn check_room(&self, records: &[NewRecord]) -> Result<(), ApplyError> {
        let limit = self.settings.keys;
        // Enough for all of them to be new: the usual case, without a look at the keys.
        if self.live_keys + records.len() <= limit {
            return Ok(());
        }
        let mut last: HashMap<&[u8], bool> = HashMap::new();
        records.iter().filter(|record| !record.is_event()).for_each(|record| {
            last.insert(&record.key, record.is_delete);
        });
        let (mut added, mut removed) = (0, 0);
        for (key, is_delete) in last {
            match (self.value_of(key).is_some(), is_delete) {
                (false, false) => added += 1,
                (true, true) => removed += 1,
                _ => {}
            }
        }
        // A state that is over the limit for another reason may shrink and be rewritten, but not grow.
        if added > removed && self.live_keys + added - removed > limit {
            Err(ApplyError::KeysFull { limit })
        } else {
            Ok(())
        }
    }

    /// The last record of each key: of one that comes twice it counts, as it would without `replace`.
    fn check_replace<'a>(&self, records: &'a [NewRecord]) -> Result<HashMap<&'a [u8], usize>, ApplyError> {
        if records.iter().any(NewRecord::is_event) {
            return Err(ApplyError::EventInReplace);
        }
        let last: HashMap<&[u8], usize> =
            records.iter().enumerate().map(|(index, record)| (&record.key[..], index)).collect();
        let kept = last.values().filter(|&&index| !records[index].is_delete).count();
        if kept > self.settings.keys {
            return Err(ApplyError::KeysFull { limit: self.settings.keys });
        }
        Ok(last)
    }

    fn replace(&mut self, records: &[NewRecord], now: Moment) -> Result<(), ApplyError> {
        let last = self.check_replace(records)?;
        let is_kept = |key: &[u8]| last.get(key).is_some_and(|&index| !records[index].is_delete);
        let gone: Vec<Offset> =
            self.values().filter(|(_, entry)| !is_kept(entry.key())).map(|(offset, _)| offset).collect();
        gone.into_iter().for_each(|offset| self.delete_at(offset, now));
        for (index, record) in records.iter().enumerate() {
            if record.is_delete || last[&record.key[..]] != index {
                continue;
            }
            match self.value_of(&record.key) {
                Some(offset) if self.records.get(offset).is_some_and(|entry| entry.value() == record.value) => {
                    self.restart_window(offset, record.window.map_or(Moment::NEVER, |window| now + window));
                }
                _ => self.append(record, now),
            }
        }
        Ok(())
    }

    /// Deletes the keys whose window has passed. Returns how many deletes were appended.
    pub fn expire_keys(&mut self, now: Moment) -> u64 {
        let mut deletes = 0;
        while let Some(&(deadline, offset)) = self.key_deadlines.first()
            && deadline <= now
        {
            self.delete_at(offset, now);
            deletes += 1;
        }
        deletes
    }

    /// When [`Log::expire_keys`] has something to do next; `NEVER` if no key has a window.
    #[must_use]
    pub fn next_key_expiry(&self) -> Moment {
        self.key_deadlines.first().map_or(Moment::NEVER, |&(deadline, _)| deadline)
    }

    /// Deletes the key whose value stands at `offset`; the delete inherits its priority.
    fn delete_at(&mut self, offset: Offset, now: Moment) {
        let entry = self.records.get(offset).expect("only live values are passed");
        let (key, priority) = (bytes::Bytes::copy_from_slice(entry.key()), entry.priority);
        let delete = NewRecord { key, value: bytes::Bytes::new(), is_delete: true, priority, window: None };
        self.append(&delete, now);
    }

    fn append(&mut self, record: &NewRecord, now: Moment) {
        let offset = self.head.next();
        self.head = offset;
        self.head_arrived = now;
        self.last_of_priority[record.priority.index()] = offset;
        let kind = match (record.is_event(), record.is_delete) {
            (true, _) => Kind::Event,
            (false, false) => Kind::Value,
            (false, true) => Kind::Tombstone,
        };
        if kind == Kind::Tombstone && self.value_of(&record.key).is_none() {
            return; // The offset is given, and nothing of it stays.
        }
        let mut entry = Entry::new(kind, &record.key, &record.value, record.priority, offset);
        entry.arrived = now;
        let is_for_ever = kind == Kind::Tombstone || (kind == Kind::Event && record.priority == Priority::Critical);
        if let (false, Some(window)) = (is_for_ever, record.window) {
            entry.deadline = now + window;
            if kind == Kind::Value && entry.deadline != Moment::NEVER {
                self.key_deadlines.insert((entry.deadline, offset));
            }
        }
        self.place(offset, entry);
    }

    /// Puts a live record behind all others, and takes out what it supersedes.
    pub(super) fn place(&mut self, offset: Offset, entry: Entry) {
        self.runs.clear();
        self.checksum = self.checksum.wrapping_add(entry.term);
        if entry.kind == Kind::Event {
            self.events.push_back(offset);
            self.event_bytes += entry.body_bytes();
            self.unflushed_event_bytes += entry.body_bytes();
        } else {
            let hash = self.keys.hash(entry.key());
            let old = self.keys.find(hash, entry.key(), &self.records);
            if let Some(old) = old {
                self.supersede(old);
            }
            self.keys.set(hash, old, offset);
            match entry.kind {
                Kind::Value => self.live_keys += 1,
                _ => _ = self.tombstones.insert(offset),
            }
        }
        self.records.push(offset, entry);
    }

    /// Takes the old record of a key out.
    fn supersede(&mut self, old: Offset) {
        let entry = self.records.remove(old).expect("the index points at live records");
        self.checksum = self.checksum.wrapping_sub(entry.term);
        if entry.kind == Kind::Value {
            self.live_keys -= 1;
            self.restarted.remove(&old);
            if entry.deadline != Moment::NEVER {
                self.key_deadlines.remove(&(entry.deadline, old));
            }
        } else {
            self.tombstones.remove(&old);
        }
    }

    fn restart_window(&mut self, offset: Offset, deadline: Moment) {
        let entry = self.records.get_mut(offset).expect("only live values are passed");
        if entry.deadline == deadline {
            return;
        }
        self.key_deadlines.remove(&(entry.deadline, offset));
        entry.deadline = deadline;
        if deadline != Moment::NEVER {
            self.key_deadlines.insert((deadline, offset));
        }
        self.restarts += 1;
        self.restarted.insert(offset, self.restarts);
        self.runs.clear();
    }

    /// Takes a tombstone out; who needed it starts anew.
    pub(super) fn forget_tombstone(&mut self, offset: Offset) {
        let entry = self.records.remove(offset).expect("the set holds live tombstones");
        self.keys.remove(self.keys.hash(entry.key()), offset);
        self.tombstones.remove(&offset);
        self.tombstone_floor = self.tombstone_floor.max(offset);
        self.runs.clear();
    }

    /// A cursor for a subscriber that comes: where it stopped, if the log still knows what happened since (`true`), else
    /// one that starts anew (`false`).
    #[must_use]
    pub fn start(&self, resume: Option<Offset>) -> (Cursor, bool) {
        match resume {
            Some(offset) if self.floor() <= offset && offset <= self.head => (Cursor::at(offset), true),
            _ => {
                let catch_up = CatchUp {
                    is_reset_due: true,
                    reset_head: self.head,
                    never_due: self.kinds.evicted_to(),
                    ahead_to: Offset::ZERO,
                };
                (Cursor { offset: Offset::ZERO, catch_up: Some(Box::new(catch_up)) }, false)
            }
        }
    }

    /// False if the floor has passed the cursor: its next patch starts anew.
    #[must_use]
    pub fn is_valid(&self, cursor: &Cursor) -> bool {
        cursor.needs() >= self.kinds.floor() && cursor.deletes_due_after() >= self.tombstone_floor
    }

    /// Positions from here on can be resumed from.
    #[must_use]
    pub fn floor(&self) -> Offset {
        self.kinds.floor().max(self.tombstone_floor)
    }

    /// The last offset given; 0 if none was.
    #[must_use]
    pub fn head(&self) -> Offset {
        self.head
    }

    /// The checksum of the keyed state.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        self.checksum
    }

    /// The highest priority of what was appended behind the cursor; `None` if it is at the head.
    #[must_use]
    pub fn pending_priority(&self, cursor: &Cursor) -> Option<Priority> {
        Priority::ALL.into_iter().rev().find(|priority| self.last_of_priority[priority.index()] > cursor.offset)
    }

    /// Live keys.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.live_keys
    }

    /// Events held.
    #[must_use]
    pub fn event_count(&self) -> usize {
        self.events.len()
    }

    /// Deletes held.
    #[must_use]
    pub fn tombstone_count(&self) -> usize {
        self.tombstones.len()
    }

    /// True if it holds neither keys nor events; deletes may be left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live_keys == 0 && self.events.is_empty()
    }

    /// The keyed state: key, value and offset, by offset.
    pub fn state(&self) -> impl Iterator<Item = (&[u8], &[u8], Offset)> {
        self.values().map(|(offset, entry)| (entry.key(), entry.value(), offset))
    }

    /// About how many bytes of live records there are above `offset`: as many as of average records.
    #[must_use]
    pub fn bytes_after(&self, offset: Offset) -> usize {
        self.records.body_bytes(self.head.since(offset))
    }

    /// Approximate bytes on the heap.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.records.memory_bytes()
            + self.keys.memory_bytes()
            + self.kinds.memory_bytes()
            + self.runs.memory_bytes()
            + self.events.capacity() * size_of::<Offset>()
            + self.tombstones.len() * size_of::<Offset>()
            + self.key_deadlines.len() * size_of::<(Moment, Offset)>()
            + self.restarted.len() * size_of::<(Offset, u64)>()
            + self.following.as_ref().map_or(0, |following| following.memory_bytes())
    }

    fn values(&self) -> impl Iterator<Item = (Offset, &Entry)> {
        self.records.after(Offset::ZERO).filter(|(_, entry)| entry.kind == Kind::Value)
    }

    /// Where the value of a live key stands.
    fn value_of(&self, key: &[u8]) -> Option<Offset> {
        let offset = self.keys.find(self.keys.hash(key), key, &self.records)?;
        (!self.tombstones.contains(&offset)).then_some(offset)
    }
}
