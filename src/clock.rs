//! Time is an argument: a shard reads the clock once a turn and passes it on, so that whole shards run in virtual time.

#![forbid(unsafe_code)]

use std::ops::{Add, Sub};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment of the engine's monotonic time, in nanoseconds since its boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// Later than every moment that will be.
    pub const NEVER: Self = Self(u64::MAX);

    /// How much time passed from `earlier` to this moment; zero if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Which entries of a timing wheel will look at one thing: the next two of them.
///
/// Entries are not cancelled. If an earlier look made one forget the later one, each would be followed by another of its kind, and
/// their number would grow as long as the thing lives. So whoever is looked at between two entries that are known sets no other.
#[derive(Clone, Copy, Debug)]
pub struct Alarm {
    next: Moment,
    /// Not before `next`.
    later: Moment,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { next: Moment::NEVER, later: Moment::NEVER }
    }
}

impl Alarm {
    /// A look is wanted no later than `at`. True: no entry will see to it, and the caller sets one.
    #[must_use]
    pub fn wants_entry(&mut self, at: Moment) -> bool {
        let is_wanted = at < self.next;
        if is_wanted {
            *self = Self { next: at, later: self.next };
        }
        is_wanted
    }

    /// An entry fired at `now`. False: it is one that was forgotten, and others will come in time.
    #[must_use]
    pub fn fired(&mut self, now: Moment) -> bool {
        let is_due = self.next <= now;
        if is_due {
            *self = Self { next: self.later, later: Moment::NEVER };
        }
        is_due
    }
}

/// Reads the monotonic clock, and knows the wall time at which it stood at zero.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    boot: Instant,
    epoch: WallEpoch,
}

impl Clock {
    /// A clock that stands at zero now.
    #[must_use]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { boot: Instant::now(), epoch: WallEpoch { boot_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX) } }
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment(u64::try_from(self.boot.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// What turns moments into wall time.
    #[must_use]
    pub fn epoch(&self) -> WallEpoch {
        self.epoch
    }
}

/// The wall time of [`Moment`] zero. `time_us` on the wire is this plus monotonic time, so it never jumps.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallEpoch {
    /// Unix time in microseconds.
    pub boot_us: u64,
}

impl WallEpoch {
    /// The Unix time of `moment`, in microseconds.
    #[must_use]
    pub fn unix_us(self, moment: Moment) -> u64 {
        self.boot_us + moment.0 / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random looks, wanted early and late, of which each comes no later than wanted; and of entries there are few, however
    /// long it goes on.
    #[test]
    fn whatever_is_wanted_is_looked_at_in_time_by_few_entries() {
        use rand::{RngExt as _, SeedableRng as _};
        for seed in 0..200 {
            let mut random = rand::rngs::StdRng::seed_from_u64(seed);
            let (mut alarm, mut entries) = (Alarm::default(), Vec::new());
            // A far deadline that moves whenever it is reached, and a near one that comes again and again.
            let (mut far, mut near) = (Moment(1_000), Moment::NEVER);
            for now in (0..100_000).step_by(7).map(Moment) {
                let (due, mut rest): (Vec<_>, Vec<_>) = entries.into_iter().partition(|at| *at <= now);
                let mut is_missed = far.min(near) <= now;
                for _ in due {
                    if alarm.fired(now) {
                        is_missed = false;
                        far = if far <= now { now + Duration::from_nanos(1_000) } else { far };
                        near = if near <= now { Moment::NEVER } else { near };
                        if alarm.wants_entry(far.min(near)) {
                            rest.push(far.min(near));
                        }
                    }
                }
                entries = rest;
                assert!(!is_missed, "seed {seed}: missed at {now:?}");
                if random.random_bool(0.3) {
                    near = near.min(now + Duration::from_nanos(random.random_range(1..40)));
                }
                if alarm.wants_entry(far.min(near)) {
                    entries.push(far.min(near));
                }
                assert!(entries.len() <= 20, "seed {seed}: {} entries at {now:?}", entries.len());
            }
        }
    }
}
