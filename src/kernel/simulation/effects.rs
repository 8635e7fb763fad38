//! How things come about: what arrivals and calls do to a socket, and when the code under test sees that.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::{Buffer, Faults, Loan, PeerId, Simulation, Slot};
use crate::clock::Moment;
use crate::kernel::{Kernel as _, Received, SocketId};

/// A completion of a slot's former holder comes after its release, by so many times what others are late.
const STALE_DELAYS: u32 = 10;

/// Something that the code under test will see: as a completion, or not at all if its socket is gone by then.
#[derive(Debug)]
pub(super) enum Event {
    Arrived(SocketId, Received),
    Ended(SocketId, i32),
    Writable(SocketId),
    Rearm(SocketId),
    /// All operations of a closing socket have completed.
    Idle(SocketId),
    Released(SocketId),
    Accepted(SocketId, SocketAddr),
    AcceptPaused(i32),
}

impl Simulation {
    /// Lets arrive what is due, and completes what that makes ready.
    pub(super) fn settle(&mut self) {
        for peer in self.network.advance() {
            let held = self.slots.iter().find(|(_, slot)| slot.peer == peer).map(|(socket, _)| socket);
            if let Some(socket) = held {
                self.look_at(socket);
            }
        }
    }

    /// Completes what `socket` waits for, if it is ready.
    pub(super) fn look_at(&mut self, socket: SocketId) {
        self.receive(socket);
        let Some((_, peer)) = self.find_open(socket) else { return };
        if self.network.peer(peer).is_writable()
            && let Some((slot, _)) = self.find_open(socket)
            && slot.awaits_writable
            && !std::mem::replace(&mut slot.is_writable_due, true)
        {
            let due = self.due();
            self.schedule(due, Event::Writable(socket));
        }
    }

    /// Completes the receive of `socket` with all that has arrived, in as many buffers as there are.
    pub(super) fn receive(&mut self, socket: SocketId) {
        while let Some((slot, peer)) = self.find_open(socket) {
            if !slot.wants_to_receive || slot.has_ended || slot.is_starved {
                return;
            }
            self.strike(peer);
            let end = self.network.peer(peer);
            let (available, errno, has_fin) = (end.arrived.len(), end.errno, end.fin_arrived);
            if available == 0 {
                if errno != 0 || has_fin {
                    self.find_open(socket).expect("found above").0.has_ended = true;
                    self.in_order(socket, Event::Ended(socket, errno));
                }
                return;
            }
            if self.random.chance(self.config.faults.buffer_shortage) {
                self.counters.buffer_shortages += 1;
                self.find_open(socket).expect("found above").0.is_starved = true;
                let due = self.due();
                self.schedule(due, Event::Rearm(socket));
                return;
            }
            let Some(buffer) = self.unused.pop() else {
                self.counters.buffer_shortages += 1;
                self.find_open(socket).expect("found above").0.is_starved = true;
                self.starved.push_back(socket);
                return;
            };
            let mut count = available.min(self.config.buffer_bytes as usize);
            if self.random.chance(self.config.faults.split_receive) {
                count = 1 + self.random.below(count);
            }
            let bytes = self.network.peer_mut(peer).arrived.drain(..count).collect();
            self.buffers[usize::from(buffer)] = Buffer { bytes, state: Loan::Filled };
            let len = u32::try_from(count).expect("at most buffer_bytes");
            self.in_order(socket, Event::Arrived(socket, Received { buffer, len }));
        }
    }

    /// A connection may break whenever it is touched.
    fn strike(&mut self, peer: PeerId) {
        if self.random.chance(self.config.faults.reset) && self.network.peer(peer).errno == 0 {
            self.network.cut(peer);
        }
        if self.random.chance(self.config.faults.death) {
            self.network.set_dead(peer, true);
        }
    }

    /// When something that happens now is seen.
    fn due(&mut self) -> Moment {
        let Faults { delay, longest_delay, .. } = self.config.faults;
        let delay = if self.random.chance(delay) { self.random.duration(longest_delay) } else { Duration::ZERO };
        self.network.now + delay
    }

