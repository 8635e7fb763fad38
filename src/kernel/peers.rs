//! Other shards' rings, as one ring sees them; and connections on their way from one to another.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::Waker;
use super::waker::EventWaker;

/// A ring that others may wake. It holds a descriptor of its own, so that its number is never another file's; waking one
/// that is gone does nothing.
#[derive(Clone, Debug)]
pub struct RingHandle {
    ring: Arc<OwnedFd>,
    /// For when the ring takes no message.
    waker: Arc<EventWaker>,
}

impl RingHandle {
    pub(super) fn new(ring: RawFd, waker: Arc<EventWaker>) -> io::Result<Self> {
        // SAFETY: fcntl(2) takes no memory here.
        let duplicate = unsafe { libc::fcntl(ring, libc::F_DUPFD_CLOEXEC, 0) };
        if duplicate < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made, and that nobody else owns.
        let ring = Arc::new(unsafe { OwnedFd::from_raw_fd(duplicate) });
        Ok(Self { ring, waker })
    }

    /// The same, but for messages, which go to a file that is no ring.
    #[cfg(test)]
    pub(super) fn deaf(self, file: OwnedFd) -> Self {
        Self { ring: Arc::new(file), ..self }
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// The way that always works, for a system call.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }
}

/// A connection that one kernel gave away and no other has taken yet. Dropping it closes it.
#[derive(Debug)]
pub struct Handed {
    pub(super) fd: OwnedFd,
    pub(super) peer: SocketAddr,
}

impl Handed {
    /// Whence it comes.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}
