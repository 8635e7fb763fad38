//! One topic as a subscriber knows it: patches in, the server's state out, proved by its checksum.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::protocol::wire;

/// The keyed state of one topic, and how far in the topic's log it has been brought.
///
/// It is built from patches alone; [`TopicState::apply`] checks that they form a chain and that the result has the
/// checksum which the server says.
#[derive(Clone, Debug, Default)]
pub struct TopicState {
    entries: BTreeMap<Bytes, Entry>,
    epoch: u64,
    offset: u64,
    checksum: u32,
    is_current: bool,
    /// The furthest offset of this epoch that was ever passed: events up to here were handed over or counted, so a
    /// snapshot that replays them gives nothing new.
    passed: u64,
    /// Keys whose newest record came ahead of its place, and its offset. Emptied at every head.
    ahead: HashMap<Bytes, u64>,
    /// Only a patch with `reset` can go on from here.
    needs_reset: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    value: Bytes,
    /// This entry's part of the checksum.
    term: u32,
}

/// What one patch did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Keys that were written or deleted, in the order in which that happened.
    pub changes: Vec<Change>,
    /// Events that were not handed over before, in order of offset.
    pub events: Vec<Event>,
    /// Where the offsets of the patch went.
    pub counts: Counts,
    /// Whether the patch carried a checksum (and so was proved to lead to the server's state).
    pub is_verified: bool,
}

/// A key's new value, or its deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// The value; `None`: the key was deleted.
    pub value: Option<Bytes>,
    /// The record's offset.
    pub offset: u64,
    /// The record's priority.
    pub priority: wire::Priority,
    /// It was sent before its place in the order, because the rest takes longer.
    pub is_ahead: bool,
}

/// A record without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The value.
    pub value: Bytes,
    /// The record's offset: with the topic's epoch it names the event for ever.
    pub offset: u64,
    /// The record's priority.
    pub priority: wire::Priority,
    /// What was left of its relevance window when the server encoded it; 0: no window.
    pub window_ms: u32,
}

/// Where the offsets that a patch passed have gone; their sum is `to - from`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records in the patch.
    pub records: u64,
    /// Superseded by a newer record of their key.
    pub conflated: u64,
    /// Held back by the subscription's filter.
    pub filtered: u64,
    /// Events whose relevance window passed before they could be sent.
    pub expired: u64,
    /// Events that the log no longer held.
    pub overrun: u64,
    /// Critical events that the log no longer held.
    pub lost: u64,
}

/// Why a patch does not lead to the server's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It starts somewhere else.
    #[error("the patch starts at {from}, the state is at {at}")]
    Chain {
        /// Where the patch starts.
        from: u64,
        /// Where the state is.
        at: u64,
    },
    /// Its offsets contradict each other.
    #[error("the patch contradicts itself: {0}")]
    Malformed(&'static str),
    /// The state after it is not the server's.
    #[error("the checksum is {ours:08x}, the server's {theirs:08x}")]
    Checksum {
        /// Of the state here.
        ours: u32,
        /// As the patch says.
        theirs: u32,
    },
}

