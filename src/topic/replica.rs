//! A topic's log on the shards that are not its home.
//!
//! The home gives the offsets and decides what becomes of events; a replica serves any cursor as the home would. The home
//! moves it with [`Transfer`]s, as it moves a client with patches: one that lags gets merged ones.
//!
//! Evictions travel with the transfers and wait in the replica until its own [`Log::retain`], so that whoever is at its head
//! has had its chance.

use super::entry::Entry;
use super::kinds::Fates;
use super::transfer::{Beside, ReplicaCursor, Transfer};
use super::{Cursor, Log, LogSettings, Patch};
use crate::clock::{Moment, WallEpoch};
use crate::ids::{Offset, TopicId};

/// What makes a log a replica.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// A whole transfer has been applied.
    is_current: bool,
    /// Chunks whose last one has not come: the head is always a moment of the state.
    held: Vec<Transfer>,
    /// What a transfer from nothing has come to. Nobody reads it before the last chunk, so it grows with each: no turn takes
    /// in a whole log.
    begun: Option<Box<Log>>,
    /// What [`Log::retain`] is to do.
    pending: Option<Pending>,
}

/// What the home has let go, and the replica not yet.
#[derive(Debug)]
struct Pending {
    fates: Fates,
    tombstone_floor: Offset,
}

/// At the home.
impl Log {
    /// A cursor for a shard that attaches: its replica gets everything.
    #[must_use]
    pub fn start_replica(&self) -> ReplicaCursor {
        ReplicaCursor::new(self)
    }

    /// True if the replica has something to be told: records, or what the log has let go.
    #[must_use]
    pub fn is_behind(&self, cursor: &ReplicaCursor) -> bool {
        cursor.is_new
            || cursor.offset < self.head
            || cursor.evicted_to < self.kinds.evicted_to()
            || cursor.tombstone_floor < self.tombstone_floor
            || cursor.restarts < self.restarts
    }

    /// What moves a replica towards the head, and where it is then. `shared` is the patch of this turn for everyone who is at
    /// the cursor's offset: its bytes go untouched if they are all that the replica needs. Else a patch of at most `room`
    /// bytes is made (a larger record goes alone).
    pub fn transfer(
        &mut self,
        topic: TopicId,
        cursor: &ReplicaCursor,
        shared: Option<&Patch>,
        now: Moment,
        wall: WallEpoch,
        room: usize,
    ) -> (Transfer, ReplicaCursor) {
        assert!(self.following.is_none(), "only the home moves replicas");
        // A delete that is forgotten cannot take its key out of the replica any more.
        let is_anew = cursor.is_new || cursor.deletes_due_after() < self.tombstone_floor;
        let cursor = if is_anew { self.start_replica() } else { *cursor };
        let from = cursor.offset;
        assert!(from <= self.head, "a cursor is never beyond its log's head");

        let fates = self.kinds.since(cursor.evicted_to, room / 2);
        let shared = shared.filter(|patch| patch.from == from && patch.to == self.head && !patch.more && !patch.reset);
        let whole = shared.and_then(|patch| {
            let (beside, sent) = self.beside(from, patch.to, now);
            (sent == patch.counts.records).then(|| (patch.clone(), beside))
        });
        let (patch, beside) = whole.unwrap_or_else(|| {
            let patch = self.patch_for_replica(topic, from, now, wall, room.saturating_sub(fates.memory_bytes()));
            let (beside, _) = self.beside(from, patch.to, now);
            (patch, beside)
        });
        let evicted_to = fates.to();
        let more = patch.to < self.head || evicted_to < self.kinds.evicted_to();
        let next = ReplicaCursor {
            offset: patch.to,
            is_new: false,
            evicted_to,
            tombstone_floor: self.tombstone_floor,
            restarts: self.restarts,
            ..cursor
        };
        let transfer = Transfer {
            is_counted: self.is_valid(&Cursor::at(from)),
            patch,
            is_anew,
            more,
            beside,
            restarted: self.restarted_since(cursor.restarts, from),
            fates,
            tombstone_floor: self.tombstone_floor,
            head_arrived: self.head_arrived,
            last_of_priority: self.last_of_priority,
            checksum: self.checksum,
        };
        (transfer, next)
    }

    /// The live records of `(from, to]`, and how many of them a patch without options has in its bytes.
    fn beside(&self, from: Offset, to: Offset, now: Moment) -> (Vec<Beside>, u64) {
        let (mut beside, mut sent) = (Vec::new(), 0);
        for (offset, entry) in self.records.after(from).take_while(|(offset, _)| *offset <= to) {
            sent += u64::from(!entry.is_expired_event(now));
            beside.push(Beside { offset, arrived: entry.arrived, deadline: entry.deadline });
        }
        (beside, sent)
    }

    /// The deadlines of values up to `to` whose windows began anew after `told` others.
    fn restarted_since(&self, told: u64, to: Offset) -> Vec<(Offset, Moment)> {
        if told == self.restarts {
            return Vec::new();
        }
        let since = self.restarted.range(..=to).filter(|(_, restart)| **restart > told);
        let deadline = |offset| self.records.get(offset).expect("only live values are listed").deadline;
        since.map(|(&offset, _)| (offset, deadline(offset))).collect()
    }
}

/// At the replica.
impl Log {
    /// An empty replica. It is of use once it [is current](Log::is_current).
    #[must_use]
    pub fn replica(settings: LogSettings) -> Self {
        let mut log = Self::new(settings);
        log.following = Some(Box::default());
        log
    }

