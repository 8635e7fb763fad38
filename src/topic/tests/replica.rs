//! Replicas: lines of the fine print, each by an example.

use std::time::Duration;

use super::super::{Ask, Cursor, Evicted, Log, LogSettings, NewRecord, Patch, ReplicaCursor, TopicClass};
use super::{decoded, delete, record};
use crate::clock::{Moment, WallEpoch};
use crate::ids::{Offset, TopicId};
use crate::limits::{Limits, PATCH_BYTES};

const TOPIC: TopicId = TopicId(1);

fn settings() -> LogSettings {
    LogSettings::new(&TopicClass::catch_all(), &Limits::default())
}

fn ms(ms: u64) -> Moment {
    Moment(0) + Duration::from_millis(ms)
}

fn put(log: &mut Log, record: NewRecord, now: Moment) {
    log.apply(vec![record], false, now).expect("there is room");
}

fn windowed(record: NewRecord, window_ms: u64) -> NewRecord {
    NewRecord { window: Some(Duration::from_millis(window_ms)), ..record }
}

fn read(log: &mut Log, cursor: &Cursor, now: Moment) -> Patch {
    log.patch(TOPIC, cursor, &Ask::plain(now, WallEpoch::default(), PATCH_BYTES))
}

/// A home and a replica, and where the home believes it to be.
struct Pair {
    home: Log,
    replica: Log,
    cursor: ReplicaCursor,
}

impl Pair {
    fn new(settings: LogSettings) -> Self {
        let home = Log::new(settings);
        Self { replica: Log::replica(settings), cursor: home.start_replica(), home }
    }

    /// One transfer. True if there is more.
    fn send(&mut self, now: Moment, room: usize) -> bool {
        let (transfer, next) = self.home.transfer(TOPIC, &self.cursor, None, now, WallEpoch::default(), room);
        let more = transfer.has_more();
        self.replica.follow(transfer);
        self.cursor = next;
        more
    }

    fn send_all(&mut self, now: Moment) {
        while self.home.is_behind(&self.cursor) {
            self.send(now, PATCH_BYTES);
        }
    }
}

#[test]
fn the_shared_frame_travels_untouched_and_moves_the_replica() {
    let mut pair = Pair::new(settings());
    assert!(!pair.replica.is_current());
    pair.send_all(ms(0));
    assert!(pair.replica.is_current(), "an empty topic is a state, too");
    put(&mut pair.home, record("k", "v"), ms(1));
    put(&mut pair.home, windowed(record("", "event"), 10), ms(1));
    let shared = read(&mut pair.home, &Cursor::at(Offset::ZERO), ms(1));
    let (transfer, next) =
        pair.home.transfer(TOPIC, &pair.cursor, Some(&shared), ms(1), WallEpoch::default(), PATCH_BYTES);
    let same = transfer.shareable().expect("everyone at 0 may have it").frame.as_ptr();
    assert_eq!(same, shared.frame.as_ptr(), "the bytes are not copied");
    pair.replica.follow(transfer);
    assert_eq!((pair.replica.head(), pair.replica.checksum()), (Offset(2), pair.home.checksum()));
    assert!(!pair.home.is_behind(&next));
    let (home, replica) =
        [&mut pair.home, &mut pair.replica].map(|log| read(log, &Cursor::at(Offset::ZERO), ms(4)).frame).into();
    assert_eq!(home, replica, "what is left of a window is reckoned from the home's deadline");
}

