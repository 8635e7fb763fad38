//! The limit on messages per second.

use std::time::Duration;

use crate::clock::Moment;

/// A token bucket in eight bytes: the generic cell rate algorithm (ITU-T I.371) keeps the moment at which it is full again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    full_at: Moment,
}

impl Rate {
    /// Counts one message, whatever the answer; `Ok` if it is within `per_second` with `burst` at once, else how long until the
    /// next one would be.
    ///
    /// # Errors
    /// The time until the bucket has room.
    pub fn take(&mut self, now: Moment, per_second: u32, burst: u32) -> Result<(), Duration> {
        let interval = Duration::from_secs(1) / per_second.max(1);
        let full_at = self.full_at.max(now) + interval;
        let depth = interval * burst.max(1);
        let ahead = full_at.since(now);
        if ahead <= depth {
            self.full_at = full_at;
            return Ok(());
        }
        // The debt grows no further than a second burst, so that who stops is served again soon.
        self.full_at = full_at.min(now + depth * 2 + interval);
        Err(ahead.checked_sub(depth).unwrap_or_default())
    }

    /// Whether the excess has reached a whole second burst: the client does not heed its errors.
    #[must_use]
    pub fn is_flooding(&self, now: Moment, per_second: u32, burst: u32) -> bool {
        let interval = Duration::from_secs(1) / per_second.max(1);
        self.full_at.since(now) > interval * burst.max(1) * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    #[test]
    fn a_burst_passes_and_one_more_does_not() {
        let mut rate = Rate::default();
        for _ in 0..20 {
            assert!(rate.take(at(5), 10, 20).is_ok());
        }
        assert_eq!(rate.take(at(5), 10, 20), Err(Duration::from_millis(100)));
    }

    #[test]
    fn tokens_come_back_at_the_rate() {
        let mut rate = Rate::default();
        for _ in 0..20 {
            assert!(rate.take(at(0), 10, 20).is_ok());
        }
        let passed = (0..=1_000).filter(|ms| rate.take(at(*ms), 10, 20).is_ok()).count();
        assert!(passed <= 11, "{passed}");
        let mut later = Rate::default();
        assert!((0..1_000).all(|ms| later.take(at(ms * 100), 10, 20).is_ok()));
    }

    #[test]
    fn who_goes_on_regardless_is_flooding() {
        let mut rate = Rate::default();
        let count = (0..100).take_while(|_| {
            let _ = rate.take(at(0), 10, 20);
            !rate.is_flooding(at(0), 10, 20)
        });
        assert_eq!(count.count(), 40);
    }
}