    fn schedule(&mut self, due: Moment, event: Event) {
        let place = (due, self.random.number(), self.sequence);
        self.sequence += 1;
        self.pending.insert(place, event);
    }

    /// Schedules something of a socket behind all that was scheduled so before.
    pub(super) fn in_order(&mut self, socket: SocketId, event: Event) {
        let due = self.due();
        let place = (due, self.random.number(), self.sequence);
        let sequence = self.sequence;
        self.sequence += 1;
        let (slot, _) = self.find(socket).expect("the caller found it");
        let last = slot.last_place;
        let place = if place > last { place } else { (last.0, last.1, sequence) };
        slot.last_place = place;
        self.pending.insert(place, event);
    }

    pub(super) fn accept(&mut self) {
        while !self.acceptor.is_paused && !self.acceptor.is_short && !self.network.backlog.is_empty() {
            if self.held().sockets == self.config.max_sockets || self.random.chance(self.config.faults.accept_shortage)
            {
                self.acceptor.is_short = true;
                let now = self.network.now;
                self.schedule(now, Event::AcceptPaused(libc::EMFILE));
                return;
            }
            let peer = self.network.backlog.pop_front().expect("not empty");
            let socket = self.slots.insert(Slot::new(peer));
            let address = self.network.peer(peer).address;
            self.in_order(socket, Event::Accepted(socket, address));
            self.look_at(socket);
        }
    }

    /// Sends as much of `frames` as the socket takes.
    pub(super) fn transmit(&mut self, socket: SocketId, frames: &[Bytes]) {
        let Some((_, peer)) = self.find(socket) else { return };
        self.strike(peer);
        let total: usize = frames.iter().map(Bytes::len).sum();
        let end = self.network.peer(peer);
        let errno = match (end.errno, end.has_finished) {
            (0, false) => 0,
            (0, true) => libc::EPIPE,
            (errno, _) => errno,
        };
        let mut taken = if errno == 0 { total.min(end.room()) } else { 0 };
        if self.random.chance(self.config.faults.refused_send) {
            taken = 0;
        } else if taken > 0 && self.random.chance(self.config.faults.short_send) {
            taken = self.random.below(taken);
        }
        let bytes: Vec<u8> = frames.iter().flatten().copied().take(taken).collect();
        self.network.server_send(peer, bytes);
        if taken < total {
            self.find(socket).expect("found above").0.has_short = true;
            self.shorts.push_back((socket, taken, errno));
        }
    }

    /// Finishes or closes a socket; its send, if there was one, is done.
    pub(super) fn conclude(&mut self, socket: SocketId) {
        let Some((slot, peer)) = self.find(socket) else { return };
        let (is_closing, finishes, has_short) = (slot.is_closing, slot.finishes, slot.has_short);
        slot.finishes = false;
        if is_closing {
            self.network.server_close(peer);
            self.in_order(socket, Event::Idle(socket));
        } else if finishes && !has_short {
            self.network.server_finish(peer);
            self.look_at(socket);
        }
    }

    pub(super) fn release_slot(&mut self, socket: SocketId) {
        if self.slots.remove(socket).is_none() {
            return;
        }
        self.events.push_back(Event::Released(socket));
        if self.random.chance(self.config.faults.stale_completion) {
            // Late enough for the slot to have its next holder.
            let late = self.random.duration(STALE_DELAYS * self.config.faults.longest_delay);
            let event = match self.random.below(3) {
                0 => Event::Writable(socket),
                1 => Event::Ended(socket, libc::ECONNRESET),
                _ => Event::Rearm(socket),
            };
            self.schedule(self.network.now + late, event);
        }
        self.acceptor.is_short = false;
    }

    /// Closes a connection that nobody was told of.
    pub(super) fn forget(&mut self, socket: SocketId) {
        if let Some(slot) = self.slots.remove(socket) {
            self.network.server_reset(slot.peer);
        }
    }
}
