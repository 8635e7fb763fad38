//! What a shard appended and what it waits for, for a harness that keeps a model beside it.

use crate::clock::Moment;
use crate::ids::{Offset, TopicId};
use crate::shard::core::Core;

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
    /// When they arrived: the publisher's shard parsed them, or the windows passed.
    pub at: Moment,
}

/// What waits for other shards: nothing, in an engine that has come to rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Clients' operations.
    pub questions: usize,
    /// Questions of other shards that were not answered.
    pub fences: usize,
    /// Topics that have to be told to another shard.
    pub lagging: usize,
    /// Publishers that are not read from.
    pub paused: usize,
    /// Messages that found no room on their way.
    pub has_outgoing: bool,
}

impl Core {
    pub(super) fn unfinished(&self) -> Unfinished {
        Unfinished {
            questions: self.pending.len(),
            fences: self.fences.len(),
            lagging: self.lagging.len(),
            paused: self.paused_by_mesh.len(),
            has_outgoing: self.mesh.has_outgoing(),
        }
    }
}
