//! Timers: a hierarchical timing wheel, where setting one and firing one cost the same however many there are.
//!
//! Time is cut into ticks of about half a millisecond. Level 0 has a slot for each of the next 64 ticks, level 1 one for
//! each 64 of those, and so on. A timer lies on the level where its tick first differs from the present one; when time
//! reaches its slot, it goes down a level, or fires. So nothing fires early, and at most one tick late.
//!
//! Nothing is cancelled: who gets a token looks whether it still means something.

use crate::clock::Moment;

/// A tick is 2^19 ns, 0.52 ms.
const TICK_SHIFT: u32 = 19;
/// The last that is a moment.
const LAST_TICK: u64 = u64::MAX >> TICK_SHIFT;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Enough for every moment: 2^64 ns are 2^45 ticks.
const LEVELS: usize = (64 - TICK_SHIFT).div_ceil(SLOT_BITS) as usize;
/// An empty wheel keeps room for so many timers.
const KEPT_ENTRIES: usize = 256;
/// Ends a list of entries.
const NONE: u32 = u32::MAX;

/// Timers that carry a token of type `T`. Twelve bytes each beside the token, and 2 KiB.
#[derive(Debug)]
pub struct Wheel<T> {
    /// The tick up to which everything has fired. All entries are of this tick or later.
    elapsed: u64,
    levels: [Level; LEVELS],
    /// Entries of all slots, linked into a list for each, and one of those that are free.
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    /// Bit i is set exactly when slot i has entries.
    occupied: u64,
    heads: [u32; SLOTS],
}

/// The tick is split so that no padding stands between it and a token of four-byte alignment.
#[derive(Clone, Copy, Debug)]
struct Entry<T> {
    tick: [u32; 2],
    next: u32,
    token: T,
}

impl<T> Entry<T> {
    fn tick(&self) -> u64 {
        u64::from(self.tick[0]) << 32 | u64::from(self.tick[1])
    }
}

#[allow(clippy::cast_possible_truncation)] // the halves of a number
fn halves(tick: u64) -> [u32; 2] {
    [(tick >> 32) as u32, tick as u32]
}

impl<T: Copy> Default for Wheel<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy> Wheel<T> {
    /// Without timers, at moment zero.
    #[must_use]
    pub fn new() -> Self {
        let empty = Level { occupied: 0, heads: [NONE; SLOTS] };
        Self { elapsed: 0, levels: [empty; LEVELS], entries: Vec::new(), free: NONE, len: 0 }
    }

