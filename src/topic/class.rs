//! Topic classes: the defaults that the configuration gives to topics by pattern.

use std::time::Duration;

use crate::topic::{Pattern, Priority};

/// What topics of one class have in common. The first class whose pattern matches a new topic's name is its class.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicClass {
    /// The class's name in metrics and in the configuration.
    pub name: String,
    /// Which topics are of it.
    pub pattern: Pattern,
    /// Priority of records that give none.
    pub priority: Priority,
    /// Window of events that give none; `None`: they stay relevant.
    pub event_window: Option<Duration>,
    /// Window of keyed records that give none; `None`: they stay until deleted.
    pub key_window: Option<Duration>,
    /// Live keys of one topic.
    pub keys: usize,
    /// Events kept per topic.
    pub events: usize,
    /// Bytes of events kept per topic.
    pub event_bytes: usize,
    /// Age of events kept.
    pub event_age: Duration,
    /// Under pressure an event of low priority is not sent when it is older.
    pub pressure_low: Duration,
    /// Under pressure an event of normal priority is not sent when it is older.
    pub pressure_normal: Duration,
    /// An empty topic without subscribers is forgotten after.
    pub linger: Duration,
}

impl TopicClass {
    /// The class `default`, for every topic.
    #[must_use]
    pub fn catch_all() -> Self {
        Self {
            name: "default".to_owned(),
            pattern: Pattern::everything(),
            priority: Priority::Normal,
            event_window: None,
            key_window: None,
            keys: 1_000_000,
            events: 1_024,
            event_bytes: 1024 * 1024,
            event_age: Duration::from_mins(5),
            pressure_low: Duration::from_millis(250),
            pressure_normal: Duration::from_secs(2),
            linger: Duration::from_mins(10),
        }
    }
}
