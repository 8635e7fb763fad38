//! Everything a shard owns except its kernel: it takes completions and `now`, and leaves orders and sends behind.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::clock::{Moment, WallEpoch};
use crate::fanout::Channel;
use crate::ids::{Offset, ShardId, TopicId};
use crate::kernel::{Handed, SocketId, TcpInfo};
use crate::limits::Limits;
use crate::mesh;
use crate::protocol::envelope::EnvelopeLimits;
use crate::protocol::http::{Endpoint, HeadLimits};
use crate::protocol::websocket::ReceiverLimits;
use crate::session::SessionId;
use crate::shard::admission::Admission;
use crate::shard::connection::Connection;
use crate::shard::directory::Directory;
use crate::shard::message::{Pending, ShardMessage};
use crate::shard::outbox::Outbox;
use crate::shard::wheel::Wheel;
use crate::shard::{Appended, ClassCounters, Counters};
use crate::topic::{Homes, PatternIndex, Registry, Sequences, TopicClass, TopicIndex};

/// How a shard behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The limits.
    pub limits: Limits,
    /// The topic classes; the first that matches is a topic's, and the last matches everything.
    pub classes: Vec<TopicClass>,
    /// Tidegate, or the echo of the conformance tests.
    pub endpoint: Endpoint,
    /// Which pages may connect; `None`: any.
    pub allowed_origins: Option<Vec<String>>,
    /// Which shard is the home of which topic.
    pub homes: Homes,
    /// What all shards admit together.
    pub admission: Arc<Admission>,
    /// Addresses that are exempt from the limits per address: predicate by network.
    pub trusted: Vec<crate::config::IpNetwork>,
}

impl Default for Settings {
    /// The defaults of an engine with one shard.
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            classes: vec![TopicClass::catch_all()],
            endpoint: Endpoint::Tidegate,
            allowed_origins: None,
            homes: Homes::ONE,
            admission: Arc::new(Admission::new(1)),
            trusted: Vec::new(),
        }
    }
}

/// Who is to be told when a topic of a matching name comes into being.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interest {
    pub(super) connection: SocketId,
    pub(super) subscription: u32,
}

/// What a timer of the wheel is for. Whoever it names may be gone by then, or not be due yet: both are checked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timer {
    Connection(SocketId),
    Topic(TopicIndex),
    Sequences,
    Questions,
    Accept,
    Drain,
}

/// What the kernel is to do; carried out by the turn between its phases.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    AwaitWritable(SocketId),
    Pause(SocketId),
    Resume(SocketId),
    Finish(SocketId),
    Close(SocketId),
    Abort(SocketId),
    Probe(SocketId, Probe),
    ResumeAccept,
    StopAccepting,
}

/// Another shard's question that is answered when its replicas have been brought to where the logs were when it came.
#[derive(Clone, Debug)]
pub(super) struct Fence {
    pub(super) shard: ShardId,
    pub(super) question: u64,
    /// Topics, and the heads that they had: later records are not waited for, or a busy topic would put the answer off for ever.
    pub(super) heads: Vec<(TopicId, Offset)>,
}

/// Another shard, as far as its messages tell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Neighbour {
    pub(super) heard_at: Moment,
    /// It owes an answer for too long and has said nothing since: nobody waits for it until it does.
    pub(super) is_silent: bool,
}

/// Why `TCP_INFO` is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Probe {
    /// The heartbeat was not answered.
    Liveness,
    /// Nothing else confirms what was consumed.
    Progress,
}

