//! The tables of all settings: reading, writing, printing and explaining them all go through these rows.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::value::{Amount, Value, quoted};
use super::{Config, Idle, Problem, Shards};
use crate::limits::Limits;
use crate::topic::{Pattern, Priority, TopicClass};

/// One setting of a `T`.
pub(super) struct Setting<T: 'static> {
    /// Its key within its table, ending with its unit where it has one.
    pub(super) key: &'static str,
    /// The unit, for people.
    pub(super) unit: &'static str,
    /// Of a limit: what happens beyond it. Else what it is.
    pub(super) note: &'static str,
    /// Sets it.
    pub(super) write: fn(&mut T, &Value<'_>) -> Result<(), Problem>,
    /// Its value as TOML; `None` if it is absent.
    pub(super) print: fn(&T) -> Option<String>,
}

/// The most shards; channels between them grow with the square.
const SHARDS_MAX: u64 = 256;
/// The most topic classes, since each has its own series in the metrics.
pub(super) const CLASSES_MAX: usize = 64;
/// Bytes of a class's name.
const CLASS_NAME_BYTES: usize = 64;

const BYTES: RangeInclusive<u64> = 1..=1 << 30;
const COUNT: RangeInclusive<u64> = 1..=1 << 24;
/// Milliseconds: to one day.
const TIME: RangeInclusive<u64> = 1..=86_400_000;
const TIME_OR_NONE: RangeInclusive<u64> = 0..=86_400_000;

/// A row for a field that is a whole number within a range.
macro_rules! amount {
    ($field:ident, $key:literal, $unit:literal, $range:expr, $note:literal) => {
        Setting {
            key: $key,
            unit: $unit,
            note: $note,
            write: |owner, value| value.number($range).map(|number| Amount::set(&mut owner.$field, number)),
            print: |owner| Some(Amount::number(&owner.$field).to_string()),
        }
    };
}

/// The keys at the top of the file.
pub(super) const TOP: &[Setting<Config>] = &[
    Setting {
        key: "listen",
        unit: "",
        note: "address of the public port",
        write: |config, value| value.parsed(ADDRESS).map(|address: SocketAddr| config.listen = address),
        print: |config| Some(quoted(&config.listen.to_string())),
    },
    Setting {
        key: "admin",
        unit: "",
        note: "address of the admin port: metrics and health",
        write: |config, value| value.parsed(ADDRESS).map(|address: SocketAddr| config.admin = address),
        print: |config| Some(quoted(&config.admin.to_string())),
    },
    Setting {
        key: "shards",
        unit: "",
        note: "threads that serve: \"auto\" (one for each CPU) or how many",
        write: |config, value| {
            config.shards = match value.text() {
                Ok("auto") => Shards::Auto,
                Ok(text) if text.parse::<u64>().is_err() => {
                    return Err(Problem::Word { expected: "\"auto\" or a number", found: text.to_owned() });
                }
                _ => Shards::Count(u16::try_from(value.number(1..=SHARDS_MAX)?).expect("the range fits")),
            };
            Ok(())
        },
        print: |config| {
            Some(match config.shards {
                Shards::Auto => quoted("auto"),
                Shards::Count(count) => count.to_string(),
            })
        },
    },
    Setting {
        key: "cpus",
        unit: "",
        note: "CPUs that shards are pinned to, such as \"0-3,6\"",
        write: |config, value| {
            config.cpus = Some(value.text()?.parse()?);
            Ok(())
        },
        print: |config| config.cpus.as_ref().map(|cpus| quoted(&cpus.to_string())),
    },
    Setting {
        key: "idle",
        unit: "",
        note: "what a shard without work does: \"park\" or \"spin\"",
        write: |config, value| {
            config.idle = match value.text()? {
                "park" => Idle::Park,
                "spin" => Idle::Spin,
                other => return Err(Problem::Word { expected: "\"park\" or \"spin\"", found: other.to_owned() }),
            };
            Ok(())
        },
        print: |config| {
            Some(quoted(match config.idle {
                Idle::Park => "park",
                Idle::Spin => "spin",
            }))
        },
    },
    Setting {
        key: "congestion",
        unit: "",
        note: "congestion control of connections, such as \"cubic\"; without it: the system's",
        write: |config, value| {
            config.congestion = Some(value.text()?.to_owned());
            Ok(())
        },
        print: |config| config.congestion.as_deref().map(quoted),
    },
    Setting {
        key: "incoming_cpu",
        unit: "",
        note: "give each shard the connections whose packets its CPU receives (SO_INCOMING_CPU): for hosts with pinned queues",
        write: |config, value| value.boolean().map(|incoming_cpu| config.incoming_cpu = incoming_cpu),
        print: |config| Some(config.incoming_cpu.to_string()),
    },
    Setting {
        key: "insecure",
        unit: "",
        note: "serve more than loopback though nobody has to prove who they are",
        write: |config, value| value.boolean().map(|insecure| config.insecure = insecure),
        print: |config| Some(config.insecure.to_string()),
    },
    Setting {
        key: "allowed_origins",
        unit: "",
        note: "origins of web pages that may connect, compared exactly; without it: all",
        write: |config, value| {
            let origins = value.list()?;
            match origins.iter().find(|origin| !is_origin(origin)) {
                Some(other) => Err(Problem::Word {
                    expected: "origins such as \"https://example.com\" or \"http://localhost:3000\" (lower case, no path)",
                    found: other.clone(),
                }),
                None => {
                    config.allowed_origins = Some(origins);
                    Ok(())
                }
            }
        },
        print: |config| config.allowed_origins.as_ref().map(|origins| list(origins.iter())),
    },
    Setting {
        key: "trusted",
        unit: "",
        note: "networks exempt from the limits per address, on accepts and on messages",
        write: |config, value| {
            config.trusted = value.list()?.iter().map(|network| network.parse()).collect::<Result<_, _>>()?;
            Ok(())
        },
        print: |config| Some(list(config.trusted.iter())),
    },
    amount!(drain, "drain_ms", "ms", TIME, "how long an orderly shutdown waits for connections to close"),
];

