//! Patterns over topic names.

use std::fmt;
use std::sync::Arc;

use super::name::{check_shape, is_name_byte};
use super::{NameError, TopicName};

/// So many `*` may stand in one pattern, besides the `**`: it bounds the paths that a lookup in a
/// [`PatternIndex`](super::PatternIndex) has to follow.
pub(super) const MAX_STARS: usize = 3;

/// A topic name in which `*` stands for any one segment and a last `**` for one or more. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(Arc<str>);

impl From<&TopicName> for Pattern {
    /// The name as a pattern that matches it alone; shares its text.
    fn from(name: &TopicName) -> Self {
        Self(name.shared())
    }
}

impl Pattern {
    /// `**`.
    #[must_use]
    pub fn everything() -> Self {
        Self("**".into())
    }

    /// Checks `text`.
    ///
    /// # Errors
    ///
    /// The first rule it breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_shape(text)?;
        let is_allowed = |byte| byte == b'/' || byte == b'*' || is_name_byte(byte);
        if let Some(position) = text.bytes().position(|byte| !is_allowed(byte)) {
            return Err(NameError::BadByte(position));
        }
        let mut segments = text.split('/').peekable();
        let mut stars = 0;
        while let Some(segment) = segments.next() {
            match segment {
                "*" => stars += 1,
                "**" if segments.peek().is_none() => {}
                _ if segment.contains('*') => return Err(NameError::BadWildcard),
                _ => {}
            }
        }
        if stars > MAX_STARS { Err(NameError::TooManyWildcards) } else { Ok(Self(text.into())) }
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if it is the name of one topic.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// The one topic it names, if it is exact.
    #[must_use]
    pub fn exact_name(&self) -> Option<TopicName> {
        TopicName::parse(&self.0).ok()
    }

    /// Whether the topic of that name is meant.
    #[must_use]
    pub fn matches(&self, name: &TopicName) -> bool {
        let mut names = name.segments();
        for segment in self.segments() {
            match (segment, names.next()) {
                (_, None) => return false,
                ("**", Some(_)) => return true,
                ("*", Some(_)) => {}
                (segment, Some(name)) if segment == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }

    /// Its segments, in order.
    pub(super) fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        let pattern = Pattern::parse(pattern).expect("the test's pattern is valid");
        pattern.matches(&TopicName::parse(name).expect("the test's name is valid"))
    }

    #[test]
    fn a_star_is_one_segment_and_two_are_the_rest() {
        assert!(matches("a/b", "a/b"));
        assert!(!matches("a/b", "a/b/c"));
        assert!(!matches("a/b", "a"));
        assert!(matches("a/*", "a/b"));
        assert!(!matches("a/*", "a/b/c"));
        assert!(!matches("a/*", "a"));
        assert!(matches("*/b", "a/b"));
        assert!(matches("a/**", "a/b"));
        assert!(matches("a/**", "a/b/c"));
        assert!(!matches("a/**", "a"), "`**` stands for at least one segment");
        assert!(!matches("a/**", "b/c"));
        assert!(matches("**", "anything/at/all"));
    }

    #[test]
    fn wildcards_stand_alone_and_the_rest_comes_last() {
        for pattern in ["a*", "*a/b", "**/a", "a/***", "a/**/b"] {
            assert_eq!(Pattern::parse(pattern), Err(NameError::BadWildcard), "{pattern}");
        }
        assert!(Pattern::parse("*/*/*/a/**").is_ok());
        assert_eq!(Pattern::parse("*/*/*/*"), Err(NameError::TooManyWildcards));
        assert_eq!(Pattern::parse("a/\u{ff0a}"), Err(NameError::BadByte(2)));
    }

    #[test]
    fn only_a_pattern_without_wildcards_names_a_topic() {
        let exact = Pattern::parse("a/b").expect("valid");
        assert!(exact.is_exact());
        assert_eq!(exact.exact_name(), TopicName::parse("a/b").ok());
        assert!(!Pattern::everything().is_exact());
        assert_eq!(Pattern::everything().exact_name(), None);
    }
}
