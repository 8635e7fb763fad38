//! Durations on the command line.

use std::time::Duration;

/// Longer than anybody waits, and short enough for the end to be a moment that the system's clock can name: 31 years.
const SECONDS_MAX: f64 = 1e9;

/// Parses seconds, with a fraction or without: from 0 to a billion.
///
/// # Errors
/// If it is no such number; infinity and NaN are none.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse::<f64>().ok().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
    number.map(Duration::from_secs_f64).ok_or_else(|| format!("expected seconds, a number from 0 to {SECONDS_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_that_a_clock_can_wait_for_is_a_duration() {
        for (text, expected) in
            [("0", 0), ("-0", 0), ("1.5", 1_500), ("1e3", 1_000_000), ("1000000000", 1_000_000_000_000)]
        {
            assert_eq!(seconds(text), Ok(Duration::from_millis(expected)), "{text}");
        }
        for text in ["", "x", "-1", "-0.001", "nan", "-nan", "inf", "-inf", "1e10", "1e400", "1s"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
