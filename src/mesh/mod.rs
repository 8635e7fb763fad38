//! The ways between shards: for each ordered pair one bounded lock-free channel, and for each shard a doorbell.
//!
//! ```text
//!   shard a                                                     shard b
//!   push ─▶ this turn's batch ─ send ─▶ [ channel a → b ] ─▶ drain ─▶ messages, in order
//!               │  (no room: it waits, and goes first)              ▲
//!               └─ announce ─▶ [ doorbell of b ] ─ ring, if b sleeps┘
//! ```
//!
//! A turn's messages for one shard travel as one batch. Nothing here knows what the messages are, and nothing grows without a
//! bound: patches are pushed only where [`Endpoint::admits_patch`] says so, and whoever publishes pauses while
//! [`Endpoint::is_backed_up`]; to a shard that says nothing no question is put while it [`Endpoint::is_overasked`]. What else there
//! is comes once in the life of a topic or a connection.

#![forbid(unsafe_code)]

mod doorbell;
#[cfg(test)]
mod tests;

/// What the doorbell is made of; a test that explores every interleaving puts its own in this place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
}

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::clock::Moment;
use crate::ids::ShardId;
use doorbell::Doorbell;

/// How much may be on the way between two shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshLimits {
    /// Batches in one channel; patches fill at most half of them.
    pub batches: usize,
    /// Bytes of patches that were pushed and not yet taken out.
    pub patch_bytes: usize,
    /// ... and of publishes: beyond them their publishers pause.
    pub publish_bytes: usize,
    /// ... and of questions: beyond them a shard that says nothing is asked nothing more.
    pub question_bytes: usize,
    /// Bytes of one transfer to a replica that is behind.
    pub transfer_bytes: usize,
    /// A replica that was sent so many and was brought to no moment of its home's state is sent all the rest at once: its home
    /// appends faster than single transfers carry.
    pub catch_up_bytes: usize,
}

impl MeshLimits {
    /// Those of an engine with so many shards: channels grow with the square of their number, so each gets shorter.
    #[must_use]
    pub fn for_shards(shards: u16) -> Self {
        Self {
            batches: (1_024 / usize::from(shards.max(1))).max(16),
            patch_bytes: 4 * 1024 * 1024,
            publish_bytes: 4 * 1024 * 1024,
            question_bytes: 4 * 1024 * 1024,
            transfer_bytes: 1024 * 1024,
            catch_up_bytes: 4 * 1024 * 1024,
        }
    }
}

/// The messages of one turn for one shard.
#[derive(Debug)]
struct Batch<T> {
    messages: Vec<T>,
    patch_bytes: usize,
    publish_bytes: usize,
    question_bytes: usize,
}

impl<T> Batch<T> {
    const EMPTY: Self = Self { messages: Vec::new(), patch_bytes: 0, publish_bytes: 0, question_bytes: 0 };
}

/// What was pushed and not taken out at the other end, in bytes.
#[derive(Debug, Default)]
struct Underway {
    patch_bytes: AtomicUsize,
    publish_bytes: AtomicUsize,
    question_bytes: AtomicUsize,
}

impl Underway {
    fn take_out<T>(&self, batch: &Batch<T>) {
        self.patch_bytes.fetch_sub(batch.patch_bytes, Ordering::Relaxed);
        self.publish_bytes.fetch_sub(batch.publish_bytes, Ordering::Relaxed);
        self.question_bytes.fetch_sub(batch.question_bytes, Ordering::Relaxed);
    }
}

/// The way to another shard.
#[derive(Debug)]
struct Outgoing<T> {
    /// This turn's.
    batch: Batch<T>,
    /// Earlier turns' that found no room.
    left_over: VecDeque<Batch<T>>,
    channel: Sender<Batch<T>>,
    /// Batches that were put into the channel.
    sent: u64,
    /// Those of them that had been taken out when that was last seen to have grown, or that nothing waited; and when.
    taken: u64,
    taken_at: Moment,
    underway: Arc<Underway>,
}

/// The way from another shard.
#[derive(Debug)]
struct Incoming<T> {
    channel: Receiver<Batch<T>>,
    underway: Arc<Underway>,
}

