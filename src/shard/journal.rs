//! What a shard appended, for a harness that keeps a model of its topics beside it.

use crate::clock::Moment;
use crate::ids::{Offset, TopicId};

/// Records that were appended together, at consecutive offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where.
    pub topic: TopicId,
    /// The `request` of the publish; 0 for the deletes of keys whose window passed.
    pub request: u64,
    /// The last one's offset.
    pub last: Offset,
    /// How many; a publish that changed nothing appends none.
    pub count: u64,
    /// When.
    pub at: Moment,
}
