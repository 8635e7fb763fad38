//! The event loop: the only place that knows the whole turn.
//!
//! ```text
//!   kernel ──completions──▶ reap, parse, apply ──▶ expire ──▶ flush ──▶ sends ──▶ one enter ──▶ settle
//!      ▲                        (receive, dispatch, publish)   (gather, offer)         │
//!      └──────────── orders: close, pause, resume, probe ◀──────────────────────────────┘
//! ```
//!
//! `Core` is everything but the kernel: it is given completions and `now`, and leaves orders and sends behind, which
//! [`Shard`] carries out.

#![forbid(unsafe_code)]

mod accept;
mod admission;
mod closing;
mod connection;
mod core;
mod counters;
mod deadlines;
mod directory;
mod dispatch;
mod flush;
mod followers;
mod following;
mod handle;
mod journal;
mod message;
mod outbox;
mod publish;
mod questions;
mod receive;
mod report;
mod resubscribe;
mod settle;
mod subscribe;
pub mod wheel;

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::Receiver;

use crate::clock::{Moment, WallEpoch};
use crate::kernel::{Completion, Held, Kernel, Wait};
use crate::limits::{COMPLETIONS_PER_TURN, PROGRAM_PUBLISHES_PER_TURN};
use crate::mesh::{self, Endpoint, MeshLimits};
use crate::shard::core::{Core, Order};
use crate::topic::Registry;

pub use self::core::Settings;
pub use admission::Admission;
pub use counters::{ClassCounters, Counters, Gauges, Ledger, LimitHits, Report};
pub use handle::{Inlets, Outlets, ShardCommand, ShardHandle, inlets, inlets_of};
pub use journal::{Appended, Unfinished};
pub use message::{Origin, Publish, ShardMessage};
pub use publish::Refused;

/// What the kernel holds so long after the last connection was dropped is reported as a leak.
const GIVE_UP: Duration = Duration::from_secs(2);
/// While something waits for room on the way to another shard, that is looked at so often.
const MESH_LOOK: Duration = Duration::from_millis(1);

/// One shard: its kernel, and everything else.
pub struct Shard<K: Kernel> {
    kernel: K,
    core: Core,
    commands: Receiver<ShardCommand>,
    /// Records of the program that the engine runs in.
    publishes: Receiver<Publish>,
    /// Completions that came with the sends of the last turn.
    inbox: VecDeque<Completion>,
    /// Reused for the pieces of one send.
    pieces: Vec<Bytes>,
    has_completions_left: bool,
}

impl<K: Kernel> Shard<K> {
    /// A shard without connections. `seed` makes its random numbers.
    #[must_use]
    pub fn new(
        kernel: K,
        settings: Settings,
        mesh: Endpoint<ShardMessage>,
        wall: WallEpoch,
        seed: u64,
        inlets: Inlets,
    ) -> Self {
        let Inlets { commands, publishes } = inlets;
        Self {
            kernel,
            core: Core::new(settings, mesh, wall, seed),
            commands,
            publishes,
            inbox: VecDeque::new(),
            pieces: Vec::new(),
            has_completions_left: false,
        }
    }

    /// The only shard of its engine, for a harness; nothing is published to it but by its clients.
    #[must_use]
    pub fn alone(kernel: K, settings: Settings, wall: WallEpoch, seed: u64, commands: Receiver<ShardCommand>) -> Self {
        let mesh = mesh::connect(1, MeshLimits::for_shards(1)).remove(0);
        let inlets = Inlets { commands, publishes: crossbeam_channel::never() };
        Self::new(kernel, settings, mesh, wall, seed, inlets)
    }

    /// One turn at `now`: everything that came is applied, everything that is due is sent, and the kernel is entered
    /// once, to wait until something comes or is due (not at all if `may_wait` is false).
    ///
    /// # Errors
    /// If the kernel's ring is broken.
    pub fn turn(&mut self, now: Moment, may_wait: bool) -> io::Result<()> {
        let wait = self.prepare(now);
        let wait = self.hand_over(wait);
        self.submit(if may_wait { wait } else { Wait::No })
    }

