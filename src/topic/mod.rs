//! Topics: names and patterns, the log and its patches, the registry.

#![forbid(unsafe_code)]

mod class;

pub use class::TopicClass;

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

/// Which topics: see `pattern.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern;

impl Pattern {
    /// `**`.
    #[must_use]
    pub fn everything() -> Self {
        Self
    }
}
