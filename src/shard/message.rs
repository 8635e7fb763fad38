//! What shards say to each other.
//!
//! Between two shards messages keep their order, and several rules stand on that: a topic's `Created` comes before its transfers, and a
//! `FenceReached` behind everything that its home had to say when it was asked.

use crossbeam_channel::Sender;

use crate::clock::Moment;
use crate::ids::{Epoch, ShardId, TopicId};
use crate::kernel::{Handed, SocketId};
use crate::protocol::wire::Published;
use crate::session::SessionId;
use crate::shard::publish::Refused;
use crate::topic::{Knowledge, NewRecord, Pattern, TopicName, Transfer};

/// One message; a turn's messages for one shard travel as one batch.
#[derive(Debug)]
pub enum ShardMessage {
    /// To a topic's home: a publish.
    Publish(Box<Publish>),
    /// To the publisher's shard: what came of it.
    Published {
        /// Who published.
        connection: SocketId,
        /// Its request.
        request: u64,
        /// The answer.
        outcome: Result<Published, Refused>,
    },
    /// To the publisher's shard: too many events wait for the home's flush; do not read from this connection.
    HoldPublisher(SocketId),
    /// ... it may go on.
    ReleasePublisher(SocketId),
    /// To everyone: a topic came into being at its home.
    Created {
        /// Its name.
        name: TopicName,
        /// As clients know it.
        id: TopicId,
        /// This life of it.
        epoch: Epoch,
    },
    /// To everyone: a topic is no more.
    Forgotten(TopicId),
    /// To the home: here are subscribers; keep this shard's replica at the head.
    Attach {
        /// Of which topic.
        topic: TopicId,
        /// Goes back with each transfer.
        generation: u32,
    },
    /// To the home: there have been no subscribers for a while.
    Detach {
        /// Of which topic.
        topic: TopicId,
        /// Which attachment ends.
        generation: u32,
    },
    /// To the home: whether subscribers by exact name are here, which keep the topic alive.
    Wanted {
        /// Which topic.
        topic: TopicId,
        /// By which attachment.
        generation: u32,
        /// Whether there are any.
        is_wanted: bool,
    },
    /// To a follower: what moves its replica.
    Transfer {
        /// Of which topic.
        topic: TopicId,
        /// For which attachment.
        generation: u32,
        /// Records, deadlines, fates.
        transfer: Box<Transfer>,
    },
    /// To a home: answer when everything that you have to say by now is on its way.
    Fence {
        /// Which question of the asking shard.
        question: u64,
        /// The asker's replicas of the topics that match must have been brought to where their logs are now.
        pattern: Pattern,
    },
    /// The answer.
    FenceReached {
        /// Which question.
        question: u64,
    },
    /// To everyone: a client shows this session; whoever holds it lets it go.
    Claim {
        /// Which question of the asking shard.
        question: u64,
        /// The session.
        session: SessionId,
        /// When it was shown.
        at: Moment,
    },
    /// The answer.
    Claimed {
        /// Which question.
        question: u64,
        /// What is known of the session's sequences there.
        knowledge: Knowledge,
    },
    /// To everyone: the session's connection is gone.
    SessionEnded {
        /// The session.
        session: SessionId,
        /// When that connection had claimed it.
        since: Moment,
        /// When it went.
        at: Moment,
    },
    /// To the least loaded shard: a connection that was just accepted.
    Connection(Handed),
    /// To everyone: what this session published here had to be forgotten for want of room.
    SequencesForgotten(SessionId),
}

/// Approximate bytes that a message alone keeps alive until it is read: often it is the only one of its batch, and a vector begins with
/// room for four.
pub(super) const SAID_BYTES: usize = 4 * size_of::<ShardMessage>() + 64;

/// ... and one that asks, with what waits for the answer.
pub(super) const ASKED_BYTES: usize = SAID_BYTES + size_of::<Pending>();

/// Who published, and is told what came of it.
#[derive(Debug)]
pub enum Origin {
    /// A client.
    Client {
        /// The shard that holds its connection.
        shard: ShardId,
        /// Its connection.
        connection: SocketId,
        /// Its request; 0: it wants to hear only of errors.
        request: u64,
        /// Its session.
        session: SessionId,
        /// When it claimed that.
        since: Moment,
        /// 0: none.
        sequence: u64,
    },
    /// The program that the engine runs in; with `None` it does not want to hear.
    Program(Option<Sender<Result<Published, Refused>>>),
}

/// Records on their way to their topic's home: parsed, with their windows begun.
#[derive(Debug)]
pub struct Publish {
    /// Whence they come.
    pub origin: Origin,
    /// Where to.
    pub topic: TopicName,
    /// What; or what is wrong with it, which the home has to know as it uses the sequence up.
    pub records: Result<Vec<NewRecord>, Refused>,
    /// Whether they are the whole keyed state.
    pub replace: bool,
    /// When they were parsed: their windows start here.
    pub at: Moment,
}

impl Publish {
    /// Approximate bytes that it keeps alive.
    pub(super) fn weight(&self) -> usize {
        let records = self.records.as_deref().unwrap_or_default().iter();
        let bytes = |record: &NewRecord| size_of::<NewRecord>() + record.key.len() + record.value.len();
        size_of::<Self>() + self.topic.as_str().len() + records.map(bytes).sum::<usize>()
    }
}

/// A client's operation that waits for other shards; nothing more is read from the client until then.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) connection: SocketId,
    /// Since when.
    pub(super) asked_at: Moment,
    /// Who has not answered.
    pub(super) missing: Vec<ShardId>,
    pub(super) operation: Operation,
}

/// What goes on when the answers are there.
#[derive(Debug)]
pub(super) enum Operation {
    Subscribe {
        request: u64,
        subscribe: crate::protocol::wire::Subscribe,
        /// A home that may know more did not answer in time.
        is_unsure: bool,
    },
    Hello {
        request: u64,
        credit_bytes: u64,
        session: SessionId,
        /// When it was shown.
        at: Moment,
        knowledge: Knowledge,
    },
    /// A Hello whose session another connection showed meanwhile. What it is still told of that is for its taker, if that waits here.
    TakenOver(SessionId),
    /// A Subscribe to this topic or pattern that went on without every answer. One whose position a replica here had not reached is answered
    /// when the home has told.
    Subscribed(String),
    /// A Hello that went on without every answer. Until they are there its claim stands against those of other shards.
    Welcomed { session: SessionId, knowledge: Knowledge },
}

impl Operation {
    /// Whether the client waits for it.
    pub(super) fn is_waited_for(&self) -> bool {
        matches!(self, Self::Subscribe { .. } | Self::Hello { .. })
    }

    /// Adds what another shard knows.
    pub(super) fn add(&mut self, more: Knowledge) {
        if let Self::Hello { knowledge, .. } | Self::Welcomed { knowledge, .. } = self {
            *knowledge = knowledge.and(more);
        }
    }
}

/// Where a topic that matches a subscription is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// On this shard, at home or as a replica.
    Here(crate::topic::TopicIndex),
    /// On this shard, as a replica that may lack what its home has acknowledged: the home does not answer.
    Lagging(crate::topic::TopicIndex),
    /// Elsewhere, without a replica here yet.
    Elsewhere(TopicId),
}
