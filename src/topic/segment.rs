//! The live records of a log by offset: segments of 64 consecutive offsets, each with a mask of the live ones.
//!
//! Memory follows the live records: a segment holds only those, and one that holds none is dropped.

use std::collections::VecDeque;

use super::entry::Entry;
use crate::ids::Offset;

const SLOTS: u64 = 64;
/// So many empty segments are never worth looking for.
const EMPTY_ALLOWED: usize = 16;

/// Live records, ordered by offset.
#[derive(Debug, Default)]
pub(super) struct Segments {
    /// Ascending by `base`.
    segments: VecDeque<Segment>,
    /// Segments without a live record that still stand in the list; at most half of them, see `drop_empty`.
    empty: usize,
    live: usize,
    body_bytes: usize,
}

#[derive(Debug)]
struct Segment {
    /// Its first offset is 64 times this.
    base: u64,
    /// Bit `n`: the record at slot `n` is live.
    mask: u64,
    /// The live ones, ascending: the one at slot `n` stands at the number of mask bits below `n`.
    entries: Vec<Entry>,
}

impl Segments {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// Bytes of `count` records of average size, or of all if there are fewer.
    pub(super) fn body_bytes(&self, count: u64) -> usize {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.live);
        (self.body_bytes as u128 * count as u128 / self.live.max(1) as u128) as usize
    }

    /// Approximate heap bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.body_bytes + self.live * size_of::<Entry>() + self.segments.capacity() * size_of::<Segment>()
    }

    pub(super) fn get(&self, offset: Offset) -> Option<&Entry> {
        let segment = &self.segments[self.position(offset)?];
        segment.rank_of(offset).map(|rank| &segment.entries[rank])
    }

    pub(super) fn get_mut(&mut self, offset: Offset) -> Option<&mut Entry> {
        let position = self.position(offset)?;
        let segment = &mut self.segments[position];
        segment.rank_of(offset).map(|rank| &mut segment.entries[rank])
    }

    /// Appends behind all others.
    pub(super) fn push(&mut self, offset: Offset, entry: Entry) {
        let (base, slot) = place(offset);
        if self.segments.back().is_none_or(|last| last.base < base) {
            self.segments.push_back(Segment { base, mask: 0, entries: Vec::new() });
            self.empty += 1;
        }
        let last = self.segments.back_mut().expect("one was just pushed if there was none");
        debug_assert!(last.base == base && last.mask >> slot == 0, "offsets only ascend");
        self.empty -= usize::from(last.mask == 0);
        last.mask |= 1 << slot;
        self.live += 1;
        self.body_bytes += entry.body_bytes();
        last.entries.push(entry);
    }

    pub(super) fn remove(&mut self, offset: Offset) -> Option<Entry> {
        let position = self.position(offset)?;
        let segment = &mut self.segments[position];
        let rank = segment.rank_of(offset)?;
        let entry = segment.entries.remove(rank);
        segment.mask &= !(1 << place(offset).1);
        if segment.mask == 0 {
            segment.entries = Vec::new();
            self.empty += 1;
        } else if segment.entries.capacity() > 4 * segment.entries.len() {
            segment.entries.shrink_to(2 * segment.entries.len());
        }
        self.live -= 1;
        self.body_bytes -= entry.body_bytes();
        self.drop_empty();
        Some(entry)
    }

    /// The live records above `offset`, ascending.
    pub(super) fn after(&self, offset: Offset) -> impl Iterator<Item = (Offset, &Entry)> {
        let first = offset.next();
        let start = self.segments.partition_point(|segment| segment.base < place(first).0);
        self.segments.range(start..).flat_map(move |segment| {
            let skipped = if segment.base == place(first).0 { segment.rank(place(first).1) } else { 0 };
            segment.iter().skip(skipped)
        })
    }

    /// The live records, descending.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = (Offset, &Entry)> {
        self.segments.iter().rev().flat_map(|segment| {
            let mut mask = segment.mask;
            segment.entries.iter().rev().map(move |entry| {
                let slot = u64::from(63 - mask.leading_zeros());
                mask &= !(1 << slot);
                (Offset(segment.base * SLOTS + slot), entry)
            })
        })
    }

    fn position(&self, offset: Offset) -> Option<usize> {
        let (base, _) = place(offset);
        // Where nothing is dropped the position follows from the base.
        let first = self.segments.front()?.base;
        let guess = usize::try_from(base.checked_sub(first)?).unwrap_or(usize::MAX);
        if self.segments.get(guess).is_some_and(|segment| segment.base == base) {
            return Some(guess);
        }
        self.segments.binary_search_by_key(&base, |segment| segment.base).ok()
    }

    /// Amortized: a sweep looks at no more than twice as many segments as became empty since the last one.
    fn drop_empty(&mut self) {
        while self.segments.len() > 1 && self.segments.front().is_some_and(|first| first.mask == 0) {
            self.segments.pop_front();
            self.empty -= 1;
        }
        if self.empty > EMPTY_ALLOWED && self.empty > self.segments.len() / 2 {
            self.segments.retain(|segment| segment.mask != 0);
            self.empty = 0;
        }
        if self.segments.capacity() > 64 && self.segments.capacity() > 4 * self.segments.len() {
            self.segments.shrink_to(2 * self.segments.len());
        }
    }
}

