//! The limit on bytes that are sent again.

use std::time::Duration;

use crate::clock::Moment;
use crate::limits::RESENT_PERIOD;

/// Bytes that may be used in [`RESENT_PERIOD`], and as many at once, in eight bytes: as [`Rate`](super::Rate), it keeps the moment at
/// which it is full again. What is sent is counted when it is sent, so it may be overdrawn; then nothing is left until that is made up for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    full_at: Moment,
}

impl Allowance {
    /// Takes `bytes`, whether they are there or not.
    pub fn spend(&mut self, now: Moment, bytes: usize, per_period: usize) {
        self.full_at = self.full_at.max(now) + time_of(bytes, per_period);
    }

    /// Puts back what was taken for nothing.
    pub fn restore(&mut self, bytes: usize, per_period: usize) {
        self.full_at = self.full_at - time_of(bytes, per_period);
    }

    /// Whether more than `reserved` bytes are left.
    ///
    /// # Errors
    /// The time until they are.
    pub fn look(&self, now: Moment, reserved: usize, per_period: usize) -> Result<(), Duration> {
        let used = self.full_at.since(now) + time_of(reserved, per_period);
        match used.checked_sub(RESENT_PERIOD) {
            None => Ok(()),
            // Said in milliseconds, and never too few of them.
            Some(over) => Err(over + Duration::from_millis(1)),
        }
    }
}

/// In how much time so many bytes come back.
fn time_of(bytes: usize, per_period: usize) -> Duration {
    RESENT_PERIOD.mul_f64(bytes as f64 / per_period.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    #[test]
    fn who_sends_whenever_it_may_sends_so_much() {
        let mut allowance = Allowance::default();
        let mut sent = [0; 4];
        for ms in 0..40_000 {
            if allowance.look(at(ms), 0, 10_000).is_ok() {
                allowance.spend(at(ms), 700, 10_000);
                sent[ms as usize / 10_000] += 700;
            }
        }
        // At once and over the time in the first ten seconds, then what comes back; and one more each time.
        assert!((19_000..=20_700).contains(&sent[0]), "{sent:?}");
        assert!(sent[1..].iter().all(|sent| (9_000..=10_700).contains(sent)), "{sent:?}");
    }

    #[test]
    fn what_was_overdrawn_is_made_up_for() {
        let mut allowance = Allowance::default();
        allowance.spend(at(0), 50_000, 10_000);
        assert_eq!(allowance.look(at(0), 0, 10_000), Err(Duration::from_millis(40_001)));
        assert!(allowance.look(at(39_999), 0, 10_000).is_err());
        assert!(allowance.look(at(40_001), 0, 10_000).is_ok());
        assert!(allowance.look(at(40_001), 2, 10_000).is_err(), "what is reserved counts");
        allowance.restore(40_000, 10_000);
        assert!(allowance.look(at(1), 0, 10_000).is_ok());
    }
}
