//! How old what subscribers hold is.

use hdrhistogram::Histogram;

/// How old the newest record is that subscribers hold, sampled.
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
