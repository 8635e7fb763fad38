//! The seam to the operating system: a small set of operations, and completions that come back.
//!
//! Two implementations stand behind it: [`Ring`] over io_uring, and [`Simulation`], which is seeded and delays, reorders,
//! shortens and fails whatever it is asked. All `unsafe` of the crate is in this module.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

mod buffers;
#[cfg(test)]
mod contract_tests;
mod operation;
mod outgoing;
mod peers;
mod probe;
mod ring;
mod signal;
mod simulation;
mod slots;
mod sockets;
mod uring;
mod waker;

#[cfg(test)]
mod peer_tests;
#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod ring_tests;

pub use peers::{Handed, RingHandle};
pub use probe::BootError;
pub use ring::{Ring, RingConfig};
pub use signal::terminate;
pub use simulation::{Faults, PeerEnd, PeerId, Simulation, SimulationConfig};
pub use sockets::{ListenOptions, Sharing, listen};

/// A connected socket in the kernel's table. The generation makes an id of an earlier holder of the slot invalid:
/// operations on it do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId {
    /// Slot in the table; small and reused, so that callers may index by it.
    pub index: u32,
    /// Counts the slot's holders.
    pub generation: u32,
}

/// Bytes that arrived, in a buffer lent by the kernel. Give it back with [`Kernel::release`].
#[derive(Debug)]
#[must_use = "the buffer is lent: release it"]
pub struct Received {
    pub(in crate::kernel) buffer: u16,
    pub(in crate::kernel) len: u32,
}

impl Received {
    /// How many bytes arrived; never 0.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Never true: an end of stream is [`Completion::Ended`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What the kernel reports.
#[derive(Debug)]
pub enum Completion {
    /// A connection was accepted; receiving from it is armed. (The listener's options were inherited.)
    Accepted {
        /// Its id.
        socket: SocketId,
        /// Whence it comes.
        peer: SocketAddr,
    },
    /// Accepting stopped: no descriptors or memory, or the table is full (`errno`). It is armed again as soon as
    /// a socket was released, and at the latest by [`Kernel::resume_accept`].
    AcceptPaused {
        /// `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`.
        errno: i32,
    },
    /// Bytes arrived, in order.
    Received {
        /// From whom.
        socket: SocketId,
        /// Where they are.
        received: Received,
    },
    /// The peer sends nothing any more: 0 is an orderly end of stream, else the `errno`. Reported once.
    /// The socket is still held, until [`Kernel::close`].
    Ended {
        /// Who.
        socket: SocketId,
        /// 0 or why.
        errno: i32,
    },
    /// The socket did not take all bytes of its last [`Kernel::send`]. Nothing is reported of sends that went whole.
    /// Comes before anything else that the same [`Kernel::enter`] found.
    Short {
        /// Who.
        socket: SocketId,
        /// How many bytes the socket did take, from the first on.
        taken: usize,
        /// 0: it is full ([`Kernel::await_writable`] tells when it is not); else the connection is broken.
        errno: i32,
    },
    /// The socket takes bytes again; answers one [`Kernel::await_writable`].
    Writable {
        /// Who.
        socket: SocketId,
    },
    /// After [`Kernel::close`]: the kernel holds no operation of this socket any more, its descriptor is closed and
    /// its id void. The only thing that is reported of it after the close, and the last.
    Released {
        /// Who it was.
        socket: SocketId,
    },
    /// Somebody rang the [`Waker`].
    Woken,
}

/// What `TCP_INFO` says about a connection's liveness and progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpInfo {
    /// Retransmits without an answer.
    pub retransmits: u8,
    /// Zero-window or keepalive probes without an answer.
    pub probes: u8,
    /// Bytes that the peer's TCP acknowledged since the connection began.
    pub bytes_acked: u64,
    /// Milliseconds since the last acknowledgement came.
    pub last_ack_received_ms: u32,
}

/// How long [`Kernel::enter`] may wait for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: submit, and look what is there.
    No,
    /// At most so long.
    AtMost(Duration),
    /// Until something completes.
    Forever,
}

/// What is still held; all zero when accepting was stopped, every socket closed and [`Completion::Released`], and every buffer
/// given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Operations of sockets and listener that have not completed.
    pub operations: usize,
    /// Slots of the socket table that are in use.
    pub sockets: usize,
    /// Receive buffers lent to the caller.
    pub buffers: usize,
    /// Descriptors open: sockets and listener. (Those of the ring itself go when it is dropped.)
    pub descriptors: usize,
}

impl std::ops::AddAssign for Held {
    fn add_assign(&mut self, other: Self) {
        let Self { operations, sockets, buffers, descriptors } = other;
        self.operations += operations;
        self.sockets += sockets;
        self.buffers += buffers;
        self.descriptors += descriptors;
    }
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// System calls that entered the ring.
    pub enters: u64,
    /// Sends submitted.
    pub sends: u64,
    /// Bytes handed over for sending, taken or not.
    pub send_bytes: u64,
    /// Completions of an earlier holder of a slot, ignored.
    pub stale_completions: u64,
    /// Multishot receives that ended for want of buffers and were armed again.
    pub buffer_shortages: u64,
    /// Completion queue overflows seen.
    pub overflows: u64,
}

