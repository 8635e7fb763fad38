//! Prices and quantities as they were printed: compared by value, never through a float.

#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::fmt;

/// Digits and point of one number.
const MAX_BYTES: usize = 40;

/// A number that is not negative, kept as printed. `1.50` and `1.5` are equal; [`printed`](Self::printed) tells them apart.
#[derive(Clone, Debug)]
pub struct Decimal {
    /// Digits, at most one point between digits, no leading zero before another digit: [`cmp`](Ord::cmp) relies on it.
    text: Box<str>,
}

/// What is not a [`Decimal`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a decimal number")]
pub struct NotDecimal(pub String);

impl Decimal {
    /// Takes `text` as a number.
    ///
    /// # Errors
    ///
    /// Anything but digits with at most one point between them, leading zeros, more than 40 bytes.
    pub fn parse(text: &str) -> Result<Self, NotDecimal> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let has_leading_zero = whole.len() > 1 && whole.starts_with('0');
        if text.len() > MAX_BYTES || !is_digits(whole) || !is_digits(fraction) || has_leading_zero {
            return Err(NotDecimal(text.chars().take(MAX_BYTES).collect()));
        }
        Ok(Self { text: text.into() })
    }

    /// The number as it was printed.
    #[must_use]
    pub fn printed(&self) -> &str {
        &self.text
    }

    /// The number without trailing zeros: the same text for equal numbers.
    #[must_use]
    pub fn shortest(&self) -> &str {
        if self.text.contains('.') { self.text.trim_end_matches('0').trim_end_matches('.') } else { &self.text }
    }

    /// Whether it is nought.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.shortest() == "0"
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let split = |text| str::split_once(text, '.').unwrap_or((text, ""));
        let ((whole, fraction), (other_whole, other_fraction)) = (split(self.shortest()), split(other.shortest()));
        // Without leading zeros the longer whole part is the larger; without trailing ones fractions compare as text.
        whole
            .len()
            .cmp(&other_whole.len())
            .then_with(|| whole.cmp(other_whole))
            .then_with(|| fraction.cmp(other_fraction))
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.shortest() == other.shortest()
    }
}

impl Eq for Decimal {}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).expect("a number of this test")
    }

    #[test]
    fn trailing_zeros_are_cut_only_behind_the_point() {
        for (printed, shortest) in
            [("61837.63000000", "61837.63"), ("100.00000000", "100"), ("100", "100"), ("0.0", "0")]
        {
            assert_eq!(decimal(printed).shortest(), shortest);
            assert_eq!(decimal(printed).printed(), printed);
        }
        assert!(decimal("0.00000000").is_zero());
        assert!(!decimal("0.00000001").is_zero());
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", ".", "1.", ".5", "-1", "+1", "1e5", "1.2.3", "01", "00.5", "NaN", " 1", "١", &"9".repeat(41)]
        {
            assert!(Decimal::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        /// The model: both numbers as integers in units of 10^-8.
        #[test]
        fn order_is_that_of_the_integers(a in 0_u64..2_000_000_000_000, b in 0_u64..2_000_000_000_000, shift in 0_u32..12) {
            let (a, b) = (a / 10_u64.pow(shift), b);
            let print = |units: u64| decimal(&format!("{}.{:08}", units / 100_000_000, units % 100_000_000));
            let cut = |units: u64| decimal(print(units).shortest());
            prop_assert_eq!(print(a).cmp(&cut(b)), a.cmp(&b));
            prop_assert_eq!(print(a) == cut(b), a == b);
            prop_assert_eq!(print(a), cut(a));
        }
    }
}
