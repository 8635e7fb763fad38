//! What scenarios print.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// A distribution of nanoseconds, in milliseconds: of none, if nothing was sampled.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub(super) struct Spread(Option<Quantiles>);

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Quantiles {
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

impl Spread {
    pub(super) fn p99_ms(&self) -> Option<f64> {
        self.0.map(|quantiles| quantiles.p99_ms)
    }
}

impl From<&Histogram<u64>> for Spread {
    fn from(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        let quantiles = || Quantiles {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1e6,
        };
        Self((!histogram.is_empty()).then(quantiles))
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Quantiles { p50_ms, p99_ms, p999_ms, max_ms }) = self.0 else { return out.write_str("\u{2014}") };
        write!(out, "p50 {p50_ms:.2} ms, p99 {p99_ms:.2}, p99.9 {p999_ms:.2}, max {max_ms:.2}")
    }
}

/// A figure with so many decimals, or a dash where there is none.
pub(super) fn shown(figure: Option<f64>, decimals: usize) -> String {
    figure.map_or_else(|| "\u{2014}".to_owned(), |figure| format!("{figure:.decimals$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_sample_there_is_no_latency() {
        let mut histogram = Histogram::new(3).expect("3 digits are allowed");
        let none = Spread::from(&histogram);
        assert_eq!((none.to_string().as_str(), none.p99_ms()), ("\u{2014}", None));
        assert_eq!(serde_json::to_string(&none).expect("JSON"), "null");
        assert!(serde_json::from_str::<Spread>("null").is_ok_and(|spread| spread.p99_ms().is_none()));
        assert_eq!(shown(none.p99_ms(), 2), "\u{2014}");
        histogram.record(0).expect("it grows");
        let zero = Spread::from(&histogram);
        assert_eq!(zero.to_string(), "p50 0.00 ms, p99 0.00, p99.9 0.00, max 0.00");
        assert_eq!(shown(zero.p99_ms(), 2), "0.00");
    }
}