#[test]
fn an_eviction_waits_until_whoever_is_at_the_replicas_head_has_had_its_chance() {
    let mut pair = Pair::new(LogSettings { events: 1, ..settings() });
    pair.send_all(ms(0));
    put(&mut pair.home, record("", "one"), ms(0));
    put(&mut pair.home, record("", "two"), ms(0));
    pair.send_all(ms(0));
    assert_eq!(pair.home.retain(ms(0), Some(pair.cursor.needs())).overrun, 1);
    put(&mut pair.home, record("k", "v"), ms(0));
    assert_eq!(pair.replica.next_retention(), Moment::NEVER, "a replica evicts nothing by itself");
    pair.send_all(ms(0));
    assert!(pair.replica.next_retention() <= ms(0), "now there is something to do");
    let patch = read(&mut pair.replica, &Cursor::at(Offset::ZERO), ms(0));
    assert_eq!((patch.counts.records, patch.counts.overrun), (3, 0));
    assert_eq!(pair.replica.retain(ms(0), None), Evicted::default(), "it was counted at home");
    let patch = read(&mut pair.replica, &Cursor::at(Offset::ZERO), ms(0));
    assert_eq!((patch.counts.records, patch.counts.overrun), (2, 1));
}

#[test]
fn events_that_left_before_a_lagging_replica_saw_them_are_counted_by_whoever_passes() {
    let mut pair = Pair::new(LogSettings { events: 2, ..settings() });
    put(&mut pair.home, record("", "seen"), ms(0));
    pair.send_all(ms(0));
    for _ in 0..10 {
        put(&mut pair.home, record("", "event"), ms(0));
        put(&mut pair.home, record("k", "v"), ms(0));
    }
    pair.home.retain(ms(0), Some(pair.cursor.needs()));
    pair.send_all(ms(0));
    let counts = read(&mut pair.replica, &Cursor::at(Offset(1)), ms(0)).counts;
    assert_eq!((counts.records, counts.overrun, counts.conflated), (3, 8, 9));
    assert_eq!(pair.replica.event_count(), 2, "older ones than those that are gone are gone, too");
}

#[test]
fn the_home_remembers_for_a_lagging_replica_what_its_events_were() {
    let settings = LogSettings { events: 0, kind_runs: 4, ..settings() };
    let mut pair = Pair::new(settings);
    pair.send_all(ms(0));
    // A run each: overrun, keyed, overrun, keyed, ...
    for _ in 0..5 {
        put(&mut pair.home, record("", "event"), ms(0));
        put(&mut pair.home, record("k", "v"), ms(0));
    }
    let told = pair.cursor.needs();
    pair.home.retain(ms(0), Some(told));
    assert_eq!(pair.home.floor(), Offset::ZERO, "the replica was told nothing yet");
    pair.send_all(ms(0));
    assert_eq!(read(&mut pair.replica, &Cursor::at(Offset::ZERO), ms(0)).counts.overrun, 5);
    pair.home.retain(ms(0), Some(pair.cursor.needs()));
    assert!(pair.home.floor() > Offset::ZERO, "what it was told may be forgotten");
}

#[test]
fn chunks_wait_for_their_last_one_and_count_as_memory_meanwhile() {
    let mut pair = Pair::new(settings());
    for key in 0..100 {
        put(&mut pair.home, record(&format!("key{key:02}"), &"x".repeat(1_000)), ms(0));
    }
    let mut chunks = 1;
    while pair.send(ms(0), 10_000) {
        assert!(!pair.replica.is_current());
        assert_eq!(pair.replica.head(), Offset::ZERO);
        assert!(pair.replica.memory_bytes() > chunks * 9_000, "what is held is counted");
        chunks += 1;
        // What was sent may change before the last chunk comes.
        put(&mut pair.home, record("key00", "new"), ms(0));
        put(&mut pair.home, delete("key01"), ms(0));
    }
    assert!(chunks >= 10);
    assert!(pair.replica.is_current());
    assert_eq!((pair.replica.head(), pair.replica.checksum()), (pair.home.head(), pair.home.checksum()));
    let memory = pair.replica.memory_bytes();
    assert!(memory < pair.home.memory_bytes() + 20_000, "{memory} bytes: the chunks are gone");
}