/// A shard without its kernel.
pub(super) struct Core {
    pub(super) settings: Settings,
    /// Which one of the engine's shards this is.
    pub(super) shard: ShardId,
    /// The ways to the others.
    pub(super) mesh: mesh::Endpoint<ShardMessage>,
    /// What came from the others; empty between turns.
    pub(super) arrived: Vec<(ShardId, ShardMessage)>,
    /// ... and what of it has to wait for the flush; nothing more is taken out of the channels meanwhile.
    pub(super) held_back: Vec<(ShardId, ShardMessage)>,
    /// Topics whose home is another shard.
    pub(super) directory: Directory,
    /// Attachments of replicas made, to number them by.
    pub(super) attachments: u32,
    /// Questions asked of other shards, to number them by.
    pub(super) questions: u64,
    /// Connections that other shards gave away, to be taken by the kernel.
    pub(super) handed: Vec<Handed>,
    /// Clients' operations that wait for answers of other shards, at most one for each connection; and those that waited too long, until
    /// the answers are there.
    pub(super) pending: BTreeMap<u64, Pending>,
    /// No client waits for an earlier question.
    pub(super) first_waited_for: u64,
    /// Whether the wheel holds [`Timer::Questions`].
    pub(super) is_question_timer_armed: bool,
    /// By shard: what is known of its being alive.
    pub(super) neighbours: Vec<Neighbour>,
    /// The questions among them that are about a session: its last one.
    pub(super) claims: HashMap<SessionId, u64>,
    /// Questions of other shards to be answered behind this turn's transfers.
    pub(super) fences: Vec<Fence>,
    /// Topics with a follower that waits for room, or for its first transfer.
    pub(super) lagging: Vec<TopicIndex>,
    /// Topics whose unflushed events hold back the program that the engine runs in.
    pub(super) program_holds: u32,
    /// Publishers that are not read from until there is room on the way to a home.
    pub(super) paused_by_mesh: Vec<(ShardId, SocketId)>,
    pub(super) head_limits: HeadLimits,
    pub(super) receiver_limits: ReceiverLimits,
    pub(super) envelope_limits: EnvelopeLimits,
    pub(super) wall: WallEpoch,
    pub(super) now: Moment,
    pub(super) turn: u64,
    /// By the socket's index.
    pub(super) connections: Vec<Option<Box<Connection>>>,
    pub(super) connection_count: usize,
    pub(super) sessions: HashMap<SessionId, SocketId>,
    pub(super) sequences: Sequences,
    pub(super) topics: Registry,
    /// By the topic's index.
    pub(super) channels: Vec<Channel>,
    pub(super) interests: PatternIndex<Interest>,
    pub(super) wheel: Wheel<Timer>,
    pub(super) fired: Vec<Timer>,
    /// Connections that the flush looks at by themselves, longest waiting first.
    pub(super) due: VecDeque<SocketId>,
    /// Topics with records that were not offered to everyone at their head, longest waiting first.
    pub(super) dirty: Vec<TopicIndex>,
    pub(super) outbox: Outbox,
    /// Whether something follows from one of this turn's sends if it goes whole.
    pub(super) must_settle_soon: bool,
    /// Topics that patches were made from in this turn, whose logs hold encoded runs until its end.
    pub(super) encoded: Vec<TopicIndex>,
    pub(super) orders: Vec<Order>,
    /// Connections that are read from again once this turn's sends are settled.
    pub(super) resumable: Vec<SocketId>,
    pub(super) random: SmallRng,
    pub(super) counters: Counters,
    pub(super) is_draining: bool,
    pub(super) drain_deadline: Moment,
    /// What was appended, if somebody keeps a model of it.
    pub(super) journal: Option<Vec<Appended>>,
    /// Counts dirty topics taken by priority, so that every eighth goes by waiting time.
    pub(super) picks: u32,
}

