//! One connection as its shard holds it.

use std::net::IpAddr;

use crate::clock::{Alarm, Moment};
use crate::fanout::{Outlet, Subscriber, Subscription};
use crate::kernel::SocketId;
use crate::protocol::http::Handshake;
use crate::protocol::websocket::Receiver;
use crate::session::{Allowance, Heartbeat, Rate, SessionId};

/// How far a connection has come.
pub(super) enum Stage {
    /// The request's head is being read.
    Head(Box<Handshake>),
    /// WebSocket frames.
    Open,
    /// Everything was said; the peer may read it until the deadline.
    Closing,
    /// The kernel was asked to close it.
    Gone,
}

/// Marks a connection that has no send in this turn.
pub(super) const NO_ENTRY: u32 = u32::MAX;

/// One connection. About half a kilobyte; what is rare is boxed.
pub(super) struct Connection {
    pub(super) socket: SocketId,
    pub(super) stage: Stage,
    /// When the stage ends by itself: the head, `Hello`, closing.
    pub(super) deadline: Moment,
    pub(super) receiver: Receiver,
    pub(super) outlet: Outlet,
    pub(super) heartbeat: Heartbeat,
    pub(super) rate: Rate,
    pub(super) session: Option<SessionId>,
    /// When its Hello claimed the session: of several holders, one after the other, this tells which one.
    pub(super) session_since: Moment,
    pub(super) peer: IpAddr,
    pub(super) subscriptions: Vec<Option<Subscription>>,
    pub(super) subscribers: Vec<Subscriber>,
    /// When the client last sent a message (control frames do not count).
    pub(super) spoke_at: Moment,
    /// When something is due for a subscriber that waits for time alone.
    pub(super) wake_at: Moment,
    /// When the wheel looks at this connection.
    pub(super) alarm: Alarm,
    pub(super) rare: Option<Box<Rare>>,
    /// Number of the last ping sent.
    pub(super) pings: u32,
    /// Number of the ping that is the marker; meaningful while the window has a mark.
    pub(super) marker: u32,
    /// Chunks served, to take turns by.
    pub(super) chunks: u32,
    /// Index of this turn's send.
    pub(super) entry: u32,
    /// Order for the next subscription.
    pub(super) subscription_serial: u32,
    /// Bytes that the socket took, for [`Connection::is_unmarked`].
    pub(super) bytes_taken: u64,
    /// In the list of those that the flush looks at.
    pub(super) is_due: bool,
    /// Was not brought to the head in its last turn: pressure windows apply.
    pub(super) is_pressed: bool,
    /// Reading is paused because answers wait.
    pub(super) is_paused_by_answers: bool,
    /// So many topics pause reading, because events that it published to them wait for a flush.
    pub(super) flush_holds: u32,
    /// Reading is paused because it publishes faster than it may.
    pub(super) is_paused_by_rate: bool,
    /// Reading is paused because the way to a topic's home is full.
    pub(super) is_paused_by_mesh: bool,
    /// Other shards are being asked; what it sent meanwhile waits, so that it stays in order.
    pub(super) is_held: bool,
    /// Other shards remember sequences of its session.
    pub(super) has_sequences_elsewhere: bool,
    /// Exempt from the limits per address.
    pub(super) is_trusted: bool,
    /// Answers no marker though frames come: confirmed from `TCP_INFO`.
    pub(super) is_unmarked: bool,
    /// It answered a marker: one that is answered late is no sign that pongs do not come through.
    pub(super) has_ponged: bool,
    /// A frame came since the marker was sent.
    pub(super) heard_since_mark: bool,
    /// `LIMIT_REACHED` for matched topics was said.
    pub(super) told_matched_limit: bool,
    /// FIN was sent.
    pub(super) is_finished: bool,
}

/// What few connections have.
#[derive(Default)]
pub(super) struct Rare {
    /// The latest client ping that came while too much waited to answer each: see [`crate::limits::PONG_BYTES`].
    pub(super) pong: Option<Box<[u8]>>,
    /// What it may be sent again: it subscribed to what it was subscribed to, or gave a subscription up.
    pub(super) resent: Option<Allowance>,
}

const _: () = assert!(size_of::<Connection>() <= 384, "one for each connection, in the allocator's class of that size");

impl Connection {
    pub(super) fn new(socket: SocketId, peer: IpAddr, handshake: Handshake, now: Moment, deadline: Moment) -> Self {
        Self {
            socket,
            stage: Stage::Head(Box::new(handshake)),
            deadline,
            receiver: Receiver::default(),
            outlet: Outlet::default(),
            heartbeat: Heartbeat::new(Moment::NEVER, std::time::Duration::ZERO),
            rate: Rate::default(),
            session: None,
            session_since: Moment::default(),
            peer,
            subscriptions: Vec::new(),
            subscribers: Vec::new(),
            spoke_at: now,
            wake_at: Moment::NEVER,
            alarm: Alarm::default(),
            rare: None,
            pings: 0,
            marker: 0,
            chunks: 0,
            entry: NO_ENTRY,
            subscription_serial: 0,
            bytes_taken: 0,
            is_due: false,
            is_pressed: false,
            is_paused_by_answers: false,
            flush_holds: 0,
            is_paused_by_rate: false,
            is_paused_by_mesh: false,
            is_held: false,
            has_sequences_elsewhere: false,
            is_trusted: false,
            is_unmarked: false,
            has_ponged: false,
            heard_since_mark: false,
            told_matched_limit: false,
            is_finished: false,
        }
    }

    /// The ping that has not been answered, which it is now, or never will be.
    pub(super) fn take_pong(&mut self) -> Option<Box<[u8]>> {
        self.rare.as_mut()?.pong.take()
    }

    /// What it may be sent again, if it subscribes again.
    pub(super) fn resent(&mut self) -> Option<&mut Allowance> {
        self.rare.as_mut()?.resent.as_mut()
    }

    /// From now on what it is sent again is counted.
    pub(super) fn subscribes_again(&mut self) -> &mut Allowance {
        self.rare.get_or_insert_default().resent.get_or_insert_default()
    }

    /// Whether it speaks WebSocket and nothing has ended it.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// Whether reading from it is paused, whyever.
    pub(super) fn is_paused(&self) -> bool {
        self.is_paused_by_answers
            || self.flush_holds > 0
            || self.is_paused_by_rate
            || self.is_paused_by_mesh
            || self.is_held
    }
}
