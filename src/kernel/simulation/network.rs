//! A network of virtual peers: bytes travel in order, take their time, and stay away while a peer's TCP is dead.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Moment;

/// A virtual client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub(super) usize);

/// What the server did to a connection, as its peer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEnd {
    /// FIN, and every byte before it was read.
    Finished,
    /// RST.
    Reset,
}

/// What travels.
#[derive(Debug)]
enum Packet {
    Connect,
    BytesToServer(Vec<u8>),
    FinToServer,
    ResetToServer,
    BytesToPeer(Vec<u8>),
    FinToPeer,
    ResetToPeer,
    /// The peer has read so many bytes: the server's socket has room for as many more.
    Room(usize),
}

impl Packet {
    fn goes_to_server(&self) -> bool {
        matches!(self, Self::Connect | Self::BytesToServer(_) | Self::FinToServer | Self::ResetToServer | Self::Room(_))
    }
}

/// Both ends of one connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) latency: Duration,
    /// Bytes that the server's socket takes before the peer reads.
    pub(super) capacity: usize,
    pub(super) is_dead: bool,
    /// What would have arrived while the peer was dead.
    held_up: Vec<Packet>,
    /// No packet overtakes an earlier one of its direction.
    last_arrival: [Moment; 2],

    // The peer's end.
    pub(super) unread: VecDeque<u8>,
    pub(super) fin_seen: bool,
    pub(super) reset_seen: bool,

    // The server's end.
    pub(super) arrived: VecDeque<u8>,
    pub(super) fin_arrived: bool,
    /// Why the connection is broken; 0 if it is not.
    pub(super) errno: i32,
    /// Bytes sent that the peer has not read, as far as the server knows.
    pub(super) outstanding: usize,
    pub(super) has_finished: bool,
    pub(super) has_closed: bool,
    pub(super) bytes_acked: u64,
    pub(super) last_ack: Moment,
}

impl Peer {
    pub(super) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.outstanding)
    }

    /// As the kernel has it: not at the first byte of room, but at a third.
    pub(super) fn is_writable(&self) -> bool {
        self.errno != 0 || self.has_finished || self.room() >= (self.capacity / 3).max(1)
    }
}

/// All peers, and what is on its way.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) now: Moment,
    peers: Vec<Peer>,
    travelling: BTreeMap<(Moment, u64), (PeerId, Packet)>,
    sequence: u64,
    /// Connections that wait to be accepted.
    pub(super) backlog: VecDeque<PeerId>,
    pub(super) is_listening: bool,
}

impl Network {
    pub(super) fn new() -> Self {
        Self {
            now: Moment(0),
            peers: Vec::new(),
            travelling: BTreeMap::new(),
            sequence: 0,
            backlog: VecDeque::new(),
            is_listening: true,
        }
    }

    pub(super) fn peer(&self, peer: PeerId) -> &Peer {
        &self.peers[peer.0]
    }

    pub(super) fn peer_mut(&mut self, peer: PeerId) -> &mut Peer {
        &mut self.peers[peer.0]
    }

    pub(super) fn next_arrival(&self) -> Option<Moment> {
        self.travelling.keys().next().map(|(moment, _)| (*moment).max(self.now))
    }

    pub(super) fn peer_count(&self) -> usize {
        self.peers.len()
    }

    // -- what peers do -------------------------------------------------------------------------------------------------

    pub(super) fn connect(&mut self, address: SocketAddr, latency: Duration, capacity: usize) -> PeerId {
        let peer = PeerId(self.peers.len());
        self.peers.push(Peer {
            address,
            latency,
            capacity,
            is_dead: false,
            held_up: Vec::new(),
            last_arrival: [self.now; 2],
            unread: VecDeque::new(),
            fin_seen: false,
            reset_seen: false,
            arrived: VecDeque::new(),
            fin_arrived: false,
            errno: 0,
            outstanding: 0,
            has_finished: false,
            has_closed: false,
            bytes_acked: 0,
            last_ack: self.now,
        });
        self.dispatch(peer, Packet::Connect);
        peer
    }

