//! The state against a log that is nothing but a list, read by random patches as the wire contract describes them.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

/// A topic's log, kept whole.
#[derive(Default)]
struct Log {
    records: Vec<wire::Record>,
}

impl Log {
    fn head(&self) -> u64 {
        self.records.len() as u64
    }

    fn write(&mut self, random: &mut StdRng) {
        let key =
            if random.random_bool(0.2) { Bytes::new() } else { format!("k{}", random.random_range(0..12)).into() };
        let delete = !key.is_empty() && random.random_bool(0.25);
        let value = if delete { Bytes::new() } else { format!("v{}", self.head()).into() };
        self.records.push(wire::Record { key, value, delete, offset: self.head() + 1, ..wire::Record::default() });
    }

    fn is_live(&self, record: &wire::Record) -> bool {
        record.key.is_empty() || !self.records[record.offset as usize..].iter().any(|later| later.key == record.key)
    }

    fn state(&self) -> BTreeMap<Bytes, Bytes> {
        let mut state = BTreeMap::new();
        for record in self.records.iter().filter(|record| !record.key.is_empty()) {
            match record.delete {
                true => drop(state.remove(&record.key)),
                false => drop(state.insert(record.key.clone(), record.value.clone())),
            }
        }
        state
    }

    fn checksum(&self) -> u32 {
        let term = |(key, value): (&Bytes, &Bytes)| {
            let mut bytes = (key.len() as u32).to_le_bytes().to_vec();
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
            u64::from(crc32fast::hash(&bytes))
        };
        let sum: u64 = self.state().iter().map(term).sum();
        (sum % (1 << 32)) as u32
    }

    /// What a cursor at `from` is sent, if it is moved by at most `most` offsets.
    fn patch(&self, from: u64, most: u64, ahead_count: usize) -> wire::Patch {
        let to = (from + most).min(self.head());
        let live = |range: std::ops::Range<u64>| {
            let slice = &self.records[range.start as usize..range.end as usize];
            slice.iter().filter(|record| self.is_live(record)).cloned().collect::<Vec<_>>()
        };
        let more = to < self.head();
        let mut ahead: Vec<_> = live(to..self.head()).into_iter().filter(|r| more && !r.key.is_empty()).collect();
        ahead.drain(..ahead.len().saturating_sub(ahead_count));
        let checksum = (!more).then(|| self.checksum());
        let mut records = live(from..to);
        if let Some(last) = records.last_mut().filter(|last| last.offset == to) {
            last.offset = 0;
        }
        wire::Patch { from, to, records, ahead, more, checksum, reset: from == 0, ..wire::Patch::default() }
    }
}

fn contents(state: &TopicState) -> BTreeMap<Bytes, Bytes> {
    state.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[test]
fn random_patches_lead_to_the_logs_state() {
    for seed in 0..150 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut log, mut state) = (Log::default(), TopicState::default());
        let mut mirror = BTreeMap::new();
        let mut events = Vec::new();
        state.start(7);
        for _ in 0..120 {
            for _ in 0..random.random_range(0..6) {
                log.write(&mut random);
            }
            let is_anew = random.random_bool(0.05);
            let from = if is_anew { 0 } else { state.offset() };
            let most = if random.random_bool(0.5) { u64::MAX / 2 } else { random.random_range(1..8) };
            let patch = log.patch(from, most, random.random_range(0..4));
            let applied = state.apply(&patch).unwrap_or_else(|mismatch| panic!("seed {seed}: {mismatch}"));
            if patch.reset {
                mirror.clear();
            }
            for change in &applied.changes {
                match &change.value {
                    Some(value) => drop(mirror.insert(change.key.clone(), value.clone())),
                    None => drop(mirror.remove(&change.key)),
                }
            }
            events.extend(applied.events.iter().map(|event| event.offset));
            assert_eq!(mirror, contents(&state), "seed {seed}: the changes tell all");
            assert_eq!(state.is_current(), !patch.more);
            let Counts { records, conflated, .. } = applied.counts;
            assert_eq!(records + conflated, patch.to - patch.from, "seed {seed}");
            if !patch.more {
                assert!(applied.is_verified);
                assert_eq!(contents(&state), log.state(), "seed {seed}");
            }
            // What came ahead is the newest there is.
            for ahead in &patch.ahead {
                assert_eq!(state.get(&ahead.key), (!ahead.delete).then_some(&ahead.value), "seed {seed}");
            }
        }
        let passed = events.last().copied().unwrap_or(0).max(state.offset());
        let all: Vec<u64> = (1..=passed).filter(|o| log.records[*o as usize - 1].key.is_empty()).collect();
        assert_eq!(events, all, "seed {seed}: each event once, also over snapshots");
    }
}

fn record(key: &'static str, value: &'static str, offset: u64) -> wire::Record {
    let (key, value) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()));
    wire::Record { delete: value.is_empty(), key, value, offset, ..wire::Record::default() }
}