/// One shard's ends of all its ways.
#[derive(Debug)]
pub struct Endpoint<T> {
    shard: ShardId,
    limits: MeshLimits,
    /// That of the present turn.
    now: Moment,
    doorbells: Arc<[Doorbell]>,
    /// By shard; none to itself.
    outgoing: Vec<Option<Outgoing<T>>>,
    incoming: Vec<Option<Incoming<T>>>,
}

/// The ways between so many shards: one endpoint for each, in order.
#[must_use]
pub fn connect<T>(shards: u16, limits: MeshLimits) -> Vec<Endpoint<T>> {
    let count = usize::from(shards);
    let doorbells: Arc<[Doorbell]> = (0..count).map(|_| Doorbell::new(count)).collect();
    let mut endpoints: Vec<_> = (0..shards)
        .map(|shard| Endpoint {
            shard: ShardId(shard),
            limits,
            now: Moment::default(),
            doorbells: doorbells.clone(),
            outgoing: (0..count).map(|_| None).collect(),
            incoming: (0..count).map(|_| None).collect(),
        })
        .collect();
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            let (sender, receiver) = bounded(limits.batches);
            let underway = Arc::<Underway>::default();
            endpoints[from].outgoing[to] = Some(Outgoing {
                batch: Batch::EMPTY,
                left_over: VecDeque::new(),
                channel: sender,
                sent: 0,
                taken: 0,
                taken_at: Moment::default(),
                underway: underway.clone(),
            });
            endpoints[to].incoming[from] = Some(Incoming { channel: receiver, underway });
        }
    }
    endpoints
}

