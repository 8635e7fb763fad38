//! What a log lets go, after the flush: events beyond their limits, deletes and memories nobody may need.

use super::Log;
use super::Priority;
use super::kinds::Fate;
use crate::clock::Moment;
use crate::ids::Offset;

/// Events that [`Log::retain`] evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Not critical, before their window passed.
    pub overrun: u64,
    /// Critical ones.
    pub lost: u64,
    /// After their window had passed.
    pub expired: u64,
}

impl Log {
    /// Evicts what is beyond the class's limits. Run it after the flush, so that whoever is at the head has had its
    /// chance. `lowest` is the least [`Cursor::needs`](super::Cursor::needs) of the connected subscribers that are
    /// catching up.
    ///
    /// A replica lets go what its home has, and counts nothing: that was done there.
    pub fn retain(&mut self, now: Moment, lowest: Option<Offset>) -> Evicted {
        let mut evicted = Evicted::default();
        let is_replica = self.following.is_some();
        self.let_go();
        while !is_replica && let Some(fate) = self.oldest_event_fate(now) {
            let offset = self.take_oldest_event();
            self.kinds.note(offset, fate);
            match fate {
                Fate::Overrun => evicted.overrun += 1,
                Fate::Lost => evicted.lost += 1,
                Fate::Expired => evicted.expired += 1,
                Fate::Keyed => unreachable!("events have no such fate"),
            }
        }
        self.kinds.trim(self.settings.kind_runs, lowest);
        while !is_replica && self.tombstone_count() > self.key_count() + self.settings.tombstones_beyond_keys {
            let oldest = *self.tombstones.first().expect("there are more than of the keys");
            self.forget_tombstone(oldest);
        }
        if self.events.capacity() > 64 && self.events.capacity() > 4 * self.events.len() {
            self.events.shrink_to(2 * self.events.len());
        }
        evicted
    }

    /// When [`Log::retain`] has something to do next if nothing is appended; `NEVER` without events.
    #[must_use]
    pub fn next_retention(&self) -> Moment {
        if self.following.is_some() {
            return if self.has_pending() { Moment::default() } else { Moment::NEVER };
        }
        self.oldest_event()
            .map_or(Moment::NEVER, |(arrived, deadline, _)| deadline.min(arrived + self.settings.event_age))
    }

    /// What becomes of the oldest event, if it has to go. One whose window has passed goes at once: nobody is sent it.
    fn oldest_event_fate(&self, now: Moment) -> Option<Fate> {
        let (arrived, deadline, priority) = self.oldest_event()?;
        if deadline <= now {
            return Some(Fate::Expired);
        }
        let is_beyond = self.events.len() > self.settings.events
            || self.event_bytes > self.settings.event_bytes
            || arrived + self.settings.event_age <= now;
        is_beyond.then_some(if priority == Priority::Critical { Fate::Lost } else { Fate::Overrun })
    }

    fn oldest_event(&self) -> Option<(Moment, Moment, Priority)> {
        let entry = self.records.get(*self.events.front()?).expect("the queue holds live events");
        Some((entry.arrived, entry.deadline, entry.priority))
    }

    pub(super) fn take_oldest_event(&mut self) -> Offset {
        let offset = self.events.pop_front().expect("the caller looked at it");
        let entry = self.records.remove(offset).expect("the queue holds live events");
        self.event_bytes -= entry.body_bytes();
        self.runs.clear();
        offset
    }

    /// Bytes of events appended since the last [`Log::mark_flushed`]; above
    /// [`Limits::unflushed_event_bytes`](crate::limits::Limits::unflushed_event_bytes) their publishers pause.
    #[must_use]
    pub fn unflushed_event_bytes(&self) -> usize {
        self.unflushed_event_bytes
    }

    /// Whoever is at the head has been given everything.
    pub fn mark_flushed(&mut self) {
        self.unflushed_event_bytes = 0;
    }

    /// Gives back the encoded runs that cursors shared in this turn; they are made again when somebody asks. Returns how many were
    /// made since the last release.
    pub fn release_runs(&mut self) -> u32 {
        self.runs.clear();
        self.runs.take_made()
    }
}