#[test]
fn a_key_sent_ahead_is_not_taken_back_by_an_older_record() {
    let mut state = TopicState::default();
    let ahead = wire::Patch {
        to: 2,
        reset: true,
        more: true,
        ahead: vec![record("gone", "", 8), record("hot", "new", 9)],
        ..wire::Patch::default()
    };
    state.apply(&ahead).expect("a valid patch");
    let older = wire::Patch {
        from: 2,
        to: 7,
        more: true,
        records: vec![record("gone", "x", 3), record("hot", "old", 5)],
        ..wire::Patch::default()
    };
    let applied = state.apply(&older).expect("a valid patch");
    assert_eq!(applied.changes, []);
    assert_eq!((state.get(b"hot"), state.get(b"gone")), (Some(&Bytes::from_static(b"new")), None));
    let in_place = wire::Patch {
        from: 7,
        to: 9,
        records: vec![record("gone", "", 8), record("hot", "new", 0)],
        ..wire::Patch::default()
    };
    assert_eq!(state.apply(&in_place).expect("a valid patch").changes, [], "told when it came ahead");
    let newer = wire::Patch { from: 9, to: 10, records: vec![record("hot", "newer", 0)], ..wire::Patch::default() };
    assert_eq!(state.apply(&newer).expect("a valid patch").changes.len(), 1);
}

#[test]
fn after_a_mismatch_only_a_reset_goes_on() {
    let mut log = Log::default();
    let mut random = StdRng::seed_from_u64(1);
    (0..20).for_each(|_| log.write(&mut random));
    let mut state = TopicState::default();
    let mut wrong = log.patch(0, 100, 0);
    wrong.checksum = wrong.checksum.map(|sum| sum ^ 1);
    assert!(matches!(state.apply(&wrong), Err(Mismatch::Checksum { .. })));
    assert!(state.needs_reset() && !state.is_current() && state.position().is_none());
    let next = wire::Patch { from: 20, to: 21, ..wire::Patch::default() };
    assert!(matches!(state.apply(&next), Err(Mismatch::Chain { .. })));
    state.apply(&log.patch(0, 100, 0)).expect("a snapshot heals");
    assert!(state.is_current() && !state.needs_reset());
    let gap = wire::Patch { from: 21, to: 22, ..wire::Patch::default() };
    assert_eq!(state.apply(&gap), Err(Mismatch::Chain { from: 21, at: 20 }));
}

#[test]
fn patches_that_contradict_themselves_are_found() {
    let base = || wire::Patch { from: 0, to: 5, reset: true, more: true, ..wire::Patch::default() };
    let bad = [
        wire::Patch { to: 0, from: 0, expired: 1, ..base() },
        wire::Patch { expired: 3, overrun: 2, lost: 1, ..base() },
        wire::Patch { filtered: u64::MAX, expired: u64::MAX, ..base() },
        wire::Patch { records: vec![record("a", "1", 6)], ..base() },
        wire::Patch { records: vec![record("a", "1", 3), record("b", "1", 3)], ..base() },
        wire::Patch { records: vec![record("a", "1", 0), record("b", "1", 0)], ..base() },
        wire::Patch { ahead: vec![record("a", "1", 5)], ..base() },
        wire::Patch { ahead: vec![record("", "1", 6)], ..base() },
        wire::Patch { more: false, ahead: vec![record("a", "1", 6)], ..base() },
    ];
    for patch in bad {
        let result = TopicState::default().apply(&patch);
        assert!(matches!(result, Err(Mismatch::Malformed(_))), "{patch:?}: {result:?}");
    }
    TopicState::default().apply(&base()).expect("the base is valid");
}

#[test]
fn another_epoch_needs_a_reset_and_replays_its_events() {
    let mut state = TopicState::default();
    state.start(1);
    let patch = wire::Patch { to: 3, records: vec![record("", "event", 3)], reset: true, ..wire::Patch::default() };
    assert_eq!(state.apply(&patch).expect("a valid patch").events.len(), 1);
    state.start(1);
    assert_eq!(state.apply(&patch).expect("a valid patch").events.len(), 0, "known in this epoch");
    state.start(2);
    assert!(state.needs_reset());
    assert_eq!(state.apply(&patch).expect("a valid patch").events.len(), 1, "another event in another epoch");
}

#[test]
fn state_does_not_keep_frames_alive() {
    let frame = Bytes::from(vec![b'x'; 4096]);
    let mut state = TopicState::default();
    let small = wire::Record { key: frame.slice(0..2), value: frame.slice(2..4), offset: 1, ..wire::Record::default() };
    let ahead = wire::Record { key: frame.slice(4..7), value: frame.slice(2..4), offset: 2, ..wire::Record::default() };
    let patch = wire::Patch {
        to: 1,
        reset: true,
        more: true,
        records: vec![small],
        ahead: vec![ahead],
        ..wire::Patch::default()
    };
    drop(state.apply(&patch).expect("a valid patch"));
    drop(patch);
    assert_eq!(state.key_count(), 2);
    assert!(frame.is_unique());
}
