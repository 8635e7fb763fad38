//! The first bytes of a connection: whether it is admitted, its HTTP request, the upgrade.

use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Moment;
use crate::ids::ShardId;
use crate::kernel::SocketId;
use crate::protocol::http::{Endpoint, Handshake, Progress, Refusal, Request, healthy, switching_protocols};
use crate::session::Heartbeat;
use crate::shard::admission::Full;
use crate::shard::connection::{Connection, Stage};
use crate::shard::core::{Core, Order, Timer};

/// What a refused client is told to wait before it tries again.
const RETRY_AFTER_S: u32 = 5;
/// When accepting is tried again after descriptors ran out.
const ACCEPT_RETRY: Duration = Duration::from_millis(500);

impl Core {
    /// A connection was accepted.
    pub(super) fn accepted(&mut self, socket: SocketId, peer: SocketAddr) {
        let address = peer.ip().to_canonical();
        let limits = &self.settings.limits;
        let deadline = self.now + limits.head_time;
        let handshake = Handshake::new(self.settings.endpoint, self.head_limits);
        let mut connection = Box::new(Connection::new(socket, address, handshake, self.now, deadline));
        connection.is_trusted = self.settings.trusted.iter().any(|network| network.contains(address));
        let is_trusted = connection.is_trusted;
        let at = socket.index as usize;
        if self.connections.len() <= at {
            self.connections.resize_with(at + 1, || None);
        }
        debug_assert!(self.connections[at].is_none(), "the kernel reuses a slot only after it was released");
        self.connections[at] = Some(connection);
        self.connection_count += 1;
        self.counters.accepted += 1;

        let admitted = self.settings.admission.enter(address, is_trusted, &self.settings.limits, self.now);
        let hits = &mut self.counters.limit_hits;
        match admitted {
            Ok(()) => {}
            Err(Full::Connections) => hits.connections += 1,
            Err(Full::Address) => hits.connections_per_address += 1,
            Err(Full::Accepts) => hits.accepts_per_second += 1,
        }
        let refused = self.is_draining || admitted.is_err();
        if refused {
            self.reply_and_end(socket.index, &Refusal::Overloaded { retry_after_s: RETRY_AFTER_S }.response());
        } else {
            self.arm(socket.index, deadline);
        }
    }

    /// The shard that a fresh connection should go to. None is handed to one that has left unread what it was sent for as long as an
    /// answer may take, or owes one: it would hang there.
    pub(super) fn place(&mut self) -> ShardId {
        let Self { settings, mesh, neighbours, .. } = self;
        settings.admission.place(self.shard, |shard| {
            neighbours[usize::from(shard.0)].is_silent || mesh.unread_for(shard) >= settings.limits.shard_answer
        })
    }

    /// The kernel could accept no more. A connection of ours that closes frees what was missing, and if others hold it a
    /// timer tries again.
    pub(super) fn accept_paused(&mut self, errno: i32) {
        self.counters.limit_hits.descriptors += 1;
        tracing::warn!(errno, "accepting is paused: no descriptors, no memory, or no room for connections");
        self.wheel.insert(self.now + ACCEPT_RETRY, Timer::Accept);
    }

    /// Bytes of the request's head. Returns how many belong to it once it is complete: those behind are frames.
    pub(super) fn read_head(&mut self, index: u32, bytes: &[u8]) -> Option<usize> {
        let connection = self.connections[index as usize].as_deref_mut()?;
        let Stage::Head(handshake) = &mut connection.stage else { return None };
        match handshake.receive(bytes, self.settings.allowed_origins.as_deref()) {
            Progress::Incomplete => None,
            Progress::Request { request: Request::Upgrade(upgrade), used } => {
                let response = switching_protocols(&upgrade);
                connection.outlet.answer(&response);
                self.open(index);
                Some(used)
            }
            Progress::Request { request: Request::Health, .. } => {
                self.reply_and_end(index, &healthy());
                None
            }
            Progress::Refused(refusal) => {
                let hits = &mut self.counters.limit_hits;
                hits.head_bytes += u64::from(refusal == Refusal::HeadTooLarge);
                hits.head_headers += u64::from(refusal == Refusal::TooManyHeaders);
                self.reply_and_end(index, &refusal.response());
                None
            }
        }
    }

    /// From here on it is WebSocket.
    fn open(&mut self, index: u32) {
        let interval = self.settings.limits.heartbeat_interval;
        // A random half to whole interval, so that those who came together do not ping together.
        let first = interval.mul_f64(0.5 + 0.5 * rand::RngExt::random::<f64>(&mut self.random));
        let deadline = match self.settings.endpoint {
            Endpoint::Tidegate => self.now + self.settings.limits.hello_time,
            Endpoint::Echo => Moment::NEVER,
        };
        let now = self.now;
        let connection = self.at(index);
        connection.stage = Stage::Open;
        connection.deadline = deadline;
        connection.heartbeat = Heartbeat::new(now, first);
        connection.spoke_at = now;
        let wanted = connection.heartbeat.deadline().min(deadline);
        self.arm(index, wanted);
        self.make_due(index);
    }

    /// Says `response`, then closes.
    fn reply_and_end(&mut self, index: u32, response: &[u8]) {
        self.at(index).outlet.answer(response);
        self.begin_closing(index);
    }

    /// The kernel holds nothing of this socket any more.
    pub(super) fn released(&mut self, socket: SocketId) {
        if self.connection(socket).is_none() {
            return;
        }
        let peer = self.at(socket.index).peer;
        self.detach_everything(socket.index);
        self.connections[socket.index as usize] = None;
        self.connection_count -= 1;
        self.counters.closed += 1;
        self.settings.admission.leave(peer);
        self.settings.admission.unplace(self.shard);
        if self.settings.admission.has_room(&self.settings.limits) {
            self.orders.push(Order::ResumeAccept);
        }
    }
}