const ADDRESS: &str = "an address with a port, such as \"127.0.0.1:8433\"";

/// The keys of `[limits]`.
pub(super) const LIMITS: &[Setting<Limits>] = &[
    amount!(message_bytes, "message_bytes", "bytes of a message, fragments together", BYTES, "close 1009"),
    amount!(message_fragments, "message_fragments", "fragments of a message", COUNT, "close 1009"),
    amount!(message_time, "message_time_ms", "ms from the first fragment to the last", TIME, "close 1002"),
    amount!(head_bytes, "head_bytes", "bytes of a request's head", 256..=1 << 20, "status 431"),
    amount!(head_headers, "head_headers", "headers of a request", 8..=1_024, "status 431"),
    amount!(head_time, "head_time_ms", "ms from accept to the end of the head", TIME, "status 408"),
    amount!(hello_time, "hello_time_ms", "ms from the upgrade to Hello", TIME, "close 4002"),
    amount!(heartbeat_interval, "heartbeat_interval_ms", "ms between pings", TIME, "the server pings"),
    amount!(
        heartbeat_answer,
        "heartbeat_answer_ms",
        "ms to answer a ping",
        TIME,
        "close 4001, unless the peer's TCP is alive"
    ),
    amount!(
        stall_timeout,
        "stall_timeout_ms",
        "ms without an answer while the peer's TCP is alive",
        TIME,
        "close 4001"
    ),
    amount!(idle_timeout, "idle_timeout_ms", "ms of silence of a session without subscriptions", TIME, "close 1000"),
    amount!(key_bytes, "key_bytes", "bytes of a key", 1..=255, "error INVALID"),
    amount!(value_bytes, "value_bytes", "bytes of a value", BYTES, "error TOO_LARGE"),
    amount!(publish_records, "publish_records", "records of a publish", COUNT, "error TOO_LARGE"),
    amount!(subscriptions, "subscriptions", "subscriptions of a connection", COUNT, "error LIMIT_REACHED"),
    amount!(
        matched_topics,
        "matched_topics",
        "topics that a connection's subscriptions match",
        COUNT,
        "error LIMIT_REACHED, once"
    ),
    amount!(topics, "topics", "topics of the engine", COUNT, "error LIMIT_REACHED"),
    amount!(
        messages_per_second,
        "messages_per_second",
        "messages of a connection per second",
        COUNT,
        "error RATE_LIMITED, then close 1008"
    ),
    amount!(
        message_burst,
        "message_burst",
        "messages of a connection at once",
        COUNT,
        "error RATE_LIMITED, then close 1008"
    ),
    amount!(
        resent_bytes,
        "resent_bytes",
        "bytes sent again to a connection that subscribes again, in 10 s",
        BYTES,
        "error RATE_LIMITED"
    ),
    amount!(connections, "connections", "connections", COUNT, "status 503"),
    amount!(connections_per_address, "connections_per_address", "connections of an address", COUNT, "status 503"),
    amount!(accepts_per_second, "accepts_per_second", "connections accepted per second", COUNT, "status 503"),
    amount!(
        answer_bytes,
        "answer_bytes",
        "bytes of answers waiting for a client",
        BYTES,
        "reading from the client pauses"
    ),
    amount!(
        unflushed_event_bytes,
        "unflushed_event_bytes",
        "bytes of events not flushed yet, per topic",
        BYTES,
        "their publishers pause"
    ),
    amount!(
        kind_runs,
        "kind_runs",
        "runs of offsets of one kind that a log remembers",
        16..=1 << 24,
        "cursors before them start anew"
    ),
    amount!(sequences, "sequences", "publishing sessions remembered", COUNT, "the oldest is forgotten"),
    amount!(
        sequence_memory,
        "sequence_memory_ms",
        "ms after its end that a publishing session is remembered",
        TIME,
        "it is forgotten"
    ),
    amount!(
        shard_answer,
        "shard_answer_ms",
        "ms that a client's operation waits for another shard",
        TIME,
        "it goes on with what is known"
    ),
    amount!(
        freshness_target,
        "freshness_target_ms",
        "ms of queueing delay that the in-flight window aims at",
        TIME,
        "the window shrinks"
    ),
];