    /// The first part of a turn: all but the sends. Returns how long the last part may wait.
    pub fn prepare(&mut self, now: Moment) -> Wait {
        self.core.now = now;
        self.core.mesh.set_now(now);
        self.core.counters.turns += 1;
        self.reap();
        self.obey();
        self.core.receive_from_shards();
        self.core.expire();
        self.carry_out();
        self.core.flush();
        self.carry_out();
        self.send();
        let is_busy = (self.core.program_holds == 0 && !self.publishes.is_empty())
            || self.has_completions_left
            || self.core.has_work()
            || self.is_drained();
        match self.core.wheel.next().map(|at| at.since(now)) {
            _ if is_busy => Wait::No,
            Some(next) => Wait::AtMost(next),
            None => Wait::Forever,
        }
    }

    /// The second part of a turn: what it has to say to other shards. Returns how long the last part may wait, if it might `wait` so long.
    pub fn hand_over(&mut self, wait: Wait) -> Wait {
        let kernel = &mut self.kernel;
        self.core.mesh.send(|peer| kernel.ring(peer.0));
        self.core.resume_paused_by_mesh();
        match wait {
            _ if self.core.must_settle_soon() => Wait::No,
            Wait::AtMost(next) if self.core.waits_for_mesh() => Wait::AtMost(next.min(MESH_LOOK)),
            Wait::Forever if self.core.waits_for_mesh() => Wait::AtMost(MESH_LOOK),
            wait => wait,
        }
    }

    /// The last part of a turn: one enter, and what the sends came to.
    ///
    /// # Errors
    /// If the kernel's ring is broken.
    pub fn submit(&mut self, wait: Wait) -> io::Result<()> {
        let may_sleep = wait != Wait::No && self.fall_asleep();
        self.kernel.enter(if may_sleep { wait } else { Wait::No })?;
        if may_sleep {
            self.wake_up();
        }
        while let Some(completion) = self.kernel.completion() {
            match completion {
                Completion::Short { socket, taken, errno } => self.core.sent_short(socket, taken, errno),
                other => self.inbox.push_back(other),
            }
        }
        self.core.settle();
        self.carry_out();
        Ok(())
    }

    /// From now on whoever sends something to this shard rings its kernel. False: something came already. Part of
    /// [`Shard::submit`]; a harness whose kernel does not wait calls it when the shard is to sleep.
    #[must_use]
    pub fn fall_asleep(&self) -> bool {
        self.core.mesh.try_sleep()
    }

    /// Nobody needs to ring any more.
    pub fn wake_up(&self) {
        self.core.mesh.wake_up();
    }

    /// What it waits for other shards for.
    #[must_use]
    pub fn unfinished(&self) -> Unfinished {
        self.core.unfinished()
    }

