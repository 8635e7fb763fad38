//! Names and patterns against their grammar, read naively, and the index of patterns against a list of them.

use std::collections::BTreeSet;

use crate::topic::{NameError, Pattern, PatternIndex, TopicName};

/// Lines: `+` adds the pattern behind it, `-` takes it away, anything else is a name to be looked up.
pub fn check(data: &[u8]) {
    let (mut index, mut list) = (PatternIndex::default(), BTreeSet::new());
    for (number, line) in data.split(|byte| *byte == b'\n').enumerate().take(64) {
        let value = number % 4;
        match line.split_first() {
            Some((sign @ (b'+' | b'-'), text)) => {
                let Ok(text) = std::str::from_utf8(text) else { continue };
                let Some(pattern) = parse_pattern(text) else { continue };
                if *sign == b'+' {
                    assert_eq!(index.insert(&pattern, value), list.insert((text, value)));
                } else {
                    assert_eq!(index.remove(&pattern, value), list.remove(&(text, value)));
                }
            }
            _ => {
                let Ok(text) = std::str::from_utf8(line) else { continue };
                // What is no name may be a pattern.
                parse_pattern(text);
                let Some(name) = parse_name(text) else { continue };
                let mut found = Vec::new();
                index.matches(&name, &mut found);
                found.sort_unstable();
                let mut expected: Vec<_> =
                    list.iter().filter(|(pattern, _)| matches(pattern, text)).map(|(_, value)| *value).collect();
                expected.sort_unstable();
                assert_eq!(found, expected, "{text} among {list:?}");
                for (pattern, _) in &list {
                    let parsed = Pattern::parse(pattern).expect("it was parsed before");
                    assert_eq!(parsed.matches(&name), matches(pattern, text), "{pattern} and {text}");
                }
            }
        }
    }
    assert_eq!(index.is_empty(), list.is_empty());
}

fn parse_name(text: &str) -> Option<TopicName> {
    let parsed = TopicName::parse(text);
    assert_eq!(parsed.is_ok(), has_shape(text) && text.split('/').all(is_plain), "{text:?}: {parsed:?}");
    check_error(text, parsed.as_ref().err());
    parsed.ok().inspect(|name| assert_eq!(name.as_str(), text))
}

fn parse_pattern(text: &str) -> Option<Pattern> {
    let parsed = Pattern::parse(text);
    let segments: Vec<&str> = text.split('/').collect();
    let stars = segments.iter().filter(|segment| **segment == "*").count();
    let is_segment = |(i, segment): (usize, &&str)| {
        is_plain(segment) || *segment == "*" || (*segment == "**" && i + 1 == segments.len())
    };
    let expected = has_shape(text) && segments.iter().enumerate().all(is_segment) && stars <= 3;
    assert_eq!(parsed.is_ok(), expected, "{text:?}: {parsed:?}");
    check_error(text, parsed.as_ref().err());
    parsed.ok().inspect(|pattern| {
        assert_eq!((pattern.as_str(), pattern.is_exact()), (text, segments.iter().all(|segment| is_plain(segment))));
        assert_eq!(pattern.exact_name().is_some(), pattern.is_exact());
    })
}

fn has_shape(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.split('/').count() <= 16
        && text.split('/').all(|segment| !segment.is_empty())
}

fn is_plain(segment: &str) -> bool {
    segment.chars().all(|char| "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-:@".contains(char))
}

/// An error says what is so, and speaks in one line without a byte of the name.
fn check_error(text: &str, error: Option<&NameError>) {
    let Some(error) = error else { return };
    assert!(error.to_string().bytes().all(|byte| matches!(byte, b' '..=b'~')));
    match *error {
        NameError::Empty => assert!(text.is_empty()),
        NameError::TooLong => assert!(text.len() > 255),
        NameError::TooManySegments => assert!(text.split('/').count() > 16),
        NameError::EmptySegment => assert!(text.split('/').any(str::is_empty)),
        NameError::BadByte(at) => {
            let byte = text.as_bytes()[at];
            assert!(byte != b'/' && !(byte.is_ascii() && is_plain(&text[at..=at])));
        }
        NameError::BadWildcard => assert!(text.contains('*')),
        NameError::TooManyWildcards => assert!(text.matches('*').count() > 3),
    }
}

/// What a pattern matches, from its definition.
fn matches(pattern: &str, name: &str) -> bool {
    fn match_segments(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (["**"], [_, ..]) => true,
            ([first, rest @ ..], [name, names @ ..]) => (*first == "*" || first == name) && match_segments(rest, names),
            _ => false,
        }
    }
    match_segments(&pattern.split('/').collect::<Vec<_>>(), &name.split('/').collect::<Vec<_>>())
}