    /// How many timers are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets a timer: the first [`Wheel::expire`] that is not before `at` gives `token`, or one at most a millisecond later.
    /// What is past fires with the next call. [`Moment::NEVER`] is not kept.
    ///
    /// # Panics
    /// With more than four thousand million timers.
    pub fn insert(&mut self, at: Moment, token: T) {
        // Up, so that it is never early. `NEVER` has no tick above it.
        let tick = at.0.div_ceil(1 << TICK_SHIFT).max(self.elapsed);
        if tick > LAST_TICK {
            return;
        }
        let entry = Entry { tick: halves(tick), next: NONE, token };
        let index = if self.free == NONE {
            // By a quarter, not double: with many timers the vector's slack would outweigh them.
            if self.entries.len() == self.entries.capacity() {
                self.entries.reserve_exact((self.entries.len() / 4).max(64));
            }
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).ok().filter(|&index| index != NONE).expect("that many timers")
        } else {
            let index = self.free;
            self.free = self.entries[index as usize].next;
            self.entries[index as usize] = entry;
            index
        };
        self.len += 1;
        self.link(index, tick);
    }

    /// Gives the tokens of all timers that are due at `now`, in no particular order.
    pub fn expire(&mut self, now: Moment, out: &mut Vec<T>) {
        let target = now.0 >> TICK_SHIFT;
        while let Some((level, slot, tick)) = self.earliest().filter(|&(_, _, tick)| tick <= target) {
            debug_assert!(self.elapsed <= tick, "no slot is behind the present");
            self.elapsed = tick;
            self.levels[level].occupied &= !(1 << slot);
            let mut index = std::mem::replace(&mut self.levels[level].heads[slot], NONE);
            while index != NONE {
                let Entry { next, token, .. } = self.entries[index as usize];
                let tick = self.entries[index as usize].tick();
                if tick <= target {
                    out.push(token);
                    self.entries[index as usize].next = self.free;
                    self.free = index;
                    self.len -= 1;
                } else {
                    self.link(index, tick);
                }
                index = next;
            }
        }
        self.elapsed = self.elapsed.max(target);
        if self.len == 0 && self.entries.capacity() > KEPT_ENTRIES {
            // A burst of timers leaves nothing behind.
            self.entries = Vec::new();
            self.free = NONE;
        }
    }

    /// Until when the wheel may be left alone: not after the earliest timer's tick. It may be before, when timers have to
    /// go down a level, which each does a handful of times in its life; [`Wheel::expire`] then gives nothing.
    #[must_use]
    pub fn next(&self) -> Option<Moment> {
        self.earliest().map(|(_, _, tick)| Moment(tick << TICK_SHIFT))
    }

    /// The slot that comes first, with the tick at which it begins. Everything on a level comes before all that is on
    /// the levels above it, because those differ from the present in a higher digit.
    fn earliest(&self) -> Option<(usize, usize, u64)> {
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        let slot = self.levels[level].occupied.trailing_zeros();
        let shift = SLOT_BITS * u32::try_from(level).expect("there are few levels");
        let above = self.elapsed >> shift >> SLOT_BITS << SLOT_BITS << shift;
        Some((level, slot as usize, above | u64::from(slot) << shift))
    }

    /// Puts an entry into the slot of its tick.
    fn link(&mut self, index: u32, tick: u64) {
        let differs = self.elapsed ^ tick;
        let level = differs.checked_ilog2().unwrap_or(0) / SLOT_BITS;
        let slot = (tick >> (SLOT_BITS * level)) as usize % SLOTS;
        let level = &mut self.levels[level as usize];
        self.entries[index as usize].next = std::mem::replace(&mut level.heads[slot], index);
        level.occupied |= 1 << slot;
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;
    use std::time::Duration;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    const TICK: u64 = 1 << TICK_SHIFT;

    #[test]
    fn fires_what_a_heap_fires_never_early_and_at_most_a_millisecond_late() {
        for seed in 0..300 {
            println!("seed {seed}");
            let mut random = StdRng::seed_from_u64(seed);
            let mut wheel = Wheel::new();
            let mut heap = BinaryHeap::new();
            // Not only near zero: where high digits roll over.
            let digits = random.random_range(1..64);
            let mut now = Moment(random.random::<u64>() >> digits);
            wheel.expire(now, &mut Vec::new());
            for token in 0..400_u32 {
                for _ in 0..random.random_range(0..3) {
                    let delay = random.random::<u64>() >> random.random_range(2..64);
                    let at = if random.random_bool(0.05) {
                        now - Duration::from_nanos(delay)
                    } else {
                        Moment(now.0.saturating_add(delay))
                    };
                    wheel.insert(at, (at, token));
                    if at.0 <= LAST_TICK << TICK_SHIFT {
                        heap.push(Reverse((at, token)));
                    }
                }
                now = match random.random_range(0..3) {
                    0 => wheel.next().filter(|&next| next > now).unwrap_or(now),
                    1 => Moment(now.0.saturating_add(random.random::<u64>() >> random.random_range(24..64))),
                    _ => heap.peek().map_or(now, |&Reverse((at, _))| now.max(at)),
                };
                if let Some(Reverse((at, _))) = heap.peek() {
                    let next = wheel.next().expect("timers are set");
                    assert!(next.0 < at.0.max(now.0).saturating_add(TICK), "sleeping until {next:?} would miss {at:?}");
                }
                let mut fired = Vec::new();
                wheel.expire(now, &mut fired);
                // The model: everything not after `now`, of which the wheel may hold back the last tick's.
                let mut due = Vec::new();
                while let Some(&Reverse(timer)) = heap.peek().filter(|Reverse((at, _))| *at <= now) {
                    heap.pop();
                    due.push(timer);
                }
                assert!(fired.iter().all(|(at, _)| *at <= now), "early");
                for timer in &due {
                    if !fired.contains(timer) {
                        assert!(now.since(timer.0) < Duration::from_millis(1), "late: {timer:?} at {now:?}");
                        heap.push(Reverse(*timer));
                    }
                }
                assert_eq!(wheel.len(), heap.len());
                due.retain(|timer| fired.contains(timer));
                due.sort();
                fired.sort();
                assert_eq!(fired, due);
            }
        }
    }

    #[test]
    fn sleeping_until_next_wakes_a_handful_of_times_for_each_timer() {
        let mut wheel = Wheel::new();
        let deadline = Moment::default() + Duration::from_secs(3_600);
        wheel.expire(Moment(123_456_789), &mut Vec::new());
        wheel.insert(deadline, ());
        let mut wakes = 0;
        let mut fired = Vec::new();
        let mut now = Moment::default();
        while let Some(next) = wheel.next() {
            assert!(next > now, "a wake-up that changes nothing");
            now = next;
            wheel.expire(now, &mut fired);
            wakes += 1;
        }
        assert_eq!(fired.len(), 1);
        assert!(deadline <= now && now.since(deadline) < Duration::from_millis(1));
        assert!(wakes <= 5, "{wakes}");
    }

    #[test]
    fn ten_thousand_timers_take_thirty_two_bytes_each_and_none_when_they_are_gone() {
        let mut wheel = Wheel::new();
        for i in 0..10_000 {
            wheel.insert(Moment(i * 25_000_000), (1_u32, 2_u32));
        }
        let bytes = wheel.entries.capacity() * size_of::<Entry<(u32, u32)>>();
        assert!(bytes <= 32 * 10_000, "{bytes}");
        let mut fired = Vec::new();
        wheel.expire(Moment(u64::MAX / 2), &mut fired);
        assert_eq!((fired.len(), wheel.len(), wheel.entries.capacity()), (10_000, 0, 0));
    }

    #[test]
    fn freed_entries_are_used_again() {
        let mut wheel = Wheel::new();
        wheel.insert(Moment(u64::MAX / 2), 0);
        let mut fired = Vec::new();
        for i in 1..1_000 {
            for token in 0..3 {
                wheel.insert(Moment(i * TICK), token);
            }
            wheel.expire(Moment(i * TICK), &mut fired);
        }
        assert_eq!((fired.len(), wheel.entries.len()), (3 * 999, 4));
    }

    #[test]
    fn never_is_not_kept() {
        let mut wheel = Wheel::new();
        wheel.insert(Moment::NEVER, ());
        assert!(wheel.is_empty() && wheel.next().is_none());
        wheel.insert(Moment(LAST_TICK << TICK_SHIFT), ());
        let mut fired = Vec::new();
        wheel.expire(Moment::NEVER, &mut fired);
        assert_eq!(fired.len(), 1, "the last tick is a moment like any other");
    }
}