impl TopicState {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// All keys with their values, in order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.value))
    }

    /// How many keys there are.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.entries.len()
    }

    /// The life of the topic's log that this is a state of.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Everything up to this offset has been passed.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where a subscription can go on; nowhere after a mismatch.
    pub(crate) fn position(&self) -> Option<wire::Position> {
        (!self.needs_reset && self.offset > 0).then_some(wire::Position { epoch: self.epoch, offset: self.offset })
    }

    /// Whether the last patch led to the topic's head. While it did not, the keys are not the state of one moment.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.is_current
    }

    /// The sum modulo 2^32, over all keys, of the CRC-32 of the key's length (32 bits, little-endian), the key and
    /// the value.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        self.checksum
    }

    /// Continues with a subscription to the log of this epoch. Keys stay until the patch that resets them.
    pub fn start(&mut self, epoch: u64) {
        if epoch != self.epoch {
            self.needs_reset = self.offset > 0 || !self.entries.is_empty();
            self.epoch = epoch;
            self.passed = 0;
        }
        self.is_current = false;
    }

    /// Whether patches are passed over until one with `reset` comes: a mismatch was found, and the subscription is
    /// being started anew.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.needs_reset
    }

    /// Applies a patch.
    ///
    /// # Errors
    ///
    /// The mismatch; from then on only a patch with `reset` is taken. The keys may be anything in between.
    pub fn apply(&mut self, patch: &wire::Patch) -> Result<Applied, Mismatch> {
        let result = self.try_apply(patch);
        if result.is_err() {
            self.needs_reset = true;
            self.is_current = false;
        }
        result
    }

    fn try_apply(&mut self, patch: &wire::Patch) -> Result<Applied, Mismatch> {
        let at = if patch.reset { 0 } else { self.offset };
        if patch.from != at || (self.needs_reset && !patch.reset) {
            return Err(Mismatch::Chain { from: patch.from, at });
        }
        let counts = checked_counts(patch)?;
        if patch.reset {
            self.entries.clear();
            self.ahead.clear();
            self.checksum = 0;
            self.needs_reset = false;
        }
        let mut applied = Applied { counts, ..Applied::default() };
        for record in &patch.records {
            let offset = if record.offset == 0 { patch.to } else { record.offset };
            if !record.key.is_empty() {
                // What came ahead is at least as new as what stands in the order.
                if self.ahead.get(&record.key).is_none_or(|newest| offset > *newest) {
                    self.write(record);
                    applied.changes.push(change(record, offset, false));
                }
            } else if offset > self.passed {
                applied.events.push(Event {
                    value: record.value.clone(),
                    offset,
                    priority: record.priority(),
                    window_ms: record.window_ms,
                });
            }
        }
        self.offset = patch.to;
        self.passed = self.passed.max(patch.to);
        for record in &patch.ahead {
            if self.ahead.get(&record.key).is_none_or(|newest| record.offset > *newest) {
                self.write(record);
                self.ahead.insert(Bytes::copy_from_slice(&record.key), record.offset);
                applied.changes.push(change(record, record.offset, true));
            }
        }
        self.is_current = !patch.more;
        if self.is_current {
            self.ahead.clear();
            if let Some(theirs) = patch.checksum {
                if theirs != self.checksum {
                    return Err(Mismatch::Checksum { ours: self.checksum, theirs });
                }
                applied.is_verified = true;
            }
        }
        Ok(applied)
    }

    fn write(&mut self, record: &wire::Record) {
        if record.delete {
            if let Some(old) = self.entries.remove(&record.key) {
                self.checksum = self.checksum.wrapping_sub(old.term);
            }
            return;
        }
        let term = checksum_term(&record.key, &record.value);
        self.checksum = self.checksum.wrapping_add(term);
        // Copied, because a slice of the frame would keep the whole frame alive for as long as the key stands.
        let entry = Entry { value: Bytes::copy_from_slice(&record.value), term };
        if let Some(old) = self.entries.get_mut(&record.key) {
            self.checksum = self.checksum.wrapping_sub(old.term);
            *old = entry;
        } else {
            self.entries.insert(Bytes::copy_from_slice(&record.key), entry);
        }
    }
}

fn change(record: &wire::Record, offset: u64, is_ahead: bool) -> Change {
    let value = (!record.delete).then(|| record.value.clone());
    Change { key: record.key.clone(), value, offset, priority: record.priority(), is_ahead }
}

/// One key's part of a topic's checksum.
fn checksum_term(key: &[u8], value: &[u8]) -> u32 {
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

/// Checks that offsets ascend within the patch and that it does not account for more than it passes.
fn checked_counts(patch: &wire::Patch) -> Result<Counts, Mismatch> {
    let malformed = |why| Err(Mismatch::Malformed(why));
    let Some(passed) = patch.to.checked_sub(patch.from) else { return malformed("it ends before it starts") };
    let mut last = patch.from;
    for record in &patch.records {
        let offset = if record.offset == 0 { patch.to } else { record.offset };
        if offset <= last || offset > patch.to {
            return malformed("its offsets do not ascend within it");
        }
        last = offset;
    }
    if !patch.more && !patch.ahead.is_empty() {
        return malformed("it sends records ahead of the head");
    }
    let mut last = patch.to;
    for record in &patch.ahead {
        if record.key.is_empty() || record.offset <= last {
            return malformed("what it sends ahead does not lie ahead");
        }
        last = record.offset;
    }
    let records = patch.records.len() as u64;
    let named = [records, patch.filtered, patch.expired, patch.overrun, patch.lost];
    let Some(conflated) = named.iter().try_fold(passed, |rest, count| rest.checked_sub(*count)) else {
        return malformed("it accounts for more offsets than it passes");
    };
    let wire::Patch { filtered, expired, overrun, lost, .. } = *patch;
    Ok(Counts { records, conflated, filtered, expired, overrun, lost })
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