/// The keys of a `[[class]]`.
pub(super) const CLASS: &[Setting<TopicClass>] = &[
    Setting {
        key: "name",
        unit: "",
        note: "its name in metrics",
        write: |class, value| {
            let name = value.text()?;
            let is_plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
            if name.is_empty() || name.len() > CLASS_NAME_BYTES || !name.bytes().all(is_plain) {
                return Err(Problem::Word { expected: "1 to 64 of a-z 0-9 _ -", found: name.to_owned() });
            }
            name.clone_into(&mut class.name);
            Ok(())
        },
        print: |class| Some(quoted(&class.name)),
    },
    Setting {
        key: "pattern",
        unit: "",
        note: "which topics are of it; the first class that matches counts",
        write: |class, value| {
            class.pattern = Pattern::parse(value.text()?)?;
            Ok(())
        },
        print: |class| Some(quoted(&class.pattern.to_string())),
    },
    Setting {
        key: "priority",
        unit: "",
        note: "of records that give none: \"low\", \"normal\", \"high\" or \"critical\"",
        write: |class, value| {
            let text = value.text()?;
            let known = PRIORITIES.iter().find(|(word, _)| *word == text);
            class.priority = known.map(|(_, priority)| *priority).ok_or_else(|| Problem::Word {
                expected: "\"low\", \"normal\", \"high\" or \"critical\"",
                found: text.to_owned(),
            })?;
            Ok(())
        },
        print: |class| {
            let (word, _) = PRIORITIES.iter().find(|(_, priority)| *priority == class.priority)?;
            Some(quoted(word))
        },
    },
    amount!(event_window, "event_window_ms", "ms, 0: none", TIME_OR_NONE, "an event that gives no window expires"),
    amount!(key_window, "key_window_ms", "ms, 0: none", TIME_OR_NONE, "a key that gives no window is deleted"),
    amount!(keys, "keys", "live keys of a topic", COUNT, "error LIMIT_REACHED"),
    amount!(events, "events", "events kept per topic", COUNT, "the oldest go first, counted as overrun or lost"),
    amount!(
        event_bytes,
        "event_bytes",
        "bytes of events kept per topic",
        BYTES,
        "the oldest go first, counted as overrun or lost"
    ),
    amount!(
        event_age,
        "event_age_ms",
        "ms that events are kept",
        TIME,
        "the oldest go first, counted as overrun or lost"
    ),
    amount!(
        pressure_low,
        "pressure_low_ms",
        "ms, events of low priority under pressure",
        TIME,
        "not sent, counted as expired"
    ),
    amount!(
        pressure_normal,
        "pressure_normal_ms",
        "ms, events of normal priority under pressure",
        TIME,
        "not sent, counted as expired"
    ),
    amount!(linger, "linger_ms", "ms of an empty topic without subscribers", TIME, "the topic is forgotten"),
];

const PRIORITIES: [(&str, Priority); 4] =
    [("low", Priority::Low), ("normal", Priority::Normal), ("high", Priority::High), ("critical", Priority::Critical)];

/// Whether `text` is an origin as browsers serialize it (RFC 6454 section 6.2): others could never match.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let is_lower = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
    !scheme.is_empty() && !host.is_empty() && text.bytes().all(is_lower) && !host.contains(['/', '?', '#', '@', '*'])
}

fn list<T: ToString>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<_> = items.map(|item| quoted(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}
