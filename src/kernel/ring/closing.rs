//! Closing: what is done behind the last send, and when a slot and its descriptor are let go.

use std::net::Shutdown;

use super::Ring;
use super::events::Event;
use crate::kernel::{Completion, SocketId};

impl Ring {
    /// Finishes or closes a socket whose send was queued before.
    pub(super) fn conclude(&mut self, socket: SocketId) {
        let Some(slot) = self.sockets.find(socket) else { return };
        if slot.is_closing {
            self.shut(socket);
        } else if slot.finishes {
            slot.finishes = false;
            if !slot.has_short {
                // It fails if the connection is gone, which a receive or send reports.
                let _ = slot.socket().shutdown(Shutdown::Write);
            }
        }
    }

    /// Ends all operations of a closing socket, and with the last of them the socket.
    pub(super) fn shut(&mut self, socket: SocketId) {
        let slot = self.sockets.find(socket).expect("a closing socket is held");
        // It fails if the connection is gone, and ends what waits on the socket even so.
        let _ = slot.socket().shutdown(Shutdown::Both);
        self.release_if_idle(socket);
    }

    /// Closes the descriptor of a closing socket that the kernel holds no operation of.
    pub(super) fn release_if_idle(&mut self, socket: SocketId) {
        let turn = self.turn;
        let is_idle = self
            .sockets
            .find(socket)
            .is_some_and(|slot| slot.is_closing && slot.operations == 0 && slot.sent_in_turn != turn);
        if !is_idle {
            return;
        }
        self.sockets.remove(socket);
        // Before all that waits: a connection among it may be given the slot.
        self.events.push_front(Event::Report(Completion::Released { socket }));
        self.make_room();
    }
}
