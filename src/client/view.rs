//! What one subscription has been told, turned into updates: sans-IO, fed by the connection, drained by the application.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::state::{Applied, Change, Counts, Event, Mismatch, TopicState};
use super::{ClientError, wire};

/// What the connection hands to one subscription, in order.
#[derive(Clone, Debug)]
pub(crate) enum Delivery {
    Subscribed { topic: Arc<str>, epoch: u64, head: u64, is_resumed: bool },
    Patch { topic: Arc<str>, patch: wire::Patch, frame_bytes: usize },
    Unsubscribed { topic: Arc<str>, reason: wire::Code },
    Unmatched { pattern: Arc<str> },
    Notice { code: wire::Code, message: String },
    Ended(ClientError),
}

/// News of a subscription.
#[derive(Clone, Debug)]
pub enum Update {
    /// A topic begins, or goes on after the connection was lost. A patch follows.
    Subscribed {
        /// The topic's name.
        topic: Arc<str>,
        /// The life of the topic's log; with an offset it names a record for ever.
        epoch: u64,
        /// The newest offset at this time.
        head: u64,
        /// It goes on where it stopped.
        is_resumed: bool,
    },
    /// A topic moved on; the state already has it.
    Patch(PatchUpdate),
    /// A topic ended: it was forgotten, or the right to see it ended. Its state is gone.
    Unsubscribed {
        /// The topic's name.
        topic: Arc<str>,
        /// Why.
        reason: wire::Code,
    },
    /// No topic matches yet: the subscription stands, and one that comes to match begins by itself. Also said after the connection was
    /// lost, if it is so then.
    Unmatched {
        /// The topic or pattern, as it was subscribed.
        pattern: Arc<str>,
    },
    /// The server limits this subscription, which goes on (`LIMIT_REACHED`: more topics match than it will send).
    Notice {
        /// What kind of limit.
        code: wire::Code,
        /// The server's sentence.
        message: String,
    },
}

/// One patch, as it changed the state.
#[derive(Clone, Debug)]
pub struct PatchUpdate {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The life of the topic's log.
    pub epoch: u64,
    /// Where the state was.
    pub from: u64,
    /// Where it is now.
    pub to: u64,
    /// All keys of before are forgotten.
    pub is_reset: bool,
    /// The state is now that of the topic's head: a moment that was. If not, another patch follows.
    pub is_current: bool,
    /// The checksum was there and is right.
    pub is_verified: bool,
    /// Keys that were written or deleted.
    pub changes: Vec<Change>,
    /// Events, each once per epoch and offset.
    pub events: Vec<Event>,
    /// Where the offsets have gone.
    pub counts: Counts,
    /// Unix time in microseconds at which the newest record arrived at the server.
    pub time_us: u64,
    /// Length of the frame that carried it.
    pub frame_bytes: usize,
}

/// What became of a delivery.
#[derive(Debug)]
pub(crate) enum Accepted {
    Update(Update),
    /// Nothing that concerns the application.
    Nothing,
    /// The state is not the server's any more: subscribe again, from 0.
    Mismatch(Arc<str>, Mismatch),
    Ended(ClientError),
}

/// The states of one subscription's topics.
#[derive(Debug, Default)]
pub(crate) struct View {
    topics: BTreeMap<Arc<str>, TopicState>,
}

impl View {
    pub(crate) fn state(&self, topic: &str) -> Option<&TopicState> {
        self.topics.get(topic)
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = (&str, &TopicState)> {
        self.topics.iter().map(|(name, state)| (&**name, state))
    }

    /// Begins with a state of an earlier subscription.
    pub(crate) fn resume(&mut self, topic: Arc<str>, state: TopicState) {
        self.topics.insert(topic, state);
    }

    pub(crate) fn accept(&mut self, delivery: Delivery) -> Accepted {
        match delivery {
            Delivery::Subscribed { topic, epoch, head, is_resumed } => {
                self.topics.entry(topic.clone()).or_default().start(epoch);
                Accepted::Update(Update::Subscribed { topic, epoch, head, is_resumed })
            }
            Delivery::Patch { topic, patch, frame_bytes } => self.accept_patch(topic, &patch, frame_bytes),
            Delivery::Unsubscribed { topic, reason } => match self.topics.remove(&topic) {
                Some(_) => Accepted::Update(Update::Unsubscribed { topic, reason }),
                None => Accepted::Nothing,
            },
            Delivery::Unmatched { pattern } => Accepted::Update(Update::Unmatched { pattern }),
            Delivery::Notice { code, message } => Accepted::Update(Update::Notice { code, message }),
            Delivery::Ended(error) => Accepted::Ended(error),
        }
    }

    fn accept_patch(&mut self, topic: Arc<str>, patch: &wire::Patch, frame_bytes: usize) -> Accepted {
        let Some(state) = self.topics.get_mut(&topic) else { return Accepted::Nothing };
        if state.needs_reset() && !patch.reset {
            // The tail of a chain that was given up: it was under way when the mismatch was found.
            return Accepted::Nothing;
        }
        match state.apply(patch) {
            Ok(Applied { changes, events, counts, is_verified }) => Accepted::Update(Update::Patch(PatchUpdate {
                topic,
                epoch: state.epoch(),
                from: patch.from,
                to: patch.to,
                is_reset: patch.reset,
                is_current: state.is_current(),
                is_verified,
                changes,
                events,
                counts,
                time_us: patch.time_us,
                frame_bytes,
            })),
            Err(mismatch) => Accepted::Mismatch(topic, mismatch),
        }
    }
}
