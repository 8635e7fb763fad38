//! What the offsets were whose events are gone: runs of one kind, with running totals, so that any interval splits exactly.
//!
//! Events leave a log oldest first. Up to the last one that left, the runs say what each offset was; behind it an offset
//! that is not live was keyed.

use std::collections::VecDeque;
use std::ops::Sub;

use crate::ids::Offset;

/// What became of an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// A keyed record (or a live one: they are counted where they stand).
    Keyed,
    /// An event that was evicted before its window passed.
    Overrun,
    /// A critical event that was evicted.
    Lost,
    /// An event that was evicted after its window had passed.
    Expired,
}

/// How many events had which fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) overrun: u64,
    pub(super) lost: u64,
    pub(super) expired: u64,
}

/// A piece of that memory, on its way to a replica: what each offset of `(after, to]` was.
#[derive(Clone, Debug)]
pub(super) struct Fates {
    /// Nothing is known of what was before.
    after: Offset,
    /// The last offset of each run.
    runs: Vec<(Offset, Fate)>,
}

/// The memory of evicted events.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    /// Ascending by `start`, each up to the next one's start, the last up to `evicted_to`.
    runs: VecDeque<Run>,
    /// The last evicted event: all events up to here are gone.
    evicted_to: Offset,
    /// Offsets up to here are forgotten.
    floor: Offset,
    /// Of all offsets up to `evicted_to`.
    totals: Totals,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    start: Offset,
    fate: Fate,
    /// Of all offsets below `start`.
    before: Totals,
}

impl Kinds {
    /// Positions from here on can be counted from.
    pub(super) fn floor(&self) -> Offset {
        self.floor
    }

    pub(super) fn evicted_to(&self) -> Offset {
        self.evicted_to
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.runs.capacity() * size_of::<Run>()
    }

    /// Notes that the oldest event, at `offset`, is gone.
    pub(super) fn note(&mut self, offset: Offset, fate: Fate) {
        assert!(offset > self.evicted_to, "events leave oldest first");
        self.note_to(Offset(offset.0 - 1), Fate::Keyed);
        self.note_to(offset, fate);
    }

    /// Notes that everything from the last evicted event to `to` had that fate.
    fn note_to(&mut self, to: Offset, fate: Fate) {
        if to == self.evicted_to {
            return;
        }
        if self.runs.back().is_none_or(|last| last.fate != fate) {
            self.runs.push_back(Run { start: self.evicted_to.next(), fate, before: self.totals });
        }
        self.totals.add(fate, to.since(self.evicted_to));
        self.evicted_to = to;
    }

    /// What each offset behind `told` was: up to the last evicted event, or as many runs as `room` bytes hold, one at
    /// least.
    pub(super) fn since(&self, told: Offset, room: usize) -> Fates {
        let after = told.max(self.floor);
        let mut fates = Fates::none(after);
        if after < self.evicted_to {
            let first = self.runs.partition_point(|run| run.start <= after.next()) - 1;
            let ends = self.runs.range(first + 1..).map(|next| Offset(next.start.0 - 1)).chain([self.evicted_to]);
            let runs = ends.zip(self.runs.range(first..)).map(|(to, run)| (to, run.fate));
            fates.runs.extend(runs.take((room / size_of::<(Offset, Fate)>()).max(1)));
        }
        fates
    }

    /// Takes over what the home has noted. Where that does not continue what is known, the memory begins there.
    pub(super) fn follow(&mut self, fates: Fates) {
        if fates.after > self.evicted_to {
            self.runs.clear();
            (self.evicted_to, self.floor) = (fates.after, fates.after);
        }
        fates.runs.into_iter().for_each(|(to, fate)| self.note_to(to, fate));
    }

    /// The evicted events in `(from, to]`. `from` is not below the floor.
    pub(super) fn between(&self, from: Offset, to: Offset) -> Totals {
        assert!(self.floor <= from && from <= to, "{from} to {to} with the floor at {}", self.floor);
        self.up_to(to) - self.up_to(from)
    }

    fn up_to(&self, position: Offset) -> Totals {
        if position >= self.evicted_to {
            return self.totals;
        }
        match self.runs.partition_point(|run| run.start <= position).checked_sub(1) {
            Some(index) => {
                let run = self.runs[index];
                let mut totals = run.before;
                totals.add(run.fate, position.since(run.start) + 1);
                totals
            }
            None => self.runs.front().map_or(self.totals, |first| first.before),
        }
    }

