//! Age of information: at a moment, how long something newer than what a subscriber holds has been there to be had.

use hdrhistogram::Histogram;

/// What was published, and when each of it was due: ascending nanoseconds, since the values of one generator are published in
/// that order. It has 8 bytes for each record of the run, because a subscriber may hold the first one to the end.
#[derive(Debug, Default)]
pub(super) struct Published(Vec<u64>);

impl Published {
    /// A record was due at `stamp`, and is published now.
    pub(super) fn note(&mut self, stamp: u64) {
        self.0.push(stamp);
    }

    /// How old what someone holds is at `now`, if its newest record is that of `held`: the time since the first record behind
    /// that one was due; 0 if there is none.
    pub(super) fn age(&self, held: u64, now: u64) -> u64 {
        let next = self.0.partition_point(|stamp| *stamp <= held);
        self.0.get(next).map_or(0, |stamp| now.saturating_sub(*stamp))
    }
}

/// Ages, sampled, by how subscribers read.
pub(super) struct Ages {
    pub(super) slow: Histogram<u64>,
    pub(super) stalled: Histogram<u64>,
    pub(super) healthy: Histogram<u64>,
}

impl Ages {
    pub(super) fn new() -> Self {
        let empty = || Histogram::new(3).expect("3 digits are allowed");
        Self { slow: empty(), stalled: empty(), healthy: empty() }
    }

    /// Adds another part of the run.
    pub(super) fn add(&mut self, other: &Self) {
        self.slow.add(&other.slow).expect("histograms that grow take every value");
        self.stalled.add(&other.stalled).expect("histograms that grow take every value");
        self.healthy.add(&other.healthy).expect("histograms that grow take every value");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_ages_from_the_moment_that_something_newer_is_there() {
        let mut published = Published::default();
        assert_eq!(published.age(0, 50), 0, "there is nothing");
        [100, 300, 700].into_iter().for_each(|stamp| published.note(stamp));
        assert_eq!(published.age(0, 150), 50, "nothing is held, and the first has been there for so long");
        assert_eq!(published.age(100, 1_000), 700, "two are newer: the first of them counts");
        assert_eq!(published.age(300, 1_000), 300);
        assert_eq!(published.age(700, 1_000_000), 0, "the newest does not age, however old it is itself");
    }
}
