//! Wakes a ring through an eventfd that it reads from.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::Waker;

/// The eventfd of one ring. It outlives the ring in the hands of those who wake; waking then does nothing.
#[derive(Debug)]
pub(super) struct EventWaker {
    event: File,
}

impl EventWaker {
    pub(super) fn new() -> io::Result<Self> {
        // Blocking, for a ring's read of a non-blocking descriptor would fail instead of waiting.
        // SAFETY: eventfd(2) takes no memory.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if event < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made, and that nobody else owns.
        let event = unsafe { OwnedFd::from_raw_fd(event) };
        Ok(Self { event: File::from(event) })
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

impl Waker for EventWaker {
    fn wake(&self) {
        // Eight bytes, added to the counter. It would block at 2^64 - 1 unread calls, which nobody lives to see; a signal may
        // interrupt it only when it blocks.
        let _ = (&self.event).write(&1_u64.to_ne_bytes());
    }
}