impl std::ops::AddAssign for KernelCounters {
    fn add_assign(&mut self, other: Self) {
        let Self { enters, sends, send_bytes, stale_completions, buffer_shortages, overflows } = other;
        self.enters += enters;
        self.sends += sends;
        self.send_bytes += send_bytes;
        self.stale_completions += stale_completions;
        self.buffer_shortages += buffer_shortages;
        self.overflows += overflows;
    }
}

/// The operations. Every implementation reports exactly the completions documented at [`Completion`].
///
/// At most one send per socket is outstanding: a second [`Kernel::send`] before the [`Kernel::enter`] that submits the
/// first, or while the socket is awaited as writable, is a bug of the caller and panics.
pub trait Kernel {
    /// The bytes of a buffer, to be parsed (and unmasked) in place.
    fn bytes(&mut self, received: &Received) -> &mut [u8];

    /// Gives a buffer back.
    fn release(&mut self, received: Received);

    /// Queues `frames` to be sent to `socket` as one send, in order, without waiting (`MSG_DONTWAIT | MSG_WAITALL`).
    /// The kernel owns the bytes until the [`Kernel::enter`] that submits them has returned, and not longer. What was not
    /// taken comes back as [`Completion::Short`] in that same call.
    fn send(&mut self, socket: SocketId, frames: &[Bytes]);

    /// Asks for one [`Completion::Writable`].
    fn await_writable(&mut self, socket: SocketId);

    /// Stops receiving from `socket`, for back pressure. Bytes already received may still be reported. The end of the stream
    /// is not seen until [`Kernel::resume_receive`].
    fn pause_receive(&mut self, socket: SocketId);

    /// Receives from `socket` again.
    fn resume_receive(&mut self, socket: SocketId);

    /// Sends FIN behind all bytes, those of a send that is queued included; the peer may go on sending. For an orderly close
    /// whose bytes must arrive. If that send comes back as [`Completion::Short`], no FIN is sent: send the rest and ask again.
    fn finish(&mut self, socket: SocketId);

    /// Ends the connection for good: `shutdown(2)` behind a send that is queued, waits for the kernel's last operation, then closes.
    /// Ends with [`Completion::Released`]. Asking again does nothing.
    fn close(&mut self, socket: SocketId);

    /// Closes with a reset: the peer gets RST, nothing lingers, a send that is queued is void. Else as [`Kernel::close`].
    fn abort(&mut self, socket: SocketId);

    /// `TCP_INFO` of a connection; `None` if its id is void.
    fn tcp_info(&mut self, socket: SocketId) -> Option<TcpInfo>;

    /// Stops accepting for good and closes the listener; no [`Completion::Accepted`] comes any more. For shutdown.
    fn stop_accepting(&mut self);

    /// Pauses accepting (limits); what waits stays in the listener's queue. What was accepted already may still be reported.
    fn pause_accept(&mut self);

    /// Accepts again after a pause of either kind. Nothing happens if accepting is armed.
    fn resume_accept(&mut self);

    /// Submits everything queued and waits for at least one completion, as `wait` says (not at all if one is left from before;
    /// a signal may end the wait early). One system call; more if the queue is larger than the ring, or if something was
    /// finished or closed behind a send.
    ///
    /// # Errors
    /// Only what no retry can mend: the ring is broken.
    fn enter(&mut self, wait: Wait) -> io::Result<()>;

    /// The next completion that has come, if any. Makes no system call.
    fn completion(&mut self) -> Option<Completion>;

    /// Rings the doorbell of another shard: with the next [`Kernel::enter`] its kernel reports [`Completion::Woken`]. Of no effect
    /// if there is no such peer, or it is gone.
    fn ring(&mut self, peer: u16);

    /// Gives away a connection that was just accepted: only before the next [`Kernel::enter`], and before anything else was asked of
    /// it. Its id is void then, and nothing more is reported of it. `None`: this kernel cannot, it is too late, or the peer is gone;
    /// the connection stays as it was.
    fn hand_over(&mut self, socket: SocketId) -> Option<Handed>;

    /// Takes a connection that another kernel gave away: as after [`Completion::Accepted`]. `None`: the table is full or accepting
    /// was stopped, and the connection is closed.
    fn adopt(&mut self, handed: Handed) -> Option<SocketId>;

    /// What is still held.
    fn held(&self) -> Held;

    /// Counters since the start.
    fn counters(&self) -> KernelCounters;
}

/// Wakes a shard that sleeps in [`Kernel::enter`], from any thread.
pub trait Waker: Send + Sync + std::fmt::Debug {
    /// Makes the kernel report [`Completion::Woken`]; several calls may give one report.
    fn wake(&self);
}