impl Core {
    pub(super) fn new(settings: Settings, mesh: mesh::Endpoint<ShardMessage>, wall: WallEpoch, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let limits = &settings.limits;
        let neighbours = vec![Neighbour::default(); usize::from(mesh.shard_count())];
        let mut wheel = Wheel::default();
        wheel.insert(Moment::default() + Duration::from_secs(30), Timer::Sequences);
        Self {
            head_limits: HeadLimits::from(limits),
            receiver_limits: ReceiverLimits::from(limits),
            envelope_limits: EnvelopeLimits::from(limits),
            wall,
            now: Moment::default(),
            turn: 0,
            connections: Vec::new(),
            connection_count: 0,
            sessions: HashMap::new(),
            sequences: Sequences::new(limits),
            topics: Registry::of_shard(
                settings.classes.clone(),
                limits,
                random.random(),
                mesh.shard(),
                mesh.shard_count(),
            ),
            shard: mesh.shard(),
            mesh,
            arrived: Vec::new(),
            held_back: Vec::new(),
            directory: Directory::default(),
            attachments: 0,
            questions: 0,
            handed: Vec::new(),
            pending: BTreeMap::new(),
            first_waited_for: 0,
            is_question_timer_armed: false,
            neighbours,
            claims: HashMap::new(),
            fences: Vec::new(),
            lagging: Vec::new(),
            program_holds: 0,
            paused_by_mesh: Vec::new(),
            channels: Vec::new(),
            interests: PatternIndex::default(),
            wheel,
            fired: Vec::new(),
            due: VecDeque::new(),
            dirty: Vec::new(),
            outbox: Outbox::default(),
            must_settle_soon: false,
            encoded: Vec::new(),
            orders: Vec::new(),
            resumable: Vec::new(),
            random,
            counters: Counters {
                classes: vec![ClassCounters::default(); settings.classes.len()],
                ..Counters::default()
            },
            is_draining: false,
            drain_deadline: Moment::NEVER,
            journal: None,
            picks: 0,
            settings,
        }
    }

    /// The connection that holds this socket, unless it is gone.
    pub(super) fn connection(&mut self, socket: SocketId) -> Option<&mut Connection> {
        self.connections.get_mut(socket.index as usize)?.as_deref_mut().filter(|connection| connection.socket == socket)
    }

    /// The connection at an index that the caller's own lists name: they never outlive it.
    pub(super) fn at(&mut self, index: u32) -> &mut Connection {
        self.connections[index as usize].as_deref_mut().expect("lists of a connection are emptied before it goes")
    }

    /// Has the flush look at a connection by itself.
    pub(super) fn make_due(&mut self, index: u32) {
        let connection = self.at(index);
        if !connection.is_due {
            connection.is_due = true;
            let socket = connection.socket;
            self.due.push_back(socket);
        }
    }

    /// Makes sure that the wheel looks at the connection no later than `at`.
    pub(super) fn arm(&mut self, index: u32, at: Moment) {
        let connection = self.at(index);
        if connection.alarm.wants_entry(at) {
            let socket = connection.socket;
            self.wheel.insert(at, Timer::Connection(socket));
        }
    }

    /// Makes sure that the wheel looks at the topic no later than `at`.
    pub(super) fn arm_topic(&mut self, topic: TopicIndex, at: Moment) {
        if self.channels[topic.at()].alarm.wants_entry(at) {
            self.wheel.insert(at, Timer::Topic(topic));
        }
    }

    /// A topic got records, or subscribers that share what it gets.
    pub(super) fn make_dirty(&mut self, topic: TopicIndex) {
        let channel = &mut self.channels[topic.at()];
        if !channel.is_dirty {
            channel.is_dirty = true;
            self.dirty.push(topic);
        }
    }

    /// What `TCP_INFO` says; `None`: the socket is gone.
    pub(super) fn probed(&mut self, socket: SocketId, probe: Probe, info: Option<TcpInfo>) {
        let (Some(info), Some(_)) = (info, self.connection(socket)) else { return };
        match probe {
            Probe::Liveness => self.judge(socket.index, info),
            Probe::Progress => self.confirm_by_transport(socket.index, info),
        }
    }

    /// Whether a flush has more to do than it did.
    pub(super) fn has_work(&self) -> bool {
        !self.due.is_empty() || !self.dirty.is_empty() || !self.held_back.is_empty()
    }

    /// Whether something waits for room on the way to another shard.
    pub(super) fn waits_for_mesh(&self) -> bool {
        self.mesh.has_outgoing()
            || !self.lagging.is_empty()
            || !self.fences.is_empty()
            || !self.paused_by_mesh.is_empty()
    }
}
