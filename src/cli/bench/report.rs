//! What scenarios print.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// A distribution of nanoseconds, in milliseconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Spread {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
    pub(super) max_ms: f64,
}

impl From<&Histogram<u64>> for Spread {
    fn from(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        Self { p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999), max_ms: histogram.max() as f64 / 1e6 }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { p50_ms, p99_ms, p999_ms, max_ms } = self;
        write!(out, "p50 {p50_ms:.2} ms, p99 {p99_ms:.2}, p99.9 {p999_ms:.2}, max {max_ms:.2}")
    }
}
