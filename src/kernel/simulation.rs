//! The kernel as a seeded simulation: virtual peers, virtual time, and every fault that the real one may show.
//!
//! The harness owns the clock ([`Simulation::set_now`]) and the peers; the code under test owns the [`Kernel`] side.
//! [`Kernel::enter`] never blocks: what it reports is what has become due. When nothing more happens at this moment, the harness
//! jumps to [`Simulation::next_event`] (or to the next timer of the code under test, whichever is earlier). The same seed, the
//! same calls: the same run.

#![forbid(unsafe_code)]

mod config;
mod effects;
mod harness;
mod network;
mod random;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

pub use self::config::{Faults, SimulationConfig};
use self::effects::Event;
use self::network::Network;
pub use self::network::{PeerEnd, PeerId};
use self::random::Random;
use super::slots::Slots;
use super::{Completion, Handed, Held, Kernel, KernelCounters, Received, SocketId, TcpInfo, Wait, Waker};
use crate::clock::Moment;

/// A [`Kernel`] that is played.
#[derive(Debug)]
pub struct Simulation {
    config: SimulationConfig,
    random: Random,
    network: Network,
    slots: Slots<Slot>,
    buffers: Vec<Buffer>,
    unused: Vec<u16>,
    /// Completions that will be seen: when, a random order among equal moments, and a sequence.
    pending: BTreeMap<Place, Event>,
    sequence: u64,
    shorts: VecDeque<(SocketId, usize, i32)>,
    events: VecDeque<Event>,
    starved: VecDeque<SocketId>,
    sends: Vec<(SocketId, Vec<Bytes>)>,
    /// Finished or closed behind their sends.
    deferred: Vec<SocketId>,
    turn: u64,
    acceptor: Acceptor,
    waker: Arc<Flag>,
    /// Doorbells rung and not yet taken by the harness.
    rung: Vec<u16>,
    counters: KernelCounters,
}

type Place = (Moment, u64, u64);

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent claims about one socket, each with its own life")]
struct Slot {
    /// Whose connection.
    peer: PeerId,
    wants_to_receive: bool,
    /// Stands in the list of those that wait for buffers, or will be armed again by an event.
    is_starved: bool,
    has_ended: bool,
    awaits_writable: bool,
    /// A `Writable` is under way.
    is_writable_due: bool,
    sent_in_turn: u64,
    has_short: bool,
    finishes: bool,
    is_closing: bool,
    /// The last place in `pending` of what must stay in order.
    last_place: Place,
}

