//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// When to reconnect by itself, and how patiently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReconnectPolicy {
    /// Upper bound of the first wait. The wait itself is a random part of the bound ("full jitter"), so that many
    /// clients that were dropped together do not come back together.
    pub first: Duration,
    /// The bound doubles with every failure in a row, up to this.
    pub most: Duration,
    /// A connection that lasted so long ends the row of failures.
    pub stable_after: Duration,
    /// `false`: the first lost connection ends the client.
    pub is_enabled: bool,
}

impl Default for ReconnectPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            most: Duration::from_secs(30),
            stable_after: Duration::from_secs(10),
            is_enabled: true,
        }
    }
}

/// Counts the failures in a row.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: ReconnectPolicy,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(policy: ReconnectPolicy) -> Self {
        Self { policy, failures: 0 }
    }

    /// The wait after another lost connection, which had lasted `lasted`. `draw` is uniform in `0.0..1.0`.
    pub(crate) fn next_wait(&mut self, lasted: Duration, draw: f64) -> Duration {
        if lasted >= self.policy.stable_after {
            self.failures = 0;
        }
        let bound = self.policy.first.saturating_mul(1 << self.failures.min(20)).min(self.policy.most);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(draw.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn bound_doubles_from_one_second_to_thirty() {
        let mut backoff = Backoff::new(ReconnectPolicy::default());
        let bounds: Vec<u64> = (0..8).map(|_| backoff.next_wait(Duration::ZERO, 1.0).as_secs()).collect();
        assert_eq!(bounds, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn waits_are_spread_evenly_over_the_bound() {
        let mut tenths = [0u32; 10];
        for _ in 0..10_000 {
            let wait = Backoff::new(ReconnectPolicy::default()).next_wait(Duration::ZERO, rand::random());
            assert!(wait <= SECOND);
            tenths[((wait.as_secs_f64() * 10.0) as usize).min(9)] += 1;
        }
        // 1,000 each; ten standard deviations are 300.
        assert!(tenths.iter().all(|count| (700..1_300).contains(count)), "{tenths:?}");
    }

    #[test]
    fn only_a_connection_that_lasted_ends_the_row() {
        let mut backoff = Backoff::new(ReconnectPolicy::default());
        for _ in 0..3 {
            backoff.next_wait(Duration::ZERO, 1.0);
        }
        assert_eq!(backoff.next_wait(9 * SECOND, 1.0), 8 * SECOND);
        assert_eq!(backoff.next_wait(10 * SECOND, 1.0), SECOND);
    }
}
