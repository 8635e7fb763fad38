//! Names of topics.

use std::fmt;
use std::sync::Arc;

use crate::limits::{NAME_BYTES, NAME_SEGMENTS};

/// A valid topic name: 1 to 255 bytes, at most 16 segments of `A-Z a-z 0-9 . _ - : @` joined by `/`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

/// Why a text is no topic name, or no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("it is empty")]
    Empty,
    /// More than [`NAME_BYTES`] bytes.
    #[error("it is longer than {NAME_BYTES} bytes")]
    TooLong,
    /// More than [`NAME_SEGMENTS`] segments.
    #[error("it has more than {NAME_SEGMENTS} segments")]
    TooManySegments,
    /// A `/` at the start, at the end, or behind another one.
    #[error("it has an empty segment")]
    EmptySegment,
    /// A byte outside the allowed ones.
    #[error("the byte at {0} is not one of A-Z a-z 0-9 . _ - : @ /")]
    BadByte(usize),
    /// In a pattern: `*` is a whole segment, `**` the whole last one.
    #[error("`*` stands for one whole segment and `**` for the whole rest")]
    BadWildcard,
    /// In a pattern: more than three times `*`.
    #[error("it has more than {} times `*`", super::pattern::MAX_STARS)]
    TooManyWildcards,
}

impl TopicName {
    /// Checks `text`.
    ///
    /// # Errors
    ///
    /// The first rule it breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_shape(text)?;
        match text.bytes().position(|byte| byte != b'/' && !is_name_byte(byte)) {
            Some(position) => Err(NameError::BadByte(position)),
            None => Ok(Self(text.into())),
        }
    }

    /// The text, shared.
    pub(super) fn shared(&self) -> Arc<str> {
        self.0.clone()
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its segments, in order.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What names and patterns have in common: length, number of segments, none of them empty.
pub(super) fn check_shape(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES {
        return Err(NameError::TooLong);
    }
    if text.split('/').count() > NAME_SEGMENTS {
        return Err(NameError::TooManySegments);
    }
    if text.split('/').any(str::is_empty) {
        return Err(NameError::EmptySegment);
    }
    Ok(())
}

/// ASCII only: look-alikes of other scripts have no place in names.
pub(super) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':' | b'@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_within_the_rules_are_taken() {
        for name in ["a", "market/BTC-USD/depth", "a.b_c-d:e@f/0", &"x".repeat(255), &["s"; 16].join("/")] {
            assert_eq!(TopicName::parse(name).map(|name| name.as_str().to_owned()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn each_rule_has_its_error() {
        assert_eq!(TopicName::parse(""), Err(NameError::Empty));
        assert_eq!(TopicName::parse(&"x".repeat(256)), Err(NameError::TooLong));
        assert_eq!(TopicName::parse(&["s"; 17].join("/")), Err(NameError::TooManySegments));
        for name in ["/", "/a", "a/", "a//b"] {
            assert_eq!(TopicName::parse(name), Err(NameError::EmptySegment), "{name}");
        }
        for (name, position) in [("a b", 1), ("a/*", 2), ("\u{430}", 0), ("a\0", 1), ("a\n", 1), ("a/b%", 3)] {
            assert_eq!(TopicName::parse(name), Err(NameError::BadByte(position)), "{name:?}");
        }
    }

    #[test]
    fn of_a_million_random_texts_with_a_look_alike_none_is_a_name_or_a_pattern() {
        use rand::{RngExt as _, SeedableRng as _};
        let mut random = rand::rngs::StdRng::seed_from_u64(14);
        for _ in 0..1_000_000 {
            let mut text: Vec<char> = (0..random.random_range(0..8)).map(|_| random.random_range('.'..'z')).collect();
            // Full-width forms, Cyrillic and Greek, marks that combine, what is invisible: any character beyond ASCII.
            let stranger = char::from_u32(random.random_range(0x80..0x1_F000)).unwrap_or('\u{FF0F}');
            text.insert(random.random_range(0..=text.len()), stranger);
            let text = String::from_iter(text);
            assert!(TopicName::parse(&text).is_err(), "{text:?}");
            assert!(super::super::Pattern::parse(&text).is_err(), "{text:?}");
        }
    }
}