    pub(super) fn peer_write(&mut self, peer: PeerId, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.dispatch(peer, Packet::BytesToServer(bytes.to_vec()));
        }
    }

    pub(super) fn peer_read(&mut self, peer: PeerId, max: usize) -> Vec<u8> {
        let unread = &mut self.peers[peer.0].unread;
        let count = max.min(unread.len());
        let bytes: Vec<u8> = unread.drain(..count).collect();
        if count > 0 {
            self.dispatch(peer, Packet::Room(count));
        }
        bytes
    }

    pub(super) fn peer_finish(&mut self, peer: PeerId) {
        self.dispatch(peer, Packet::FinToServer);
    }

    pub(super) fn peer_reset(&mut self, peer: PeerId) {
        self.dispatch(peer, Packet::ResetToServer);
    }

    pub(super) fn set_dead(&mut self, peer: PeerId, is_dead: bool) {
        self.peers[peer.0].is_dead = is_dead;
        if !is_dead {
            for packet in std::mem::take(&mut self.peers[peer.0].held_up) {
                // Long due: before all that comes now.
                self.travelling.insert((Moment(0), self.sequence), (peer, packet));
                self.sequence += 1;
            }
        }
    }

    // -- what the server does ------------------------------------------------------------------------------------------

    pub(super) fn server_send(&mut self, peer: PeerId, bytes: Vec<u8>) {
        self.peers[peer.0].outstanding += bytes.len();
        if !bytes.is_empty() {
            self.dispatch(peer, Packet::BytesToPeer(bytes));
        }
    }

    pub(super) fn server_finish(&mut self, peer: PeerId) {
        let end = &mut self.peers[peer.0];
        if !std::mem::replace(&mut end.has_finished, true) && end.errno == 0 {
            self.dispatch(peer, Packet::FinToPeer);
        }
    }

    pub(super) fn server_close(&mut self, peer: PeerId) {
        self.server_finish(peer);
        self.peers[peer.0].has_closed = true;
    }

    pub(super) fn server_reset(&mut self, peer: PeerId) {
        self.peers[peer.0].has_finished = true;
        self.peers[peer.0].has_closed = true;
        self.dispatch(peer, Packet::ResetToPeer);
    }

    /// The connection breaks in the middle: both ends see a reset.
    pub(super) fn cut(&mut self, peer: PeerId) {
        self.peers[peer.0].errno = libc::ECONNRESET;
        self.dispatch(peer, Packet::ResetToPeer);
    }

    /// Closes the listener: what waits there is reset.
    pub(super) fn stop_listening(&mut self) {
        self.is_listening = false;
        for peer in std::mem::take(&mut self.backlog) {
            self.server_reset(peer);
        }
    }

    // -- time ----------------------------------------------------------------------------------------------------------

    fn dispatch(&mut self, peer: PeerId, packet: Packet) {
        let end = &mut self.peers[peer.0];
        let last = &mut end.last_arrival[usize::from(packet.goes_to_server())];
        *last = (*last).max(self.now + end.latency);
        self.travelling.insert((*last, self.sequence), (peer, packet));
        self.sequence += 1;
    }

    /// Lets everything arrive that is due; returns whose server end changed.
    pub(super) fn advance(&mut self) -> BTreeSet<PeerId> {
        let mut changed = BTreeSet::new();
        while let Some(entry) = self.travelling.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (peer, packet) = entry.remove();
            if self.peers[peer.0].is_dead {
                self.peers[peer.0].held_up.push(packet);
            } else {
                self.arrive(peer, packet);
                changed.insert(peer);
            }
        }
        changed
    }

    fn arrive(&mut self, peer: PeerId, packet: Packet) {
        let now = self.now;
        let end = &mut self.peers[peer.0];
        if packet.goes_to_server() {
            end.last_ack = now;
        }
        match packet {
            Packet::Connect if self.is_listening => self.backlog.push_back(peer),
            // Nobody listens, or bytes for a closed socket.
            Packet::Connect => self.server_reset(peer),
            Packet::BytesToServer(_) if end.has_closed => {
                if !end.reset_seen && end.errno == 0 {
                    end.errno = libc::EPIPE;
                    self.dispatch(peer, Packet::ResetToPeer);
                }
            }
            Packet::BytesToServer(bytes) => {
                if end.errno == 0 {
                    end.arrived.extend(bytes);
                }
            }
            Packet::FinToServer => end.fin_arrived = true,
            Packet::ResetToServer => end.errno = libc::ECONNRESET,
            Packet::BytesToPeer(bytes) => {
                end.bytes_acked += bytes.len() as u64;
                end.last_ack = now;
                if !end.reset_seen {
                    end.unread.extend(bytes);
                }
            }
            Packet::FinToPeer => end.fin_seen = true,
            Packet::ResetToPeer => end.reset_seen = true,
            Packet::Room(count) => end.outstanding -= count,
        }
    }
}
