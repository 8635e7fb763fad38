//! Receiving: multishot receives, their pauses, and those that end for want of buffers.

use io_uring::{opcode, types};

use super::Ring;
use crate::kernel::operation::{Kind, Operation};
use crate::kernel::{Completion, Received, SocketId, buffers};

impl Ring {
    pub(super) fn arm_receive(&mut self, socket: SocketId) {
        let Some(slot) = self.sockets.find_open(socket) else { return };
        if slot.is_receiving || slot.has_ended || slot.is_starved || !slot.wants_to_receive {
            return;
        }
        slot.is_receiving = true;
        slot.operations += 1;
        let entry = opcode::RecvMulti::new(types::Fd(slot.raw_fd()), buffers::GROUP).build();
        // SAFETY: it takes its memory from the registered buffers, which `drop` frees only once the kernel holds nothing.
        unsafe { self.uring.push(entry, Operation::of(Kind::Receive, socket)) };
    }

    pub(super) fn cancel_receive(&mut self, socket: SocketId) {
        let Some(slot) = self.sockets.find_open(socket) else { return };
        if slot.is_receiving && !slot.is_cancelling {
            slot.is_cancelling = true;
            slot.operations += 1;
            let entry = opcode::AsyncCancel::new(Operation::of(Kind::Receive, socket).pack()).build();
            // SAFETY: a cancellation points to nothing.
            unsafe { self.uring.push(entry, Operation::of(Kind::ReceiveCancel, socket)) };
        }
    }

    /// Receives again where buffers were missing, for as many sockets as there are buffers. All of them come to their turn: a
    /// receive that is armed here takes a buffer or completes, so there is another enter.
    pub(super) fn feed_starved(&mut self) {
        let count = self.memory.buffers.available().min(self.starved.len());
        for socket in self.starved.drain(..count).collect::<Vec<_>>() {
            if let Some(slot) = self.sockets.find(socket) {
                slot.is_starved = false;
            }
            self.arm_receive(socket);
        }
    }

    pub(super) fn arrived(&mut self, socket: SocketId, received: Received) -> Option<Completion> {
        let Some(slot) = self.sockets.find_open(socket) else {
            // Of a closing socket, or of an earlier holder of the slot.
            self.counters.stale_completions += u64::from(self.sockets.find(socket).is_none());
            self.memory.buffers.discard(received);
            return None;
        };
        if !slot.wants_to_receive {
            // A cancellation may miss an operation that is there: once more.
            self.cancel_receive(socket);
        }
        let received = self.memory.buffers.lend(received);
        Some(Completion::Received { socket, received })
    }

    pub(super) fn receive_ended(&mut self, socket: SocketId, result: i32) -> Option<Completion> {
        let slot = self.sockets.find_open(socket)?;
        match -result {
            libc::ENOBUFS => {
                self.counters.buffer_shortages += 1;
                if slot.wants_to_receive {
                    slot.is_starved = true;
                    self.starved.push_back(socket);
                }
                None
            }
            // Cancelled, or ended at the kernel's whim.
            errno if errno < 0 || matches!(errno, libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {
                self.arm_receive(socket);
                None
            }
            errno => {
                slot.has_ended = true;
                Some(Completion::Ended { socket, errno })
            }
        }
    }
}