#[test]
fn a_replica_that_missed_a_forgotten_delete_begins_from_nothing() {
    let mut pair = Pair::new(LogSettings { tombstones_beyond_keys: 0, ..settings() });
    put(&mut pair.home, record("k", "v"), ms(0));
    pair.send_all(ms(0));
    put(&mut pair.home, delete("k"), ms(0));
    pair.home.retain(ms(0), None);
    let (transfer, _) = pair.home.transfer(TOPIC, &pair.cursor, None, ms(0), WallEpoch::default(), PATCH_BYTES);
    assert!(transfer.is_anew() && transfer.shareable().is_none());
    assert_eq!(pair.replica.key_count(), 1);
    pair.replica.follow(transfer);
    assert_eq!((pair.replica.key_count(), pair.replica.floor()), (0, Offset(2)));
}

#[test]
fn a_window_that_began_anew_without_a_record_reaches_the_replica() {
    let mut pair = Pair::new(settings());
    put(&mut pair.home, windowed(record("k", "v"), 10), ms(0));
    pair.send_all(ms(0));
    pair.home.apply(vec![windowed(record("k", "v"), 10)], true, ms(5)).expect("there is room");
    assert!(pair.home.is_behind(&pair.cursor), "though no offset was given");
    pair.send_all(ms(5));
    assert!(!pair.home.is_behind(&pair.cursor));
    let message = decoded(&read(&mut pair.replica, &Cursor::at(Offset::ZERO), ms(5)));
    assert_eq!(message.records[0].window_ms, 10);
    assert_eq!(pair.replica.expire_keys(ms(100)), 0, "the home says when a key goes");
}

#[test]
#[should_panic(expected = "a transfer begins where the last one ended")]
fn a_transfer_that_does_not_continue_the_replica_is_refused() {
    let mut pair = Pair::new(settings());
    pair.send_all(ms(0));
    put(&mut pair.home, record("k", "1"), ms(0));
    let (_lost, next) = pair.home.transfer(TOPIC, &pair.cursor, None, ms(0), WallEpoch::default(), PATCH_BYTES);
    pair.cursor = next;
    put(&mut pair.home, record("k", "2"), ms(0));
    pair.send_all(ms(0));
}

#[test]
#[should_panic(expected = "is not its home's")]
fn a_state_that_is_not_the_homes_is_refused() {
    let mut pair = Pair::new(settings());
    put(&mut pair.home, record("k", "1"), ms(0));
    let (mut transfer, _) = pair.home.transfer(TOPIC, &pair.cursor, None, ms(0), WallEpoch::default(), PATCH_BYTES);
    let mut frame = transfer.patch.frame.to_vec();
    *frame.iter_mut().rfind(|byte| **byte == b'1').expect("the value") = b'2';
    transfer.patch.frame = frame.into();
    pair.replica.follow(transfer);
}

#[test]
fn an_event_that_expired_on_the_way_is_expired_for_a_clock_that_is_a_little_behind() {
    let mut pair = Pair::new(settings());
    pair.send_all(ms(0));
    put(&mut pair.home, windowed(record("", "late"), 10), ms(0));
    pair.send_all(ms(10));
    let patch = read(&mut pair.replica, &Cursor::at(Offset::ZERO), ms(9));
    assert_eq!((patch.counts.records, patch.counts.expired), (0, 1));
    assert_eq!(decoded(&patch).records.len(), 0);
}

#[test]
fn a_lagging_replica_stays_where_it_was_until_the_last_chunk_and_holds_the_others_as_memory() {
    let mut pair = Pair::new(settings());
    put(&mut pair.home, record("key00", "old"), ms(0));
    pair.send_all(ms(0));
    for key in 0..100 {
        put(&mut pair.home, record(&format!("key{key:02}"), &"x".repeat(1_000)), ms(0));
    }
    let mut chunks = 1;
    while pair.send(ms(0), 10_000) {
        assert_eq!((pair.replica.head(), pair.replica.key_count()), (Offset(1), 1));
        assert!(pair.replica.memory_bytes() > chunks * 9_000, "what is held is counted");
        chunks += 1;
    }
    assert!(chunks >= 10);
    assert_eq!((pair.replica.head(), pair.replica.checksum()), (pair.home.head(), pair.home.checksum()));
}