impl Slot {
    fn new(peer: PeerId) -> Self {
        Self {
            peer,
            wants_to_receive: true,
            is_starved: false,
            has_ended: false,
            awaits_writable: false,
            is_writable_due: false,
            sent_in_turn: 0,
            has_short: false,
            finishes: false,
            is_closing: false,
            last_place: Place::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    state: Loan,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Loan {
    #[default]
    Unused,
    /// Filled, and not reported yet.
    Filled,
    Lent,
}

#[derive(Debug, Default)]
struct Acceptor {
    is_paused: bool,
    is_short: bool,
}

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Waker for Flag {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Simulation {
    /// A simulation at moment zero that listens.
    #[must_use]
    pub fn new(config: SimulationConfig) -> Self {
        assert!(config.buffers > 0 && config.buffer_bytes > 0 && config.max_sockets > 0, "nothing works without room");
        Self {
            config,
            random: Random::new(config.seed),
            network: Network::new(),
            slots: Slots::new(),
            buffers: (0..config.buffers).map(|_| Buffer::default()).collect(),
            unused: (0..config.buffers).rev().collect(),
            pending: BTreeMap::new(),
            sequence: 0,
            shorts: VecDeque::new(),
            events: VecDeque::new(),
            starved: VecDeque::new(),
            sends: Vec::new(),
            deferred: Vec::new(),
            turn: 1,
            acceptor: Acceptor::default(),
            waker: Arc::default(),
            rung: Vec::new(),
            counters: KernelCounters::default(),
        }
    }

    fn find(&mut self, socket: SocketId) -> Option<(&mut Slot, PeerId)> {
        let slot = self.slots.find(socket)?;
        let peer = slot.peer;
        Some((slot, peer))
    }

    fn find_open(&mut self, socket: SocketId) -> Option<(&mut Slot, PeerId)> {
        self.find(socket).filter(|(slot, _)| !slot.is_closing)
    }

    fn give_back(&mut self, buffer: u16) {
        self.buffers[usize::from(buffer)].state = Loan::Unused;
        self.unused.push(buffer);
    }

    fn assert_lent(&self, received: &Received) {
        let buffer = self.buffers.get(usize::from(received.buffer));
        let is_lent = buffer.is_some_and(|buffer| buffer.state == Loan::Lent && buffer.bytes.len() == received.len());
        assert!(is_lent, "a received buffer goes to the kernel that lent it, once");
    }
}

impl Kernel for Simulation {
    fn bytes(&mut self, received: &Received) -> &mut [u8] {
        self.assert_lent(received);
        &mut self.buffers[usize::from(received.buffer)].bytes
    }

    fn release(&mut self, received: Received) {
        self.assert_lent(&received);
        self.give_back(received.buffer);
    }

    fn send(&mut self, socket: SocketId, frames: &[Bytes]) {
        let turn = self.turn;
        let Some((slot, _)) = self.find_open(socket) else { return };
        assert!(slot.sent_in_turn != turn, "at most one send per socket and enter");
        assert!(
            !slot.has_short && !slot.awaits_writable,
            "no send before the last one's Short and Writable were reported"
        );
        let total: usize = frames.iter().map(Bytes::len).sum();
        if total == 0 {
            return;
        }
        slot.sent_in_turn = turn;
        self.counters.sends += 1;
        self.counters.send_bytes += total as u64;
        self.sends.push((socket, frames.to_vec()));
    }

    fn await_writable(&mut self, socket: SocketId) {
        if let Some((slot, _)) = self.find_open(socket) {
            slot.awaits_writable = true;
        }
    }

    fn pause_receive(&mut self, socket: SocketId) {
        if let Some((slot, _)) = self.find_open(socket) {
            slot.wants_to_receive = false;
        }
    }

    fn resume_receive(&mut self, socket: SocketId) {
        if let Some((slot, _)) = self.find_open(socket) {
            slot.wants_to_receive = true;
        }
    }

    fn finish(&mut self, socket: SocketId) {
        let turn = self.turn;
        let Some((slot, _)) = self.find_open(socket) else { return };
        slot.finishes = true;
        if slot.sent_in_turn == turn {
            self.deferred.push(socket);
        } else {
            self.conclude(socket);
        }
    }

    fn close(&mut self, socket: SocketId) {
        let turn = self.turn;
        let Some((slot, _)) = self.find_open(socket) else { return };
        slot.is_closing = true;
        if slot.sent_in_turn == turn {
            self.deferred.push(socket);
        } else {
            self.conclude(socket);
        }
    }

    fn abort(&mut self, socket: SocketId) {
        let Some((slot, peer)) = self.find_open(socket) else { return };
        slot.is_closing = true;
        self.sends.retain(|(other, _)| *other != socket);
        self.deferred.retain(|other| *other != socket);
        self.network.server_reset(peer);
        self.in_order(socket, Event::Idle(socket));
    }

    fn tcp_info(&mut self, socket: SocketId) -> Option<TcpInfo> {
        let (_, peer) = self.find(socket)?;
        let now = self.network.now;
        let end = self.network.peer(peer);
        let silence = now.since(end.last_ack);
        Some(TcpInfo {
            retransmits: if end.is_dead && end.outstanding > 0 { 3 } else { 0 },
            probes: if end.is_dead { 3 } else { 0 },
            bytes_acked: end.bytes_acked,
            last_ack_received_ms: u32::try_from(silence.as_millis()).unwrap_or(u32::MAX),
        })
    }

    fn ring(&mut self, peer: u16) {
        self.rung.push(peer);
    }

    /// Its peers are its own: there is no other network that a connection could go to.
    fn hand_over(&mut self, _: SocketId) -> Option<Handed> {
        None
    }

    fn adopt(&mut self, _: Handed) -> Option<SocketId> {
        None
    }

    fn stop_accepting(&mut self) {
        self.network.stop_listening();
    }

    fn pause_accept(&mut self) {
        self.acceptor.is_paused = true;
    }

    fn resume_accept(&mut self) {
        self.acceptor = Acceptor::default();
    }

    fn enter(&mut self, _wait: Wait) -> io::Result<()> {
        self.counters.enters += 1;
        for (socket, frames) in std::mem::take(&mut self.sends) {
            self.transmit(socket, &frames);
        }
        self.turn += 1;
        for socket in std::mem::take(&mut self.deferred) {
            self.conclude(socket);
        }
        self.settle();
        self.accept();
        let fed = self.unused.len().min(self.starved.len());
        for socket in self.starved.drain(..fed).collect::<Vec<_>>() {
            if let Some((slot, _)) = self.find(socket) {
                slot.is_starved = false;
            }
        }
        // Whatever was asked for since the last call may be ready already.
        for socket in self.slots.iter().map(|(socket, _)| socket).collect::<Vec<_>>() {
            self.look_at(socket);
        }
        while let Some(entry) = self.pending.first_entry() {
            if entry.key().0 > self.network.now {
                break;
            }
            let event = entry.remove();
            self.events.push_back(event);
        }
        Ok(())
    }

    fn completion(&mut self) -> Option<Completion> {
        while let Some((socket, taken, errno)) = self.shorts.pop_front() {
            if let Some((slot, _)) = self.find_open(socket) {
                slot.has_short = false;
                return Some(Completion::Short { socket, taken, errno });
            }
        }
        if self.waker.0.swap(false, Ordering::AcqRel) {
            return Some(Completion::Woken);
        }
        while let Some(event) = self.events.pop_front() {
            match event {
                Event::Released(socket) => return Some(Completion::Released { socket }),
                Event::AcceptPaused(errno) => return Some(Completion::AcceptPaused { errno }),
                Event::Idle(socket) => self.release_slot(socket),
                Event::Rearm(socket) if self.find(socket).is_some() => {
                    self.find(socket).expect("just found").0.is_starved = false;
                    self.receive(socket);
                }
                Event::Accepted(socket, _) if !self.network.is_listening => self.forget(socket),
                Event::Accepted(socket, peer) if self.find_open(socket).is_some() => {
                    return Some(Completion::Accepted { socket, peer });
                }
                Event::Ended(socket, errno) if self.find_open(socket).is_some() => {
                    self.find_open(socket).expect("just found").0.has_ended = true;
                    return Some(Completion::Ended { socket, errno });
                }
                Event::Writable(socket) if self.find_open(socket).is_some() => {
                    let (slot, _) = self.find_open(socket).expect("just found");
                    (slot.awaits_writable, slot.is_writable_due) = (false, false);
                    return Some(Completion::Writable { socket });
                }
                Event::Arrived(socket, received) if self.find_open(socket).is_some() => {
                    self.buffers[usize::from(received.buffer)].state = Loan::Lent;
                    return Some(Completion::Received { socket, received });
                }
                Event::Arrived(_, received) => self.give_back(received.buffer),
                // Of a closing socket, or of an earlier holder of the slot.
                Event::Accepted(socket, _)
                | Event::Ended(socket, _)
                | Event::Writable(socket)
                | Event::Rearm(socket) => {
                    self.counters.stale_completions += u64::from(self.find(socket).is_none());
                }
            }
        }
        None
    }

    fn held(&self) -> Held {
        let sockets = self.slots.count();
        let busy = |slot: &&Slot| slot.is_closing || slot.wants_to_receive && !slot.has_ended && !slot.is_starved;
        let held = || self.slots.iter().map(|(_, slot)| slot);
        let polls = held().filter(|slot| !slot.is_closing && slot.awaits_writable).count();
        let listener = usize::from(self.network.is_listening);
        let is_accepting = self.network.is_listening && !self.acceptor.is_paused && !self.acceptor.is_short;
        Held {
            operations: held().filter(busy).count() + polls + usize::from(is_accepting),
            sockets,
            buffers: self.buffers.iter().filter(|buffer| buffer.state == Loan::Lent).count(),
            descriptors: sockets + listener,
        }
    }

    fn counters(&self) -> KernelCounters {
        self.counters
    }
}
