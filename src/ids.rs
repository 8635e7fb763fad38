//! The numbers that name things: newtypes, so that one is never taken for another.

#![forbid(unsafe_code)]

use std::fmt;

/// A shard: the index of its thread, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// A connection on its shard: a slot in the table, and which of the slot's successive holders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// Index into the shard's table of connections.
    pub index: u32,
    /// Counts the holders of that slot; a message for an earlier one is ignored.
    pub generation: u32,
}

/// A topic as clients know it: from 1, the same for everyone, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(pub u32);

/// Names one life of a topic's log; another one means that the log does not continue the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

/// A record's place in its topic's log: 1, 2, 3, ...; as a cursor: everything up to here has been passed, 0 is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offset(pub u64);

impl Offset {
    /// Before the first record.
    pub const ZERO: Self = Self(0);

    /// The offset after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// How many offsets lie in `(earlier, self]`.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        debug_assert!(earlier <= self);
        self.0 - earlier.0
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Index of a topic class in the configuration's list, in the order in which they are matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u16);
