//! A record as it arrives, checked against the limits, with the defaults of its topic's class filled in.

use std::time::Duration;

use bytes::Bytes;

use super::{Priority, TopicClass};
use crate::limits::Limits;
use crate::protocol::wire;

/// A record that may be appended: parsed, not to be checked again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// Empty: an event.
    pub key: Bytes,
    /// Empty if it is a delete.
    pub value: Bytes,
    /// Removes the key; there is one.
    pub is_delete: bool,
    /// Its own, else its class's.
    pub priority: Priority,
    /// Its own, else its class's. None for deletes and for critical events, which never expire.
    pub window: Option<Duration>,
}

/// Why a record is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Beyond [`Limits::key_bytes`].
    #[error("the key has {bytes} bytes, the limit is {limit}")]
    KeyTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Beyond [`Limits::value_bytes`].
    #[error("the value has {bytes} bytes, the limit is {limit}")]
    ValueTooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// An event cannot be deleted.
    #[error("a delete needs a key")]
    DeleteWithoutKey,
    /// What is deleted has no value.
    #[error("a delete has no value")]
    DeleteWithValue,
    /// A number that names no priority.
    #[error("there is no priority {0}")]
    UnknownPriority(i32),
}

impl RecordError {
    /// The code that tells the publisher.
    #[must_use]
    pub fn code(self) -> wire::Code {
        match self {
            Self::ValueTooLarge { .. } => wire::Code::TooLarge,
            _ => wire::Code::Invalid,
        }
    }
}

impl NewRecord {
    /// Checks a record of a `Publish` to a topic of that class.
    ///
    /// # Errors
    ///
    /// What is wrong with it; [`RecordError::code`] says how to answer.
    pub fn parse(record: wire::Record, class: &TopicClass, limits: &Limits) -> Result<Self, RecordError> {
        let wire::Record { key, value, delete: is_delete, priority, window_ms, offset: _ } = record;
        if key.len() > limits.key_bytes {
            return Err(RecordError::KeyTooLong { bytes: key.len(), limit: limits.key_bytes });
        }
        if value.len() > limits.value_bytes {
            return Err(RecordError::ValueTooLarge { bytes: value.len(), limit: limits.value_bytes });
        }
        if is_delete && key.is_empty() {
            return Err(RecordError::DeleteWithoutKey);
        }
        if is_delete && !value.is_empty() {
            return Err(RecordError::DeleteWithValue);
        }
        let priority = match priority {
            0 => class.priority,
            number => Priority::from_wire(number).ok_or(RecordError::UnknownPriority(number))?,
        };
        let is_event = key.is_empty();
        let default_window = if is_event { class.event_window } else { class.key_window };
        let window = match window_ms {
            _ if is_delete || (is_event && priority == Priority::Critical) => None,
            0 => default_window,
            window_ms => Some(Duration::from_millis(window_ms.into())),
        };
        Ok(Self { key, value, is_delete, priority, window })
    }

    /// True if it has no key.
    #[must_use]
    pub fn is_event(&self) -> bool {
        self.key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &'static str, value: &'static str) -> wire::Record {
        wire::Record { key: key.into(), value: value.into(), ..wire::Record::default() }
    }

    fn parse(record: wire::Record) -> Result<NewRecord, RecordError> {
        let limits = Limits { key_bytes: 3, value_bytes: 4, ..Limits::default() };
        let class = TopicClass {
            priority: Priority::High,
            event_window: Some(Duration::from_secs(1)),
            key_window: Some(Duration::from_secs(2)),
            ..TopicClass::catch_all()
        };
        NewRecord::parse(record, &class, &limits)
    }

    #[test]
    fn the_class_gives_what_the_record_leaves_open() {
        let event = parse(record("", "v")).expect("valid");
        assert_eq!((event.priority, event.window), (Priority::High, Some(Duration::from_secs(1))));
        let keyed = parse(record("k", "v")).expect("valid");
        assert_eq!(keyed.window, Some(Duration::from_secs(2)));
        let own = parse(wire::Record { priority: 1, window_ms: 7, ..record("k", "v") }).expect("valid");
        assert_eq!((own.priority, own.window), (Priority::Low, Some(Duration::from_millis(7))));
    }

    #[test]
    fn critical_events_and_deletes_have_no_window() {
        let critical = wire::Record { priority: 4, window_ms: 7, ..record("", "v") };
        assert_eq!(parse(critical.clone()).expect("valid").window, None);
        let critical_key = wire::Record { key: "k".into(), ..critical };
        assert!(parse(critical_key).expect("valid").window.is_some(), "a key conflates and expires all the same");
        let delete = wire::Record { delete: true, window_ms: 7, ..record("k", "") };
        assert_eq!(parse(delete).expect("valid").window, None);
    }

    #[test]
    fn each_refusal_has_its_code() {
        let cases = [
            (record("long", "v"), RecordError::KeyTooLong { bytes: 4, limit: 3 }, wire::Code::Invalid),
            (record("k", "large"), RecordError::ValueTooLarge { bytes: 5, limit: 4 }, wire::Code::TooLarge),
            (wire::Record { delete: true, ..record("", "") }, RecordError::DeleteWithoutKey, wire::Code::Invalid),
            (wire::Record { delete: true, ..record("k", "v") }, RecordError::DeleteWithValue, wire::Code::Invalid),
            (wire::Record { priority: 5, ..record("k", "v") }, RecordError::UnknownPriority(5), wire::Code::Invalid),
            (wire::Record { priority: -1, ..record("k", "v") }, RecordError::UnknownPriority(-1), wire::Code::Invalid),
        ];
        for (record, error, code) in cases {
            assert_eq!(parse(record), Err(error));
            assert_eq!(error.code(), code);
        }
    }
}
