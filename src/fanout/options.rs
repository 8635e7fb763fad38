//! What a client asked of a subscription beyond its topic.

use std::time::Duration;

use crate::protocol::wire;
use crate::topic::{Filter, Priority};

/// The options of one subscription, as the wire's `Subscribe` gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// A tighter relevance window for this subscriber's events.
    pub window: Option<Duration>,
    /// At least so long between two patches of a topic (`max_hz`).
    pub interval: Option<Duration>,
    /// Which records are held back.
    pub filter: Option<Filter>,
    /// Skip the events that a snapshot would replay.
    pub only_new_events: bool,
}

impl SubscriptionOptions {
    /// The options of `subscribe`; `None` if it asks for nothing special.
    ///
    /// # Errors
    /// A sentence for the client if a value is out of range.
    pub fn parse(subscribe: &wire::Subscribe, key_bytes: usize) -> Result<Option<Box<Self>>, String> {
        let min_priority = match subscribe.min_priority {
            0 => None,
            1 => Some(Priority::Low),
            2 => Some(Priority::Normal),
            3 => Some(Priority::High),
            4 => Some(Priority::Critical),
            other => return Err(format!("min_priority {other} is none of the priorities 0 to 4")),
        };
        if subscribe.key_prefix.len() > key_bytes {
            return Err(format!("key_prefix is longer than a key may be ({key_bytes} bytes)"));
        }
        let has_filter =
            min_priority.is_some_and(|priority| priority > Priority::Low) || !subscribe.key_prefix.is_empty();
        let options = Self {
            window: (subscribe.window_ms > 0).then(|| Duration::from_millis(u64::from(subscribe.window_ms))),
            interval: (subscribe.max_hz > 0).then(|| Duration::from_secs(1) / subscribe.max_hz),
            filter: has_filter.then(|| Filter { min_priority, key_prefix: subscribe.key_prefix.clone() }),
            only_new_events: subscribe.events_only_new,
        };
        Ok((options != Self::default()).then(|| Box::new(options)))
    }
}