    /// Whether a drain was asked for, everyone is gone and the kernel holds nothing any more; or, when the time for it is
    /// long over, whatever it holds.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let is_empty = self.core.connection_count == 0 && self.kernel.held() == Held::default();
        self.core.is_draining && (is_empty || self.core.now > self.core.drain_deadline + GIVE_UP)
    }

    /// What the kernel holds.
    #[must_use]
    pub fn held(&self) -> Held {
        self.kernel.held()
    }

    /// What it counts and has.
    #[must_use]
    pub fn report(&self) -> Report {
        self.core.report(self.kernel.counters())
    }

    /// The kernel, for a harness that plays the peers.
    #[must_use]
    pub fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// From now on what is appended is kept, until [`Shard::journal`] is asked for it.
    pub fn keep_journal(&mut self) {
        self.core.journal = Some(Vec::new());
    }

    /// What was appended since the last call, in order; nothing without [`Shard::keep_journal`].
    pub fn journal(&mut self) -> Vec<Appended> {
        self.core.journal.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The topics, for a harness that compares them with a model.
    #[must_use]
    pub fn topics(&self) -> &Registry {
        &self.core.topics
    }

    /// Notes how long a turn took, waiting left out.
    pub fn note_turn(&mut self, nanoseconds: u64) {
        let longest = &mut self.core.counters.longest_turn_ns;
        *longest = (*longest).max(nanoseconds);
    }

    /// Queues this turn's sends.
    fn send(&mut self) {
        let outbox = &self.core.outbox;
        for (at, entry) in outbox.entries.iter().enumerate() {
            if let Some(piece) = outbox.only_piece(entry) {
                self.kernel.send(entry.socket, std::slice::from_ref(piece));
                continue;
            }
            outbox.pieces(at as u32, &mut self.pieces);
            self.pieces.retain(|piece| !piece.is_empty());
            self.kernel.send(entry.socket, &self.pieces);
            self.pieces.clear();
        }
    }

    fn reap(&mut self) {
        let mut budget = COMPLETIONS_PER_TURN;
        while budget > 0 {
            let Some(completion) = self.inbox.pop_front().or_else(|| self.kernel.completion()) else { break };
            self.complete(completion);
            budget -= 1;
        }
        self.has_completions_left = budget == 0;
    }

    fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { socket, peer } => {
                let shard = self.core.place();
                if shard == self.core.shard {
                    return self.core.accepted(socket, peer);
                }
                match self.kernel.hand_over(socket) {
                    Some(handed) => self.core.mesh.push(shard, ShardMessage::Connection(handed), 0),
                    // This kernel cannot: it stays here.
                    None => {
                        self.core.settings.admission.replace(shard, self.core.shard);
                        self.core.accepted(socket, peer);
                    }
                }
            }
            Completion::AcceptPaused { errno } => self.core.accept_paused(errno),
            Completion::Received { socket, received } => {
                self.core.received(socket, self.kernel.bytes(&received));
                self.kernel.release(received);
            }
            Completion::Ended { socket, .. } => {
                if self.core.connection(socket).is_some() {
                    self.core.ended(socket.index);
                }
            }
            // Reported by the enter that submitted the send, and taken there.
            Completion::Short { socket, taken, errno } => self.core.sent_short(socket, taken, errno),
            Completion::Writable { socket } => {
                if let Some(connection) = self.core.connection(socket) {
                    connection.outlet.is_blocked = false;
                    self.core.make_due(socket.index);
                }
            }
            Completion::Released { socket } => self.core.released(socket),
            Completion::Woken => {}
        }
    }

    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                ShardCommand::Report(reply) => {
                    // Whoever asked may have given up waiting.
                    let _ = reply.send(self.report());
                }
                ShardCommand::Drain(limit) => self.core.drain(limit),
            }
        }
        // What is not taken fills the channel, which tells the program to slow down.
        for _ in 0..PROGRAM_PUBLISHES_PER_TURN {
            if self.core.program_holds > 0 {
                break;
            }
            let Ok(publish) = self.publishes.try_recv() else { break };
            self.core.publish(publish);
        }
    }

    /// Has the kernel do what the core wants.
    fn carry_out(&mut self) {
        for handed in std::mem::take(&mut self.core.handed) {
            let peer = handed.peer();
            match self.kernel.adopt(handed) {
                Some(socket) => self.core.accepted(socket, peer),
                None => self.core.settings.admission.unplace(self.core.shard),
            }
        }
        while !self.core.orders.is_empty() {
            for order in std::mem::take(&mut self.core.orders) {
                match order {
                    Order::AwaitWritable(socket) => self.kernel.await_writable(socket),
                    Order::Pause(socket) => self.kernel.pause_receive(socket),
                    Order::Resume(socket) => self.kernel.resume_receive(socket),
                    Order::Finish(socket) => self.kernel.finish(socket),
                    Order::Close(socket) => self.kernel.close(socket),
                    Order::Abort(socket) => self.kernel.abort(socket),
                    Order::Probe(socket, probe) => {
                        let info = self.kernel.tcp_info(socket);
                        self.core.probed(socket, probe, info);
                    }
                    Order::ResumeAccept => self.kernel.resume_accept(),
                    Order::StopAccepting => self.kernel.stop_accepting(),
                }
            }
        }
    }
}