    /// False for a replica that has not followed a whole transfer yet.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.following.as_ref().is_none_or(|following| following.is_current)
    }

    /// Applies a transfer. Chunks with more to come wait for the last one, so that the head is always a moment of the
    /// home's state.
    ///
    /// # Panics
    ///
    /// If this is no replica, if the transfer does not begin where the last one ended, or if the state is not the home's then.
    pub fn follow(&mut self, transfer: Transfer) {
        let following = self.following.as_mut().expect("only a replica follows");
        if transfer.is_anew {
            following.held = Vec::new();
            following.begun = Some(Box::new(Self::replica(self.settings)));
        }
        let (before, more, checksum) = (self.head, transfer.more, transfer.checksum);
        let position = match (&following.begun, following.held.last()) {
            (Some(begun), _) => begun.head,
            (None, Some(held)) => held.patch.to,
            (None, None) => before,
        };
        assert!(following.is_current || following.begun.is_some(), "the first transfer begins from nothing");
        assert_eq!(transfer.patch.from, position, "a transfer begins where the last one ended");
        let begun = following.begun.take();
        let is_anew = begun.is_some();
        if let Some(mut begun) = begun {
            begun.take_in(transfer);
            if more {
                following.begun = Some(begun);
                return;
            }
            *self = *begun;
        } else if more {
            following.held.push(transfer);
            return;
        } else {
            let held = std::mem::take(&mut following.held);
            held.into_iter().chain([transfer]).for_each(|chunk| self.take_in(chunk));
        }
        assert_eq!(self.checksum, checksum, "the replica's state at {} is not its home's", self.head);

        let following = self.following.as_mut().expect("it is a replica");
        following.is_current = true;
        // Events beyond the old head are gone that never came here. They leave oldest first, so all before them are, too.
        let is_overtaken = following.pending.as_ref().is_some_and(|pending| pending.fates.to() > before);
        if is_anew || is_overtaken {
            self.let_go();
        }
    }

    /// Whether following the transfer now takes out critical events behind `flushed`. [`Log::follow`] lets go at once what is overtaken,
    /// without waiting for [`Log::retain`].
    #[must_use]
    pub fn drops_critical(&self, transfer: &Transfer, flushed: Offset) -> bool {
        let gone_to = transfer.fates.to();
        let is_anew = self.following.as_ref().is_some_and(|following| following.begun.is_some()) || transfer.is_anew;
        let is_critical = |offset: &Offset| {
            self.records.get(*offset).is_some_and(|entry| entry.priority == super::Priority::Critical)
        };
        let mut unflushed = self.events.iter().rev().take_while(|offset| **offset > flushed);
        !transfer.more
            && (is_anew || gone_to > self.head)
            && unflushed.any(|offset| *offset <= gone_to && is_critical(offset))
    }

    fn take_in(&mut self, transfer: Transfer) {
        for &(offset, deadline) in &transfer.restarted {
            self.records.get_mut(offset).expect("it is live at the home").deadline = deadline;
        }
        let mut records = transfer.records();
        let mut next = records.next().map(Entry::decode);
        for beside in &transfer.beside {
            let (offset, mut entry) = match next.take() {
                Some((offset, mut entry)) if offset == beside.offset => {
                    next = records.next().map(Entry::decode);
                    entry.deadline = beside.deadline;
                    (offset, entry)
                }
                other => {
                    next = other;
                    (beside.offset, Entry::expired_event())
                }
            };
            entry.arrived = beside.arrived;
            self.place(offset, entry);
        }
        assert!(next.is_none(), "each record in the bytes is live at the home");
        self.runs.clear();
        self.head = transfer.patch.to;
        self.head_arrived = transfer.head_arrived;
        self.last_of_priority = transfer.last_of_priority;

        let (told_to, told_floor) = (self.kinds.evicted_to(), self.tombstone_floor);
        let following = self.following.as_mut().expect("only a replica follows");
        let pending = following
            .pending
            .get_or_insert_with(|| Pending { fates: Fates::none(told_to), tombstone_floor: told_floor });
        pending.fates.join(transfer.fates);
        pending.tombstone_floor = transfer.tombstone_floor;
        if pending.fates.to() == told_to && pending.tombstone_floor == told_floor {
            following.pending = None;
        }
    }

    /// True if the home has let go what this replica still holds.
    pub(super) fn has_pending(&self) -> bool {
        self.following.as_ref().is_some_and(|following| following.pending.is_some())
    }

    /// Lets go what the home has.
    pub(super) fn let_go(&mut self) {
        let Some(pending) = self.following.as_mut().and_then(|following| following.pending.take()) else { return };
        let evicted_to = pending.fates.to();
        while self.events.front().is_some_and(|&oldest| oldest <= evicted_to) {
            self.take_oldest_event();
        }
        self.kinds.follow(pending.fates);
        while let Some(&oldest) = self.tombstones.first()
            && oldest <= pending.tombstone_floor
        {
            self.forget_tombstone(oldest);
        }
        self.tombstone_floor = pending.tombstone_floor;
    }
}

impl Following {
    pub(super) fn memory_bytes(&self) -> usize {
        let spare = (self.held.capacity() - self.held.len()) * size_of::<Transfer>();
        let pending = self.pending.as_ref().map_or(0, |pending| pending.fates.memory_bytes());
        let begun = self.begun.as_ref().map_or(0, |begun| size_of::<Log>() + begun.memory_bytes());
        size_of::<Self>() + begun + self.held.iter().map(Transfer::weight).sum::<usize>() + spare + pending
    }
}
