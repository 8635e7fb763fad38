//! The kernel as a seeded simulation: virtual peers, virtual time, and every fault that the real one may show.
//!
//! The harness owns the clock ([`Simulation::set_now`]) and the peers; the code under test owns the [`Kernel`] side.
//! [`Kernel::enter`] never blocks: what it reports is what has become due. When nothing more happens at this moment, the harness
//! jumps to [`Simulation::next_event`] (or to the next timer of the code under test, whichever is earlier). The same seed, the
//! same calls: the same run.

#![forbid(unsafe_code)]

mod network;
mod random;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use self::network::Network;
pub use self::network::{PeerEnd, PeerId};
use self::random::Random;
use super::slots::Slots;
use super::{Completion, Handed, Held, Kernel, KernelCounters, Received, SocketId, TcpInfo, Wait, Waker};
use crate::clock::Moment;

/// A completion of a slot's former holder comes after its release, by so many times what others are late.
const STALE_DELAYS: u32 = 10;

/// The sizes of a [`Simulation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulationConfig {
    /// All randomness comes from it.
    pub seed: u64,
    /// Receive buffers, shared by all sockets.
    pub buffers: u16,
    /// Bytes of each.
    pub buffer_bytes: u32,
    /// Connections; beyond them accepting pauses.
    pub max_sockets: usize,
    /// Bytes that a socket takes before its peer reads; settable per peer.
    pub capacity: usize,
    /// How long bytes travel, each way; settable per peer.
    pub latency: Duration,
    /// What goes wrong.
    pub faults: Faults,
}

impl Default for SimulationConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            buffers: 256,
            buffer_bytes: 4_096,
            max_sockets: 10_000,
            capacity: 32 * 1_024,
            latency: Duration::from_millis(1),
            faults: Faults::default(),
        }
    }
}

/// How often things go wrong, in cases of 1,000. By default never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A send is cut at some byte although there is room.
    pub short_send: u16,
    /// A send is refused although there is room.
    pub refused_send: u16,
    /// Received bytes are split at some byte.
    pub split_receive: u16,
    /// A completion comes late, by up to [`Faults::longest_delay`]; those of other sockets overtake it.
    pub delay: u16,
    /// See [`Faults::delay`].
    pub longest_delay: Duration,
    /// A receive ends for want of buffers although there are some, and is armed again later.
    pub buffer_shortage: u16,
    /// An accept fails with `EMFILE`.
    pub accept_shortage: u16,
    /// At a send or receive the connection turns out to be reset.
    pub reset: u16,
    /// At a send or receive the peer's host is gone: nothing arrives any more, either way.
    pub death: u16,
    /// A completion of a slot's former holder comes after its release.
    pub stale_completion: u16,
}

impl Faults {
    /// Everything goes wrong now and then, but no connection is lost.
    #[must_use]
    pub fn harsh() -> Self {
        Self {
            short_send: 100,
            refused_send: 50,
            split_receive: 300,
            delay: 200,
            longest_delay: Duration::from_millis(20),
            buffer_shortage: 50,
            accept_shortage: 20,
            stale_completion: 200,
            ..Self::default()
        }
    }

    /// As [`Faults::harsh`], and connections are reset or die at any point.
    #[must_use]
    pub fn deadly() -> Self {
        Self { reset: 5, death: 5, ..Self::harsh() }
    }
}

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

#[derive(Debug)]
enum Event {
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

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Waker for Flag {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The harness's side.
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

    /// Moves the clock; never back.
    pub fn set_now(&mut self, now: Moment) {
        assert!(now >= self.network.now, "time does not run backwards");
        self.network.now = now;
    }

    /// The clock.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.network.now
    }

    /// When something will happen that an [`Kernel::enter`] then reports, not before now; `None` if nothing will.
    #[must_use]
    pub fn next_event(&self) -> Option<Moment> {
        if !self.shorts.is_empty() || !self.events.is_empty() || self.waker.0.load(Ordering::Acquire) {
            return Some(self.network.now);
        }
        let pending = self.pending.keys().next().map(|(moment, ..)| (*moment).max(self.network.now));
        [pending, self.network.next_arrival()].into_iter().flatten().min()
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.config.faults = faults;
    }

