//! Idempotence: the last sequence of each publishing session in each topic.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::clock::Moment;
use crate::ids::{Offset, TopicId};
use crate::limits::{Limits, SESSION_ID_BYTES};

/// A session's secret number.
pub type SessionId = [u8; SESSION_ID_BYTES];

/// Whether a publish was seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceCheck {
    /// Above the last one: to be applied, and noted.
    New,
    /// Not above the last one. If it is the last one, with its offset.
    Duplicate {
        /// What the publish was acknowledged with.
        offset: Option<Offset>,
    },
}

/// What is remembered of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// It published nothing with a sequence, or that is forgotten.
    Nothing,
    /// Every sequence.
    Complete,
    /// Some of its sequences were forgotten for want of room.
    Incomplete,
}

impl Knowledge {
    /// With what another one knows, who knows of other sequences.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Incomplete, _) | (_, Self::Incomplete) => Self::Incomplete,
            (Self::Complete, _) | (_, Self::Complete) => Self::Complete,
            (Self::Nothing, Self::Nothing) => Self::Nothing,
        }
    }
}

/// Remembers sequences while their session lives and some time after, within a limit.
#[derive(Debug)]
pub struct Sequences {
    limit: usize,
    memory: Duration,
    last: BTreeMap<(SessionId, TopicId), Last>,
    /// Uses, oldest first: who publishes keeps its place.
    by_use: BTreeMap<u64, (SessionId, TopicId)>,
    uses: u64,
    sessions: HashMap<SessionId, Session>,
    /// Sessions that ended, by when they are forgotten.
    ended: BTreeSet<(Moment, SessionId)>,
    evicted: u64,
    /// See [`Sequences::take_forgotten`].
    forgotten: Vec<SessionId>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    sequence: u64,
    offset: Offset,
    used: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Session {
    topics: usize,
    /// One of its sequences was evicted; stays until the session is forgotten.
    is_incomplete: bool,
    forget_at: Option<Moment>,
    /// When it was given to the last connection that is known of. What an earlier one says of its end comes late.
    held_since: Moment,
}

impl Sequences {
    /// None yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            limit: limits.sequences.max(1),
            memory: limits.sequence_memory,
            last: BTreeMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            sessions: HashMap::new(),
            ended: BTreeSet::new(),
            evicted: 0,
            forgotten: Vec::new(),
        }
    }

    /// Whether a publish with that sequence (not 0) is new.
    #[must_use]
    pub fn check(&self, session: SessionId, topic: TopicId, sequence: u64) -> SequenceCheck {
        match self.last.get(&(session, topic)) {
            Some(last) if sequence == last.sequence => SequenceCheck::Duplicate { offset: Some(last.offset) },
            Some(last) if sequence < last.sequence => SequenceCheck::Duplicate { offset: None },
            _ => SequenceCheck::New,
        }
    }

    /// Remembers a new sequence and what it is acknowledged with; [`Offset::ZERO`] for a lasting refusal, which uses the
    /// number up. Its publisher has held the session since `since`.
    pub fn note(&mut self, session: SessionId, since: Moment, topic: TopicId, sequence: u64, offset: Offset) {
        self.session_resumed(session, since);
        self.uses += 1;
        let used = self.uses;
        match self.last.insert((session, topic), Last { sequence, offset, used }) {
            Some(before) => _ = self.by_use.remove(&before.used),
            None => {
                let fresh = Session { held_since: since, ..Session::default() };
                self.sessions.entry(session).or_insert(fresh).topics += 1;
            }
        }
        self.by_use.insert(used, (session, topic));
        while self.last.len() > self.limit {
            self.evict();
        }
    }

    /// The connection that held the session since `since` is gone: its sequences are kept for [`Limits::sequence_memory`]; unless
    /// another one took it over, which may have been heard of before.
    pub fn session_ended(&mut self, session: SessionId, since: Moment, now: Moment) {
        let Some(state) = self.sessions.get_mut(&session).filter(|state| state.held_since <= since) else { return };
        // Also if all were evicted: that is to be known as long as other homes vouch for theirs.
        if state.forget_at.is_none() {
            let forget_at = now + self.memory;
            state.forget_at = Some(forget_at);
            self.ended.insert((forget_at, session));
        }
    }

    /// The session goes on, on a connection that holds it since `since`.
    pub fn session_resumed(&mut self, session: SessionId, since: Moment) {
        let Some(state) = self.sessions.get_mut(&session).filter(|state| state.held_since <= since) else { return };
        state.held_since = since;
        if let Some(forget_at) = state.forget_at.take() {
            self.ended.remove(&(forget_at, session));
        }
    }

    /// What is known of the sequences that were published under it.
    #[must_use]
    pub fn knowledge(&self, session: SessionId) -> Knowledge {
        match self.sessions.get(&session) {
            None => Knowledge::Nothing,
            Some(state) if state.is_incomplete => Knowledge::Incomplete,
            Some(_) => Knowledge::Complete,
        }
    }

    /// Another shard had to forget what this session published there, so what is known here is not all.
    pub fn forgotten_elsewhere(&mut self, session: SessionId) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.is_incomplete = true;
        }
    }

    /// Sessions that were forgotten whole for want of room since the last call.
    pub fn take_forgotten(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.forgotten)
    }

    /// Forgets sessions whose time after their end is over.
    pub fn expire(&mut self, now: Moment) {
        while let Some(&(forget_at, session)) = self.ended.first()
            && forget_at <= now
        {
            self.forget(session);
        }
    }

    /// When [`Sequences::expire`] has something to do next.
    #[must_use]
    pub fn next_expiry(&self) -> Moment {
        self.ended.first().map_or(Moment::NEVER, |&(forget_at, _)| forget_at)
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.last.len()
    }

    /// True if none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// How many were forgotten early, for want of room.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Takes a whole session that ended, the first to be forgotten anyway; else the sequence not used for longest.
    fn evict(&mut self) {
        self.evicted += 1;
        if let Some(&(_, session)) = self.ended.first() {
            self.forget(session);
            self.forgotten.push(session);
            return;
        }
        let (_, key) = self.by_use.pop_first().expect("each sequence has its last use");
        self.last.remove(&key);
        let state = self.sessions.get_mut(&key.0).expect("a sequence's session is known");
        state.topics -= 1;
        state.is_incomplete = true;
    }

    fn forget(&mut self, session: SessionId) {
        let all_topics = (session, TopicId(0))..=(session, TopicId(u32::MAX));
        let gone: Vec<_> = self.last.range(all_topics).map(|(&key, last)| (key, last.used)).collect();
        for (key, used) in gone {
            self.last.remove(&key);
            self.by_use.remove(&used);
        }
        if let Some(Session { forget_at: Some(forget_at), .. }) = self.sessions.remove(&session) {
            self.ended.remove(&(forget_at, session));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: SessionId = [1; 16];
    const BOB: SessionId = [2; 16];
    const A: TopicId = TopicId(1);
    const B: TopicId = TopicId(2);

    fn sequences(limit: usize) -> Sequences {
        Sequences::new(&Limits { sequences: limit, sequence_memory: Duration::from_nanos(100), ..Limits::default() })
    }

    #[test]
    fn a_sequence_counts_once_per_session_and_topic() {
        let mut sequences = sequences(10);
        assert_eq!(sequences.check(ALICE, A, 5), SequenceCheck::New);
        sequences.note(ALICE, Moment(0), A, 5, Offset(9));
        assert_eq!(sequences.check(ALICE, A, 5), SequenceCheck::Duplicate { offset: Some(Offset(9)) });
        assert_eq!(sequences.check(ALICE, A, 4), SequenceCheck::Duplicate { offset: None });
        assert_eq!(sequences.check(ALICE, A, 6), SequenceCheck::New);
        assert_eq!(sequences.check(ALICE, B, 5), SequenceCheck::New);
        assert_eq!(sequences.check(BOB, A, 5), SequenceCheck::New);
    }

    #[test]
    fn a_session_is_known_for_its_time_after_the_end_and_longer_if_it_resumes() {
        let mut sequences = sequences(10);
        sequences.note(ALICE, Moment(0), A, 1, Offset(1));
        sequences.session_ended(ALICE, Moment(0), Moment(1_000));
        sequences.expire(Moment(1_099));
        assert_eq!(sequences.knowledge(ALICE), Knowledge::Complete);
        sequences.session_resumed(ALICE, Moment(1_050));
        assert_eq!(sequences.next_expiry(), Moment::NEVER);
        sequences.expire(Moment(5_000));
        assert_eq!(sequences.knowledge(ALICE), Knowledge::Complete);
        sequences.session_ended(ALICE, Moment(1_050), Moment(6_000));
        assert_eq!(sequences.next_expiry(), Moment(6_100));
        sequences.expire(Moment(6_100));
        assert_eq!(sequences.knowledge(ALICE), Knowledge::Nothing);
        assert!(sequences.is_empty() && sequences.by_use.is_empty() && sequences.ended.is_empty());
        assert_eq!(sequences.check(ALICE, A, 1), SequenceCheck::New);
    }

    #[test]
    fn the_least_used_sequence_goes_first_and_its_session_is_no_longer_known() {
        let mut sequences = sequences(2);
        sequences.note(ALICE, Moment(0), A, 1, Offset(1));
        sequences.note(BOB, Moment(0), A, 1, Offset(2));
        sequences.note(ALICE, Moment(0), A, 2, Offset(3));
        sequences.note(ALICE, Moment(0), B, 1, Offset(4));
        assert_eq!((sequences.len(), sequences.evicted()), (2, 1));
        assert_eq!(sequences.knowledge(ALICE), Knowledge::Complete);
        assert_ne!(sequences.knowledge(BOB), Knowledge::Complete);
        sequences.note(BOB, Moment(0), B, 1, Offset(5));
        assert_eq!(
            sequences.knowledge(BOB),
            Knowledge::Incomplete,
            "what it published to the first topic is still forgotten"
        );
    }

    #[test]
    fn that_all_of_a_session_was_forgotten_is_known_as_long_as_what_others_know_of_it() {
        let mut sequences = sequences(1);
        sequences.note(ALICE, Moment(0), A, 1, Offset(1));
        sequences.note(BOB, Moment(0), A, 1, Offset(2));
        sequences.session_ended(ALICE, Moment(0), Moment(1_000));
        sequences.expire(Moment(1_099));
        assert_eq!(sequences.knowledge(ALICE), Knowledge::Incomplete);
        sequences.expire(Moment(1_100));
        assert_eq!(sequences.knowledge(ALICE), Knowledge::Nothing);
        // For want of room it goes first, and everyone is told.
        sequences.note(ALICE, Moment(2_000), A, 1, Offset(3));
        sequences.session_ended(BOB, Moment(0), Moment(2_000));
        sequences.note(ALICE, Moment(2_000), B, 1, Offset(4));
        assert_eq!((sequences.len(), sequences.knowledge(BOB)), (1, Knowledge::Nothing));
        assert_eq!(sequences.take_forgotten(), [BOB]);
    }

    #[test]
    fn sessions_that_ended_make_room_before_those_that_publish() {
        let mut sequences = sequences(2);
        sequences.note(ALICE, Moment(0), A, 1, Offset(1));
        sequences.note(BOB, Moment(0), A, 1, Offset(2));
        sequences.session_ended(BOB, Moment(0), Moment(0));
        sequences.note(ALICE, Moment(0), B, 1, Offset(3));
        assert_eq!(sequences.knowledge(ALICE), Knowledge::Complete);
        assert_ne!(sequences.knowledge(BOB), Knowledge::Complete);
    }

    #[test]
    fn what_an_earlier_holder_says_of_the_end_is_no_end() {
        let mut sequences = sequences(10);
        sequences.note(ALICE, Moment(10), A, 1, Offset(1));
        sequences.session_resumed(ALICE, Moment(20));
        sequences.session_ended(ALICE, Moment(10), Moment(25));
        assert_eq!(sequences.next_expiry(), Moment::NEVER);
        sequences.session_ended(ALICE, Moment(20), Moment(30));
        assert_eq!(sequences.next_expiry(), Moment(130));
        // Nor does a publish that was long on its way begin it again.
        sequences.note(ALICE, Moment(10), A, 2, Offset(2));
        assert_eq!(sequences.next_expiry(), Moment(130));
    }
}