impl<T> Endpoint<T> {
    /// Whose it is.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// How many shards there are, this one among them.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        u16::try_from(self.doorbells.len()).expect("connect was asked for as many")
    }

    /// How much may be on the way.
    #[must_use]
    pub fn limits(&self) -> &MeshLimits {
        &self.limits
    }

    /// Puts a message into this turn's batch for another shard. `patch_bytes`: what it weighs if it is a patch, else 0.
    ///
    /// # Panics
    /// If `to` is this shard.
    pub fn push(&mut self, to: ShardId, message: T, patch_bytes: usize) {
        let way = self.outgoing[usize::from(to.0)].as_mut().expect("a shard says nothing to itself");
        way.batch.messages.push(message);
        way.batch.patch_bytes += patch_bytes;
        way.underway.patch_bytes.fetch_add(patch_bytes, Ordering::Relaxed);
    }

    /// As [`Endpoint::push`], for a publish that weighs so much.
    ///
    /// # Panics
    /// If `to` is this shard.
    pub fn push_publish(&mut self, to: ShardId, message: T, publish_bytes: usize) {
        self.push(to, message, 0);
        let way = self.outgoing[usize::from(to.0)].as_mut().expect("it was just there");
        way.batch.publish_bytes += publish_bytes;
        way.underway.publish_bytes.fetch_add(publish_bytes, Ordering::Relaxed);
    }

    /// As [`Endpoint::push`], for a question that keeps so much alive until it is answered.
    ///
    /// # Panics
    /// If `to` is this shard.
    pub fn push_question(&mut self, to: ShardId, message: T, question_bytes: usize) {
        self.push(to, message, 0);
        let way = self.outgoing[usize::from(to.0)].as_mut().expect("it was just there");
        way.batch.question_bytes += question_bytes;
        way.underway.question_bytes.fetch_add(question_bytes, Ordering::Relaxed);
    }

    /// Bytes of patches, publishes and questions that other shards have not taken out yet.
    #[must_use]
    pub fn underway_bytes(&self) -> usize {
        let ways = self.outgoing.iter().flatten().map(|way| &way.underway);
        let bytes = |way: &Arc<Underway>| {
            let all = [&way.patch_bytes, &way.publish_bytes, &way.question_bytes];
            all.into_iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum::<usize>()
        };
        ways.map(bytes).sum()
    }

    /// Whether a patch for another shard finds room: half of the channel's, and [`MeshLimits::patch_bytes`] on the way.
    #[must_use]
    pub fn admits_patch(&self, to: ShardId) -> bool {
        self.outgoing[usize::from(to.0)].as_ref().is_some_and(|way| {
            way.left_over.is_empty()
                && way.channel.len() < self.limits.batches / 2
                && way.underway.patch_bytes.load(Ordering::Relaxed) < self.limits.patch_bytes
        })
    }

    /// Whether an earlier turn's messages for another shard found no room, or as many publishes are on the way as may be: whoever
    /// causes more of them must pause.
    #[must_use]
    pub fn is_backed_up(&self, to: ShardId) -> bool {
        self.outgoing[usize::from(to.0)].as_ref().is_some_and(|way| {
            !way.left_over.is_empty() || way.underway.publish_bytes.load(Ordering::Relaxed) >= self.limits.publish_bytes
        })
    }

    /// Whether as many questions are on the way to another shard as may wait for one that says nothing.
    #[must_use]
    pub fn is_overasked(&self, to: ShardId) -> bool {
        self.outgoing[usize::from(to.0)]
            .as_ref()
            .is_some_and(|way| way.underway.question_bytes.load(Ordering::Relaxed) >= self.limits.question_bytes)
    }

    /// A turn begins.
    pub fn set_now(&mut self, now: Moment) {
        self.now = now;
    }

    /// How long something has waited for another shard of which it took nothing; zero if nothing waits.
    pub fn unread_for(&mut self, by: ShardId) -> Duration {
        self.outgoing[usize::from(by.0)].as_mut().map_or(Duration::ZERO, |way| {
            way.look(self.now);
            self.now.since(way.taken_at)
        })
    }

    /// Whether anything waits to be sent.
    #[must_use]
    pub fn has_outgoing(&self) -> bool {
        self.outgoing.iter().flatten().any(|way| !way.left_over.is_empty() || !way.batch.messages.is_empty())
    }

    /// Hands this turn's batches over, behind those that are left over; `ring` wakes those who sleep. What is for a shard that
    /// has ended is dropped.
    pub fn send(&mut self, mut ring: impl FnMut(ShardId)) {
        let me = usize::from(self.shard.0);
        for (to, way) in self.outgoing.iter_mut().enumerate() {
            if way.as_mut().is_some_and(|way| way.send(self.now)) && self.doorbells[to].announce(me) {
                ring(ShardId(u16::try_from(to).expect("connect was asked for as many")));
            }
        }
    }

    /// Takes out everything that came, in the order of each sender.
    pub fn drain(&mut self, into: &mut Vec<(ShardId, T)>) {
        let incoming = &self.incoming;
        self.doorbells[usize::from(self.shard.0)].take_senders(|from| {
            let Some(way) = &incoming[from] else { return };
            let sender = ShardId(u16::try_from(from).expect("connect was asked for as many"));
            while let Ok(batch) = way.channel.try_recv() {
                way.underway.take_out(&batch);
                into.extend(batch.messages.into_iter().map(|message| (sender, message)));
            }
        });
    }

    /// Before sleeping. True: whoever sends something from now on rings. False: something came already.
    #[must_use]
    pub fn try_sleep(&self) -> bool {
        self.doorbells.len() == 1 || self.doorbells[usize::from(self.shard.0)].try_sleep()
    }

    /// After sleeping: nobody needs to ring.
    pub fn wake_up(&self) {
        self.doorbells[usize::from(self.shard.0)].wake_up();
    }
}

impl<T> Outgoing<T> {
    /// Looks what was taken out of the channel.
    fn look(&mut self, now: Moment) {
        let waiting = self.channel.len() as u64;
        let taken = self.sent - waiting;
        if waiting == 0 || taken > self.taken {
            (self.taken, self.taken_at) = (taken, now);
        }
    }

    /// Sends what finds room. True if something did.
    fn send(&mut self, now: Moment) -> bool {
        if self.batch.messages.is_empty() && self.left_over.is_empty() {
            return false;
        }
        self.look(now);
        if !self.batch.messages.is_empty() {
            self.left_over.push_back(std::mem::replace(&mut self.batch, Batch::EMPTY));
        }
        let mut is_sent = false;
        while let Some(batch) = self.left_over.pop_front() {
            match self.channel.try_send(batch) {
                Ok(()) => {
                    self.sent += 1;
                    is_sent = true;
                }
                Err(TrySendError::Full(batch)) => {
                    self.left_over.push_front(batch);
                    break;
                }
                Err(TrySendError::Disconnected(batch)) => self.underway.take_out(&batch),
            }
        }
        is_sent
    }
}
