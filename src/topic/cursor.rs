//! Where a subscriber stands in a log.

use crate::ids::Offset;

/// A subscriber's place in a topic's log. One number, and while it catches up a little more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The offset it has been brought to.
    pub offset: Offset,
    pub(super) catch_up: Option<Box<CatchUp>>,
}

/// What has to be remembered of a subscriber from a reset, or from a patch with `more`, until it reaches the head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CatchUp {
    /// The next patch says `reset`.
    pub(super) is_reset_due: bool,
    /// The head at the reset: keys deleted up to here were never sent, so their deletes need not be.
    pub(super) reset_head: Offset,
    /// The last event that was gone at the reset: none up to here was ever due.
    pub(super) never_due: Offset,
    /// Keyed records up to here were sent ahead, or were too old for it.
    pub(super) ahead_to: Offset,
}

impl Cursor {
    /// A cursor that was brought to `offset` and has nothing else to remember.
    #[must_use]
    pub fn at(offset: Offset) -> Self {
        Self { offset, catch_up: None }
    }

    /// True from a reset, or from a patch with `more`, until the head is reached.
    #[must_use]
    pub fn is_catching_up(&self) -> bool {
        self.catch_up.is_some()
    }

    /// True if the next patch says `reset`.
    #[must_use]
    pub fn is_reset_due(&self) -> bool {
        self.catch_up.as_ref().is_some_and(|catch_up| catch_up.is_reset_due)
    }

    /// The log's memory of what its offsets were must reach back to here for this cursor: not to 0 if it starts there,
    /// since what had gone by then was never due. This is what [`Log::retain`](super::Log::retain) wants the lowest of.
    #[must_use]
    pub fn needs(&self) -> Offset {
        self.catch_up.as_ref().map_or(self.offset, |catch_up| self.offset.max(catch_up.never_due))
    }

    /// Deletes above this offset have to reach this cursor.
    pub(super) fn deletes_due_after(&self) -> Offset {
        self.catch_up.as_ref().map_or(self.offset, |catch_up| self.offset.max(catch_up.reset_head))
    }

    /// User-space memory beyond the cursor's own size.
    #[must_use]
    pub fn boxed_bytes(&self) -> usize {
        self.catch_up.as_ref().map_or(0, |_| size_of::<CatchUp>())
    }
}
