//! The harness's side: the clock, the peers, and what goes wrong.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Faults, PeerEnd, PeerId, Simulation};
use crate::clock::Moment;
use crate::kernel::Waker;

impl Simulation {
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

    /// When something will happen that a [`Kernel::enter`](crate::kernel::Kernel::enter) then reports, not before now; `None` if nothing will.
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
