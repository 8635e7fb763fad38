//! Addresses, topic names and patterns, checked before anything is sent.

use std::fmt;

use super::ClientError;

/// The path of the WebSocket on every server.
pub(crate) const PATH: &str = "/v1/ws";
/// So many `*` may stand in one pattern, besides the `**`.
const STARS_MAX: usize = 3;

/// Where a server is: parsed from `ws://HOST:PORT`, with or without the path `/v1/ws`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address, IPv6 without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl Endpoint {
    /// Parses an address.
    ///
    /// # Errors
    ///
    /// [`ClientError::BadUrl`] for another scheme, a missing port or another path.
    pub fn parse(url: &str) -> Result<Self, ClientError> {
        let bad = |problem| ClientError::BadUrl { url: url.chars().take(200).collect(), problem };
        let Some((scheme, rest)) = url.split_once("://") else { return Err(bad("it has no scheme")) };
        if scheme.eq_ignore_ascii_case("wss") || scheme.eq_ignore_ascii_case("https") {
            return Err(bad("this client does not speak TLS, connect to the server behind the proxy that does"));
        }
        if !scheme.eq_ignore_ascii_case("ws") {
            return Err(bad("its scheme is not ws"));
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if !matches!(path, "" | "/" | PATH) {
            return Err(bad("the path of the WebSocket is /v1/ws"));
        }
        let Some((host, port)) = authority.rsplit_once(':') else { return Err(bad("it has no port")) };
        let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| bad("its port is not a number"))?;
        let host = match host.strip_prefix('[') {
            Some(host) => host.strip_suffix(']').ok_or_else(|| bad("a bracket is not closed"))?,
            None if host.contains(':') => return Err(bad("an IPv6 address stands in brackets")),
            None => host,
        };
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:%".contains(&b)) {
            return Err(bad("it has no valid host"));
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Whether `text` names more than one topic, if it is valid.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.split('/').any(|segment| segment == "*" || segment == "**")
}

/// Checks a topic's name.
pub(crate) fn check_name(text: &str) -> Result<(), ClientError> {
    check(text, false)
}

/// Checks a topic's name or a pattern.
pub(crate) fn check_pattern(text: &str) -> Result<(), ClientError> {
    check(text, true)
}

fn check(text: &str, may_be_pattern: bool) -> Result<(), ClientError> {
    let what = if may_be_pattern { "topic or pattern" } else { "topic" };
    let fail = |rule: &str| {
        let shown: String = text.chars().take(64).collect();
        Err(ClientError::Invalid(format!("{shown:?} is not a valid {what}: {rule}")))
    };
    if text.is_empty() || text.len() > 255 {
        return fail("it has 1 to 255 bytes");
    }
    let segments: Vec<&str> = text.split('/').collect();
    let star_count = segments.iter().filter(|segment| **segment == "*").count();
    if segments.len() > 16 {
        return fail("it has at most 16 segments");
    }
    for (index, segment) in segments.iter().enumerate() {
        match *segment {
            "" => return fail("no segment is empty"),
            "*" if may_be_pattern => {}
            "**" if may_be_pattern && index + 1 == segments.len() => {}
            "**" if may_be_pattern => return fail("** stands only at the end"),
            _ if segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:@".contains(&b)) => {}
            _ => return fail("its segments are made of A-Z a-z 0-9 . _ - : @"),
        }
    }
    if star_count > STARS_MAX {
        return fail(&format!("it has more than {STARS_MAX} times `*`"));
    }
    Ok(())
}

/// Whether a topic is one that `pattern` (or name) speaks of.
pub(crate) fn matches(pattern: &str, topic: &str) -> bool {
    let mut topic_segments = topic.split('/');
    for segment in pattern.split('/') {
        match (segment, topic_segments.next()) {
            (_, None) => return false,
            ("**", Some(_)) => return true,
            ("*", Some(_)) => {}
            (segment, Some(other)) if segment == other => {}
            _ => return false,
        }
    }
    topic_segments.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_or_refused_with_a_reason() {
        for url in ["ws://127.0.0.1:8433", "ws://127.0.0.1:8433/", "WS://127.0.0.1:8433/v1/ws"] {
            assert_eq!(Endpoint::parse(url), Ok(Endpoint { host: "127.0.0.1".into(), port: 8433 }), "{url}");
        }
        let six = Endpoint::parse("ws://[::1]:1").expect("a bracketed address is valid");
        assert_eq!((six.host.as_str(), six.to_string().as_str()), ("::1", "[::1]:1"));
        for (url, problem) in [
            ("localhost:8433", "no scheme"),
            ("wss://a:1", "TLS"),
            ("http://a:1", "not ws"),
            ("ws://a", "no port"),
            ("ws://a:0", "not a number"),
            ("ws://a:99999", "not a number"),
            ("ws://a:1/other", "/v1/ws"),
            ("ws://::1:1", "brackets"),
            ("ws://[::1:1", "bracket"),
            ("ws://:1", "host"),
            ("ws://a\r\nx:1", "host"),
        ] {
            let error = Endpoint::parse(url).expect_err(url).to_string();
            assert!(error.contains(problem), "{url}: {error}");
        }
    }

    #[test]
    fn names_and_patterns_keep_the_rules() {
        for name in ["a", "market/BTC-USD.depth", "a:b@c/_", &"x".repeat(255), &["s"; 16].join("/")] {
            check_name(name).expect(name);
            check_pattern(name).expect(name);
            assert!(!is_pattern(name));
        }
        for pattern in ["*", "**", "a/*/b", "a/**"] {
            check_pattern(pattern).expect(pattern);
            check_name(pattern).expect_err(pattern);
            assert!(is_pattern(pattern));
        }
        for bad in ["", "/a", "a/", "a//b", "a b", "é", "a/**/b", "a*", "a\n", &"x".repeat(256), &["s"; 17].join("/")]
        {
            check_pattern(bad).expect_err(bad);
        }
    }

    /// Else a server would refuse what the client let pass, or the client what a server takes.
    #[cfg(feature = "server")]
    #[test]
    fn the_engine_keeps_the_same_rules() {
        let (stars, deep) = (["*"; 4].join("/"), ["a"; 17].join("/"));
        let texts =
            ["a", "a/b", "*", "**", "*/*/*", "*/*/*/**", "a/*/*/b/*", &stars, "*/*/a/*/*/**", &deep, &deep[2..]];
        let odd = ["", "/", "a/", "a//b", "a b", "a*", "**/a", "***", "é", &"x".repeat(255), &"x".repeat(256)];
        for text in texts.into_iter().chain(odd) {
            let (ours, theirs) = (check_pattern(text), crate::topic::Pattern::parse(text));
            assert_eq!(ours.is_ok(), theirs.is_ok(), "{text}: {ours:?}, {theirs:?}");
            let theirs = crate::topic::TopicName::parse(text);
            assert_eq!(check_name(text).is_ok(), theirs.is_ok(), "{text}: {theirs:?}");
        }
        let theirs = crate::topic::Pattern::parse(&stars).expect_err("four").to_string();
        let ours = check_pattern(&stars).expect_err("four").to_string();
        assert!(ours.ends_with(&theirs), "{ours} says what the engine says: {theirs}");
    }

    #[test]
    fn patterns_match_segment_by_segment() {
        for (pattern, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/*", "a/b", true),
            ("a/*", "a", false),
            ("a/*", "a/b/c", false),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("**", "a", true),
            ("*/b", "a/b", true),
            ("*/b", "a/c", false),
        ] {
            assert_eq!(matches(pattern, topic), expected, "{pattern} {topic}");
        }
    }
}