    /// Forgets the oldest runs beyond `limit`, but, up to four times the limit, none that a cursor at `lowest` needs.
    pub(super) fn trim(&mut self, limit: usize, lowest: Option<Offset>) {
        while self.runs.len() > limit {
            let floor = self.runs.get(1).map_or(self.evicted_to, |second| Offset(second.start.0 - 1));
            if lowest.is_some_and(|lowest| lowest < floor) && self.runs.len() <= 4 * limit {
                break;
            }
            self.runs.pop_front();
            self.floor = floor;
        }
        if self.runs.capacity() > 64 && self.runs.capacity() > 4 * self.runs.len() {
            self.runs.shrink_to(2 * self.runs.len());
        }
    }
}

impl Fates {
    /// Nothing new behind `after`.
    pub(super) fn none(after: Offset) -> Self {
        Self { after, runs: Vec::new() }
    }

    /// The last evicted event that is known.
    pub(super) fn to(&self) -> Offset {
        self.runs.last().map_or(self.after, |&(to, _)| to)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.runs.capacity() * size_of::<(Offset, Fate)>()
    }

    /// Appends what was told later.
    pub(super) fn join(&mut self, later: Self) {
        if later.after > self.to() || self.runs.is_empty() {
            *self = later;
            return;
        }
        assert_eq!(later.after, self.to(), "nothing is told twice");
        for (to, fate) in later.runs {
            match self.runs.last_mut() {
                Some(last) if last.1 == fate => last.0 = to,
                _ => self.runs.push((to, fate)),
            }
        }
    }
}

impl Totals {
    fn add(&mut self, fate: Fate, count: u64) {
        match fate {
            Fate::Keyed => {}
            Fate::Overrun => self.overrun += count,
            Fate::Lost => self.lost += count,
            Fate::Expired => self.expired += count,
        }
    }
}

impl Sub for Totals {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            overrun: self.overrun - earlier.overrun,
            lost: self.lost - earlier.lost,
            expired: self.expired - earlier.expired,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FATES: [Fate; 4] = [Fate::Keyed, Fate::Overrun, Fate::Lost, Fate::Expired];

    proptest! {
        #[test]
        fn any_interval_splits_as_counting_each_offset_does(
            fates in prop::collection::vec((0_usize..4, 1_usize..5), 1..60), limit in 0_usize..12,
            from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(),
        ) {
            let model: Vec<Fate> = fates.iter().flat_map(|&(fate, count)| vec![FATES[fate]; count]).collect();
            let mut kinds = Kinds::default();
            for (index, &fate) in model.iter().enumerate().filter(|(_, fate)| **fate != Fate::Keyed) {
                kinds.note(Offset(index as u64 + 1), fate);
            }
            kinds.trim(limit, None);
            prop_assert!(kinds.runs.len() <= limit);
            let floor = usize::try_from(kinds.floor().0).unwrap();
            let from = floor + from.index(model.len() - floor + 1);
            let to = from + to.index(model.len() - from + 1);
            let mut expected = Totals::default();
            model[from..to].iter().for_each(|&fate| expected.add(fate, 1));
            prop_assert_eq!(kinds.between(Offset(from as u64), Offset(to as u64)), expected);
        }
    }

    /// Alternating fates: one run for each offset.
    fn alternating(events: u64) -> Kinds {
        let mut kinds = Kinds::default();
        for offset in 1..=events {
            kinds.note(Offset(offset), FATES[1 + (offset % 2) as usize]);
        }
        kinds
    }

    #[test]
    fn runs_of_one_kind_cost_one_entry() {
        let mut kinds = Kinds::default();
        for offset in 1..=100_000 {
            kinds.note(Offset(offset), Fate::Overrun);
        }
        assert_eq!(kinds.runs.len(), 1);
        assert_eq!(kinds.between(Offset(10), Offset(99_990)).overrun, 99_980);
    }

    #[test]
    fn the_floor_waits_for_the_lowest_cursor_but_not_beyond_four_times_the_limit() {
        let mut kinds = alternating(20);
        kinds.trim(10, Some(Offset(5)));
        assert_eq!((kinds.runs.len(), kinds.floor()), (15, Offset(5)));
        kinds.trim(10, None);
        assert_eq!((kinds.runs.len(), kinds.floor()), (10, Offset(10)));
        let mut kinds = alternating(50);
        kinds.trim(10, Some(Offset(5)));
        assert_eq!((kinds.runs.len(), kinds.floor()), (40, Offset(10)));
    }
}