    /// What wakes this kernel.
    #[must_use]
    pub fn waker(&self) -> Arc<dyn Waker> {
        self.waker.clone()
    }

    /// The shards whose doorbells were rung since the last call; the harness wakes their kernels when it likes.
    pub fn take_rung(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.rung)
    }

    /// A client begins to connect, from an address of its own.
    pub fn connect(&mut self) -> PeerId {
        let number = u32::try_from(self.network.peer_count()).expect("fewer than 2^32 peers");
        let [_, a, b, c] = number.to_be_bytes();
        self.connect_from(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, a, b, c)), 40_000))
    }

    /// A client begins to connect from `address`.
    pub fn connect_from(&mut self, address: SocketAddr) -> PeerId {
        self.network.connect(address, self.config.latency, self.config.capacity)
    }

    /// The peer writes; its bytes arrive in order, after its latency.
    pub fn peer_write(&mut self, peer: PeerId, bytes: &[u8]) {
        self.network.peer_write(peer, bytes);
    }

    /// The peer reads at most `max` bytes of what has arrived, which makes room in the server's socket.
    pub fn peer_read(&mut self, peer: PeerId, max: usize) -> Vec<u8> {
        self.settle();
        self.network.peer_read(peer, max)
    }

    /// Bytes that have arrived at the peer and that it has not read.
    #[must_use]
    pub fn peer_unread(&mut self, peer: PeerId) -> usize {
        self.settle();
        self.network.peer(peer).unread.len()
    }

    /// The peer sends FIN behind its bytes.
    pub fn peer_finish(&mut self, peer: PeerId) {
        self.network.peer_finish(peer);
    }

    /// The peer sends RST.
    pub fn peer_reset(&mut self, peer: PeerId) {
        self.network.peer_reset(peer);
    }

    /// What the server did to the connection, as far as the peer can see; `None` while it is open, or bytes are unread.
    #[must_use]
    pub fn peer_end(&mut self, peer: PeerId) -> Option<PeerEnd> {
        self.settle();
        let end = self.network.peer(peer);
        if end.reset_seen {
            return Some(PeerEnd::Reset);
        }
        (end.fin_seen && end.unread.is_empty()).then_some(PeerEnd::Finished)
    }

    /// Whether the connection is over for the peer: [`Simulation::peer_end`] says how.
    #[must_use]
    pub fn peer_is_closed(&mut self, peer: PeerId) -> bool {
        self.peer_end(peer).is_some()
    }

    /// A dead peer's TCP answers nothing: bytes stay where they are, either way, until it lives again.
    pub fn peer_tcp_dead(&mut self, peer: PeerId, is_dead: bool) {
        self.network.set_dead(peer, is_dead);
    }

    /// How long this peer's bytes travel from now on, each way.
    pub fn set_latency(&mut self, peer: PeerId, latency: Duration) {
        self.network.peer_mut(peer).latency = latency;
    }

    /// Bytes that the server's socket takes for this peer before it reads.
    pub fn set_capacity(&mut self, peer: PeerId, capacity: usize) {
        self.network.peer_mut(peer).capacity = capacity;
    }
}

/// How things come about.
impl Simulation {
    /// Lets arrive what is due, and completes what that makes ready.
    fn settle(&mut self) {
        for peer in self.network.advance() {
            let held = self.slots.iter().find(|(_, slot)| slot.peer == peer).map(|(socket, _)| socket);
            if let Some(socket) = held {
                self.look_at(socket);
            }
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

    /// Completes what `socket` waits for, if it is ready.
    fn look_at(&mut self, socket: SocketId) {
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
    fn receive(&mut self, socket: SocketId) {
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
    fn in_order(&mut self, socket: SocketId, event: Event) {
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

    fn accept(&mut self) {
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
    fn transmit(&mut self, socket: SocketId, frames: &[Bytes]) {
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
    fn conclude(&mut self, socket: SocketId) {
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

    fn release_slot(&mut self, socket: SocketId) {
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
    fn forget(&mut self, socket: SocketId) {
        if let Some(slot) = self.slots.remove(socket) {
            self.network.server_reset(slot.peer);
        }
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
