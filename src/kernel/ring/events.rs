//! What completions are made of as they come: short sends, and events that own what they speak of.

use std::collections::VecDeque;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::kernel::buffers::Buffers;
use crate::kernel::operation::{Kind, Operation};
use crate::kernel::sockets::Sockets;
use crate::kernel::uring::Completed;
use crate::kernel::{Completion, Received, SocketId};

/// A send that did not go whole.
#[derive(Debug)]
pub(super) struct Short {
    pub(super) socket: SocketId,
    pub(super) taken: usize,
    pub(super) errno: i32,
}

/// What came and was not looked at yet. What owns something owns it here already, so that nothing leaks with the ring.
#[derive(Debug)]
pub(super) enum Event {
    Completed(Completed),
    /// Bytes arrived, in a buffer that is ours until it is reported.
    Arrived(SocketId, Received),
    /// A connection was accepted.
    Connected(OwnedFd),
    Report(Completion),
}

/// Sorts a completion as it comes: what owns something gets an owner, short sends go first.
pub(super) fn sort(
    completed: Completed,
    buffers: &mut Buffers,
    sockets: &mut Sockets,
    shorts: &mut VecDeque<Short>,
    events: &mut VecDeque<Event>,
) {
    let Operation { kind, socket } = completed.operation;
    let mut result = completed.result;
    match kind {
        Kind::Send => {
            if let Some(slot) = sockets.find(socket) {
                slot.has_short = true;
                shorts.push_back(short(socket, result));
            }
            return;
        }
        Kind::Accept if result >= 0 => {
            // SAFETY: a descriptor that the accept made; its only mention is this completion, which is looked at once.
            events.push_back(Event::Connected(unsafe { OwnedFd::from_raw_fd(result) }));
            result = 0;
        }
        Kind::Receive => {
            if let Some(buffer) = completed.buffer() {
                let received = buffers.take(buffer, u32::try_from(result).unwrap_or(0));
                if received.is_empty() {
                    buffers.discard(received);
                } else {
                    events.push_back(Event::Arrived(socket, received));
                }
            }
        }
        _ => {}
    }
    if !completed.has_more() {
        events.push_back(Event::Completed(Completed { result, ..completed }));
    }
}

/// What the result of a send that did not go whole means.
fn short(socket: SocketId, result: i32) -> Short {
    match usize::try_from(result) {
        Ok(taken) => Short { socket, taken, errno: 0 },
        Err(_) => match -result {
            // Full, or the kernel had no memory for more: the same to whoever sends.
            libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR => Short { socket, taken: 0, errno: 0 },
            errno => Short { socket, taken: 0, errno },
        },
    }
}
