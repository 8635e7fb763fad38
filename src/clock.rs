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
