//! Topics: names and patterns, the log and its patches, the registry, the memory of sequences.
//!
//! A topic is a [`Log`]; a subscriber is a [`Cursor`] into it; [`Log::patch`] moves a cursor towards the head and returns
//! the bytes that say so. On other shards than its home a topic is a replica of that log: [`Log::transfer`] says what moves it
//! on, [`Log::follow`] does it.

#![forbid(unsafe_code)]

mod checksum;
mod class;
mod cursor;
mod entry;
mod key_index;
mod kinds;
mod log;
mod name;
mod patch;
mod pattern;
mod pattern_index;
mod record;
mod registry;
mod replica;
mod retention;
mod run;
mod segment;
mod sequences;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
mod transfer;

pub use class::TopicClass;
pub use cursor::Cursor;
pub use log::{Applied, ApplyError, Log, LogSettings};
pub use name::{NameError, TopicName};
pub use patch::{Ask, Counts, Filter, Patch, PressureWindows};
pub use pattern::Pattern;
pub use pattern_index::PatternIndex;
pub use record::{NewRecord, RecordError};
pub use registry::{Attachment, Homes, Registry, Topic, TopicIndex, TopicsFull};
pub use retention::Evicted;
pub use sequences::{Knowledge, SequenceCheck, Sequences, SessionId};
pub use transfer::{ReplicaCursor, Transfer};

/// How much a record matters when not everything can be sent in time. Ordered: `Low < Normal < High < Critical`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Priority {
    /// Shed first.
    Low = 1,
    /// The default of topics whose class says nothing else.
    Normal = 2,
    /// Sheds only what its own window says.
    High = 3,
    /// An event of it is delivered, or reported as lost.
    Critical = 4,
}

impl Priority {
    /// All of them, ascending.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// The priority of that number on the wire; `None` for 0 (unspecified) and for numbers that mean nothing.
    #[must_use]
    pub fn from_wire(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| *priority as i32 == number)
    }

    /// Its place in [`Priority::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize - 1
    }
}
