//! A topic's side of the fan-out: who is at its head and ready, who is behind, which frames this turn made.
//!
//! Invariant: each subscriber of the topic is in exactly one of the two lists, and its [`Place`](super::Place) says where.
//! Lists are unordered: removing swaps the last entry in, and the caller tells that one its new place.

use crate::fanout::Follower;
use crate::ids::{Offset, ShardId};
use crate::kernel::SocketId;
use crate::topic::Patch;

/// A subscriber that takes shared frames. One of 16 bytes for each, walked in order by the flush.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Index of the connection.
    pub connection: u32,
    /// Index among the connection's subscribers; the top bit: its subscription has options.
    subscriber: u32,
    /// Where the client has been brought to.
    pub cursor: Offset,
}

const HAS_OPTIONS: u32 = 1 << 31;

impl Ready {
    /// An entry.
    #[must_use]
    pub fn new(connection: u32, subscriber: u32, has_options: bool, cursor: Offset) -> Self {
        Self { connection, subscriber: subscriber | if has_options { HAS_OPTIONS } else { 0 }, cursor }
    }

    /// Index among the connection's subscribers.
    #[must_use]
    pub fn subscriber(&self) -> u32 {
        self.subscriber & !HAS_OPTIONS
    }

    /// Whether the subscription has options that may forbid the shared frame.
    #[must_use]
    pub fn has_options(&self) -> bool {
        self.subscriber & HAS_OPTIONS != 0
    }
}

/// A subscriber that waits for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Index of the connection.
    pub connection: u32,
    /// Index among the connection's subscribers.
    pub subscriber: u32,
}

/// What fan-out knows of one topic.
#[derive(Debug, Default)]
pub struct Channel {
    /// At the head, or at the head of the last flush.
    pub ready: Vec<Ready>,
    /// Further behind.
    pub behind: Vec<Behind>,
    /// Where in `ready` the next flush goes on, so that a flush over budget starves nobody.
    pub next: usize,
    /// The head when everyone ready had last been offered it.
    pub flushed: Offset,
    /// Whether records were appended that have not been offered to all of `ready`.
    pub is_dirty: bool,
    /// Frames made in the turn `frames_turn`: the cursor they start from, and their index among the turn's patches.
    frames: Vec<(Offset, u32)>,
    frames_turn: u64,
    /// Publishers that are not read from until the next flush.
    pub paused_publishers: Vec<Publisher>,
    /// No cursor in `behind` is lower; may lag behind the truth, which only keeps more.
    pub lowest_behind: Offset,
    /// Subscribers by exact name; patterns do not keep a topic alive.
    pub exact_subscribers: u32,
    /// When the topic is looked at next.
    pub alarm: crate::clock::Alarm,
    /// Since when the topic is empty and has no exact subscriber.
    pub idle_since: Option<crate::clock::Moment>,
    /// At home: the shards that keep a replica.
    pub followers: Vec<Follower>,
    /// At home: whether some follower waits for room on its way.
    pub is_lagging: bool,
    /// At a replica: the home's frame for everyone at the previous head, to be forwarded untouched.
    pub forwarded: Option<Box<Patch>>,
}

/// Whose publish filled the log with events that are not flushed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publisher {
    /// A client's connection, and the shard that holds it.
    Client(ShardId, SocketId),
    /// The program that the engine runs in.
    Program,
}

impl Channel {
    /// The patch of this turn that starts at `from`.
    #[must_use]
    pub fn frame(&self, from: Offset, turn: u64) -> Option<u32> {
        if self.frames_turn != turn {
            return None;
        }
        self.frames.iter().rev().find(|(start, _)| *start == from).map(|(_, patch)| *patch)
    }

    /// Remembers a patch for the rest of the turn.
    pub fn remember(&mut self, from: Offset, patch: u32, turn: u64) {
        if self.frames_turn != turn {
            self.frames.clear();
            self.frames_turn = turn;
        }
        self.frames.push((from, patch));
    }

    /// Lists a subscriber as behind; returns its index there.
    pub fn push_behind(&mut self, entry: Behind, cursor: Offset) -> u32 {
        self.lowest_behind = if self.behind.is_empty() { cursor } else { self.lowest_behind.min(cursor) };
        self.behind.push(entry);
        index(self.behind.len() - 1)
    }

    /// Lists a subscriber as ready; returns its index there.
    pub fn push_ready(&mut self, entry: Ready) -> u32 {
        self.ready.push(entry);
        index(self.ready.len() - 1)
    }

    /// Takes an entry out of `ready`; returns the one that took its place, if another did.
    pub fn remove_ready(&mut self, at: u32) -> Option<Ready> {
        self.ready.swap_remove(at as usize);
        self.ready.get(at as usize).copied()
    }

    /// Takes an entry out of `behind`; returns the one that took its place, if another did.
    pub fn remove_behind(&mut self, at: u32) -> Option<Behind> {
        self.behind.swap_remove(at as usize);
        self.behind.get(at as usize).copied()
    }

    /// Some subscriber: its connection's index, and its own there.
    #[must_use]
    pub fn any_subscriber(&self) -> Option<(u32, u32)> {
        let ready = self.ready.last().map(|entry| (entry.connection, entry.subscriber()));
        ready.or_else(|| self.behind.last().map(|entry| (entry.connection, entry.subscriber)))
    }

    /// Whether somebody wants the topic to stay, though it may be empty: a subscriber by exact name, here or elsewhere.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.exact_subscribers > 0 || self.followers.iter().any(|follower| follower.is_wanted)
    }

    /// How many subscribers the topic has.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.ready.len() + self.behind.len()
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("connections times topics stay below 2^31 on one shard")
}
