//! Another shard as a subscriber of a topic, at the topic's home: the cursor of its replica.

use crate::ids::{Offset, ShardId};
use crate::topic::ReplicaCursor;

/// One shard that keeps a replica of the topic.
#[derive(Debug)]
pub struct Follower {
    /// Which shard.
    pub shard: ShardId,
    /// Which of its attachments; it ignores what is meant for an earlier one.
    pub generation: u32,
    /// Where its replica has been brought to.
    pub cursor: ReplicaCursor,
    /// Where its replica stands: chunks are applied together with the one that ends them.
    pub shown: Offset,
    /// Bytes that it was sent since its replica last was at a moment of the log's state; it holds them until the next one.
    pub unfinished_bytes: usize,
    /// Whether it has subscribers by exact name, which keep the topic alive.
    pub is_wanted: bool,
}
