//! A connection's subscriptions (what it asked for) and subscribers (one for each topic that they match).

use crate::clock::Moment;
use crate::fanout::SubscriptionOptions;
use crate::ids::Offset;
use crate::topic::{Cursor, Pattern, TopicIndex};

/// What a client asked for, under the string by which it did.
#[derive(Debug)]
pub struct Subscription {
    /// The string, parsed; an exact name or a pattern.
    pub pattern: Pattern,
    /// Boxed, as few subscriptions have any.
    pub options: Option<Box<SubscriptionOptions>>,
    /// Order among the connection's subscriptions: of several that match a topic the lowest serves it.
    pub serial: u32,
    /// How many topics match now, whichever subscription serves them.
    pub matching: u32,
}

/// Where a subscriber is listed at its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Among those that take the shared frame, at this index; the cursor is kept there.
    Ready(u32),
    /// Among those that are behind and wait for their connection, at this index.
    Behind(u32),
}

/// One connection's place in one topic.
#[derive(Debug)]
pub struct Subscriber {
    /// Which topic.
    pub topic: TopicIndex,
    /// Index of the subscription that serves it.
    pub subscription: u32,
    /// Where it is listed.
    pub place: Place,
    /// While behind: where the client has been brought to. While ready the channel's list holds the offset.
    pub cursor: Cursor,
    /// When the connection last gave this topic a turn, in chunks served; the lowest waits longest.
    pub served: u32,
    /// What few subscribers have.
    pub extra: Option<Box<Extra>>,
}

/// What few subscribers have, or have for a moment.
#[derive(Debug, Default)]
pub struct Extra {
    /// `Subscribed` frames that must go out before the next patch.
    pub announcements: Vec<Announcement>,
    /// No patch before this moment (`max_hz`, or an empty one for a filter).
    pub not_before: Moment,
    /// When a subscription with a filter was last sent a patch.
    pub filtered_at: Moment,
    /// A patch must follow even if there is nothing to say.
    pub owes_patch: bool,
    /// Up to here patches send again what was sent before, which is limited; 0 if they do not.
    pub resent_to: Offset,
    /// Set while the topic's replica on this shard has not been brought to its first head.
    pub waiting: Option<Waiting>,
}

/// A subscriber whose beginning waits for the replica.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Where the client stopped, if that was in the topic's present epoch.
    pub resume: Option<Offset>,
    /// The request that `Subscribed` will answer.
    pub request: u64,
    /// How many topics matched when this one came.
    pub matching: u32,
}

/// A `Subscribed` that has not been said yet.
#[derive(Clone, Copy, Debug)]
pub struct Announcement {
    /// The request that it answers; 0 for topics that came to match later.
    pub request: u64,
    /// Whether the client goes on from the position that it gave (or holds).
    pub is_resumed: bool,
    /// How many topics matched when this one came.
    pub matching: u32,
}

impl Subscriber {
    /// The box of rare things, made if it is not there.
    pub fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// Drops the box if it says nothing.
    pub fn tidy(&mut self) {
        if self.extra.as_ref().is_some_and(|extra| {
            extra.announcements.is_empty()
                && !extra.owes_patch
                && extra.not_before == Moment::default()
                && extra.filtered_at == Moment::default()
                && extra.resent_to == Offset::ZERO
                && extra.waiting.is_none()
        }) {
            self.extra = None;
        }
    }

    /// Whether a frame is due whatever the log says: a `Subscribed`, or the patch that follows one.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.owes_patch || !extra.announcements.is_empty())
    }

    /// Whether it cannot be served yet, whatever it is owed.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.waiting.is_some())
    }

    /// No patch before this moment.
    #[must_use]
    pub fn not_before(&self) -> Moment {
        self.extra.as_ref().map_or(Moment::default(), |extra| extra.not_before)
    }
}