impl Segment {
    fn iter(&self) -> impl Iterator<Item = (Offset, &Entry)> {
        let mut mask = self.mask;
        let slots = std::iter::from_fn(move || {
            let slot = mask.trailing_zeros();
            mask &= mask.wrapping_sub(1);
            Some(u64::from(slot))
        });
        slots.zip(&self.entries).map(|(slot, entry)| (Offset(self.base * SLOTS + slot), entry))
    }

    /// How many live records stand below `slot`.
    fn rank(&self, slot: u64) -> usize {
        (self.mask & ((1 << slot) - 1)).count_ones() as usize
    }

    fn rank_of(&self, offset: Offset) -> Option<usize> {
        let (_, slot) = place(offset);
        (self.mask >> slot & 1 == 1).then(|| self.rank(slot))
    }
}

fn place(offset: Offset) -> (u64, u64) {
    (offset.0 / SLOTS, offset.0 % SLOTS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::{Priority, entry::Kind};
    use super::*;

    fn entry(offset: u64) -> Entry {
        Entry::new(Kind::Value, &offset.to_be_bytes(), b"", Priority::Low, Offset(offset))
    }

    fn offsets<'a>(entries: impl Iterator<Item = (Offset, &'a Entry)>) -> Vec<u64> {
        entries
            .map(|(offset, entry)| {
                assert_eq!(entry.key(), offset.0.to_be_bytes(), "the entry stands at its own offset");
                offset.0
            })
            .collect()
    }

    proptest! {
        #[test]
        fn segments_hold_what_a_sorted_set_holds(
            steps in prop::collection::vec((1_u64..100, prop::bool::weighted(0.45), any::<prop::sample::Index>()), 1..400),
        ) {
            let (mut segments, mut model, mut head) = (Segments::default(), BTreeSet::new(), 0);
            for (gap, is_push, index) in steps {
                if is_push || model.is_empty() {
                    head += gap;
                    segments.push(Offset(head), entry(head));
                    model.insert(head);
                } else {
                    let victim = *model.iter().nth(index.index(model.len())).expect("the index is in range");
                    model.remove(&victim);
                    prop_assert!(segments.remove(Offset(victim)).is_some());
                    prop_assert!(segments.remove(Offset(victim)).is_none());
                }
                let from = index.index(usize::try_from(head).unwrap() + 2) as u64;
                let expected: Vec<u64> = model.range(from + 1..).copied().collect();
                prop_assert_eq!(offsets(segments.after(Offset(from))), expected);
                prop_assert_eq!(segments.get(Offset(from)).is_some(), model.contains(&from));
            }
            let descending: Vec<u64> = model.iter().rev().copied().collect();
            prop_assert_eq!(offsets(segments.newest_first()), descending);
            prop_assert_eq!(segments.len(), model.len());
        }
    }

    #[test]
    fn memory_follows_the_live_records() {
        let mut segments = Segments::default();
        segments.push(Offset(1), entry(1));
        for offset in 2..200_000 {
            segments.push(Offset(offset), entry(offset));
            if offset > 2 {
                segments.remove(Offset(offset - 1));
            }
        }
        assert_eq!(segments.len(), 2);
        assert!(segments.segments.len() <= 64, "{} segments for two records", segments.segments.len());
        assert!(segments.segments.capacity() <= 256);
    }
}
