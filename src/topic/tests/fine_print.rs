//! Lines of the fine print, each by an example.

use std::time::Duration;

use bytes::Bytes;

use super::super::{
    ApplyError, Ask, Cursor, Evicted, Filter, Log, LogSettings, NewRecord, Patch, Priority, TopicClass,
};
use super::{decoded, delete, record};
use crate::clock::{Moment, WallEpoch};
use crate::ids::{Offset, TopicId};
use crate::limits::{Limits, PATCH_BYTES};

fn settings() -> LogSettings {
    LogSettings::new(&TopicClass::catch_all(), &Limits::default())
}

fn ms(ms: u64) -> Moment {
    Moment(0) + Duration::from_millis(ms)
}

fn ask(now: Moment) -> Ask<'static> {
    Ask::plain(now, WallEpoch::default(), PATCH_BYTES)
}

fn put(log: &mut Log, record: NewRecord, now: Moment) {
    log.apply(vec![record], false, now).expect("there is room");
}

fn read(log: &mut Log, cursor: &Cursor, now: Moment) -> Patch {
    log.patch(TopicId(1), cursor, &ask(now))
}

fn windowed(record: NewRecord, window_ms: u64) -> NewRecord {
    NewRecord { window: Some(Duration::from_millis(window_ms)), ..record }
}

fn critical(record: NewRecord) -> NewRecord {
    NewRecord { priority: Priority::Critical, ..record }
}

#[test]
fn a_new_subscriber_always_gets_a_patch_with_reset_and_checksum() {
    let mut log = Log::new(settings());
    let (cursor, resumed) = log.start(None);
    let patch = read(&mut log, &cursor, ms(0));
    let message = decoded(&patch);
    assert!(!resumed && message.reset && !message.more);
    assert_eq!((message.from, message.to, message.checksum), (0, 0, Some(0)));
    assert_eq!(patch.next, Cursor::at(Offset::ZERO));
}

#[test]
fn deleting_an_absent_key_takes_an_offset_and_leaves_nothing() {
    let mut log = Log::new(settings());
    put(&mut log, delete("k"), ms(0));
    assert_eq!((log.head(), log.tombstone_count()), (Offset(1), 0));
    let patch = read(&mut log, &Cursor::at(Offset::ZERO), ms(0));
    assert_eq!((patch.counts.records, patch.counts.conflated), (0, 1));
    put(&mut log, record("k", "v"), ms(0));
    put(&mut log, delete("k"), ms(0));
    put(&mut log, delete("k"), ms(0));
    assert_eq!(log.tombstone_count(), 1, "the second delete finds nothing to delete");
}

#[test]
fn a_key_whose_window_passed_is_deleted_with_its_own_priority() {
    let mut log = Log::new(settings());
    put(&mut log, critical(windowed(record("k", "v"), 10)), ms(0));
    assert_eq!((log.next_key_expiry(), log.expire_keys(ms(9))), (ms(10), 0));
    assert_eq!(log.expire_keys(ms(10)), 1);
    assert_eq!((log.key_count(), log.checksum(), log.next_key_expiry()), (0, 0, Moment::NEVER));
    let message = decoded(&read(&mut log, &Cursor::at(Offset(1)), ms(10)));
    assert!(message.records[0].delete);
    assert_eq!(message.records[0].priority, 4);
}

#[test]
fn a_key_rewritten_all_the_time_does_not_grow_the_memory() {
    let mut log = Log::new(settings());
    put(&mut log, windowed(record("k", "v"), 60_000), ms(0));
    let before = log.memory_bytes();
    for write in 0..100_000 {
        put(&mut log, windowed(record("k", "v"), 60_000), ms(write));
    }
    assert!(log.memory_bytes() <= before + 4 * 1024, "{} after {before}", log.memory_bytes());
    assert_eq!(log.expire_keys(ms(159_998)), 0, "only the last window counts");
    assert_eq!(log.expire_keys(ms(159_999)), 1);
}

#[test]
fn memory_shrinks_again_when_keys_and_events_are_gone() {
    let mut log = Log::new(LogSettings { tombstones_beyond_keys: 0, kind_runs: 100, ..settings() });
    let empty = log.memory_bytes();
    for key in 0..20_000 {
        put(&mut log, record(&format!("key{key}"), "value"), ms(0));
        put(&mut log, record("", "event"), ms(0));
    }
    assert!(log.memory_bytes() > 1_000_000);
    log.apply(Vec::new(), true, ms(1)).expect("an empty state is a state");
    log.retain(ms(400_000), None);
    assert!(log.is_empty());
    assert!(log.memory_bytes() < empty + 256 * 1024, "{} bytes", log.memory_bytes());
}

#[test]
fn an_evicted_event_is_expired_overrun_or_lost_by_what_it_was_then() {
    let mut log = Log::new(LogSettings { events: 1, ..settings() });
    put(&mut log, windowed(record("", "expired"), 5), ms(0));
    put(&mut log, windowed(record("", "overrun"), 5_000), ms(0));
    put(&mut log, critical(windowed(record("", "lost"), 5)), ms(0));
    put(&mut log, record("", "kept"), ms(0));
    assert_eq!(log.retain(ms(5), None), Evicted { overrun: 1, lost: 1, expired: 1 });
    let patch = read(&mut log, &Cursor::at(Offset::ZERO), ms(10_000));
    let message = decoded(&patch);
    assert_eq!((message.expired, message.overrun, message.lost, message.records.len()), (1, 1, 1, 1));
}

#[test]
fn a_critical_event_never_expires() {
    let mut log = Log::new(settings());
    put(&mut log, critical(windowed(record("", "v"), 5)), ms(0));
    let window = Some(Duration::from_millis(1));
    let patch = log.patch(TopicId(1), &Cursor::at(Offset::ZERO), &Ask { window, ..ask(ms(100)) });
    assert_eq!((patch.counts.records, patch.valid_until), (1, Moment::NEVER));
}

#[test]
fn what_was_gone_before_the_subscriber_came_is_remainder_and_what_goes_later_is_counted() {
    let mut log = Log::new(LogSettings { events: 2, ..settings() });
    for _ in 0..4 {
        put(&mut log, record("", "v"), ms(0));
    }
    log.retain(ms(0), None);
    let (cursor, _) = log.start(None);
    put(&mut log, record("", "v"), ms(0));
    log.retain(ms(0), None);
    let patch = read(&mut log, &cursor, ms(0));
    assert_eq!((patch.counts.conflated, patch.counts.overrun, patch.counts.records), (2, 1, 2));
}

#[test]
fn only_a_position_between_floor_and_head_resumes() {
    let mut log = Log::new(LogSettings { tombstones_beyond_keys: 0, ..settings() });
    put(&mut log, record("k", "v"), ms(0));
    put(&mut log, delete("k"), ms(0));
    put(&mut log, delete("k"), ms(0));
    assert!(log.start(Some(Offset(1))).1);
    log.retain(ms(0), None);
    assert_eq!((log.tombstone_count(), log.floor()), (0, Offset(2)));
    assert!(!log.start(Some(Offset(1))).1, "it may still hold the key");
    assert!(log.start(Some(Offset(2))).1 && log.start(Some(Offset(3))).1);
    assert!(!log.start(Some(Offset(4))).1, "that offset was never given");
    let patch = read(&mut log, &Cursor::at(Offset(1)), ms(0));
    assert!(patch.reset && patch.from == Offset::ZERO, "a connected one starts anew as well");
}

#[test]
fn deletes_from_before_the_reset_are_not_sent_and_later_ones_are() {
    let mut log = Log::new(settings());
    put(&mut log, record("old", "v"), ms(0));
    put(&mut log, record("new", "v"), ms(0));
    put(&mut log, delete("old"), ms(0));
    let (cursor, _) = log.start(None);
    put(&mut log, delete("new"), ms(0));
    let message = decoded(&read(&mut log, &cursor, ms(0)));
    let keys: Vec<&[u8]> = message.records.iter().map(|record| &record.key[..]).collect();
    assert_eq!(keys, [b"new"]);
}

#[test]
fn half_of_a_chunk_with_more_is_the_newest_and_each_comes_again_in_its_place() {
    let mut log = Log::new(settings());
    for key in 0..100 {
        put(&mut log, record(&format!("key{key:02}"), "0123456789"), ms(0));
    }
    let (mut cursor, _) = log.start(None);
    let (mut in_place, mut ahead) = (Vec::new(), Vec::new());
    loop {
        let patch = log.patch(TopicId(1), &cursor, &Ask { room: 1_000, ..ask(ms(0)) });
        let message = decoded(&patch);
        assert!(patch.payload_len <= 1_000 && patch.payload_len > 900 || !patch.more);
        in_place.extend(message.records.iter().map(|record| record.offset));
        ahead.extend(message.ahead.iter().map(|record| record.offset));
        cursor = patch.next;
        if !patch.more {
            break;
        }
    }
    assert_eq!(in_place, (1..=100).collect::<Vec<_>>());
    assert_eq!(*ahead.last().expect("some were sent ahead"), 100);
    assert!((12..=24).contains(&ahead.len()), "half a chunk, once: nothing was written since");
    assert_eq!(ahead, (101 - ahead.len() as u64..=100).collect::<Vec<_>>());
}

#[test]
fn replace_appends_only_what_changed_deletes_first() {
    let mut log = Log::new(settings());
    log.apply(vec![record("a", "1"), windowed(record("b", "1"), 10), record("c", "1")], false, ms(0)).expect("room");
    let state = vec![record("d", "1"), windowed(record("b", "1"), 10), record("c", "2")];
    let applied = log.apply(state.clone(), true, ms(5)).expect("room");
    assert_eq!((applied.last, applied.appended), (Offset(6), 3));
    let message = decoded(&read(&mut log, &Cursor::at(Offset(3)), ms(5)));
    let changes: Vec<(&[u8], bool)> = message.records.iter().map(|record| (&record.key[..], record.delete)).collect();
    assert_eq!(changes, [(&b"a"[..], true), (b"d", false), (b"c", false)]);
    assert_eq!(log.next_key_expiry(), ms(15), "the unchanged key's window starts anew");
    assert_eq!(log.apply(state, true, ms(5)).expect("room").appended, 0);
    assert_eq!(log.apply(vec![record("", "event")], true, ms(5)), Err(ApplyError::EventInReplace));
}

#[test]
fn a_window_that_starts_anew_is_told_in_the_same_turn() {
    let mut log = Log::new(settings());
    let state = vec![windowed(record("k", "v"), 10)];
    log.apply(state.clone(), true, ms(0)).expect("room");
    let left = |log: &mut Log| decoded(&read(log, &Cursor::at(Offset::ZERO), ms(6))).records[0].window_ms;
    assert_eq!(left(&mut log), 4);
    log.apply(state, true, ms(6)).expect("room");
    assert_eq!(left(&mut log), 10);
}

#[test]
fn a_publish_that_would_exceed_the_keys_changes_nothing() {
    let mut log = Log::new(LogSettings { keys: 2, ..settings() });
    log.apply(vec![record("a", "1"), record("b", "1")], false, ms(0)).expect("room");
    let refused = log.apply(vec![record("a", "2"), record("c", "1")], false, ms(0));
    assert_eq!(refused, Err(ApplyError::KeysFull { limit: 2 }));
    assert_eq!(log.head(), Offset(2));
    log.apply(vec![record("c", "1"), delete("a")], false, ms(0)).expect("what results has two keys");
    log.apply(vec![record("b", "2"), record("", "event")], false, ms(0)).expect("no key is new");
    assert_eq!(log.key_count(), 2);
}

#[test]
fn deletes_pass_the_priority_filter_and_a_filtered_patch_has_no_checksum() {
    let mut log = Log::new(settings());
    put(&mut log, record("a1", "v"), ms(0));
    put(&mut log, delete("a1"), ms(0));
    put(&mut log, record("b1", "v"), ms(0));
    put(&mut log, record("", "event"), ms(0));
    let filter = Filter { min_priority: Some(Priority::High), key_prefix: Bytes::from_static(b"a") };
    let patch = log.patch(TopicId(1), &Cursor::at(Offset::ZERO), &Ask { filter: Some(&filter), ..ask(ms(0)) });
    let message = decoded(&patch);
    assert_eq!((message.records.len(), message.filtered, message.checksum), (1, 2, None));
    assert!(message.records[0].delete);
}

#[test]
fn a_record_larger_than_the_room_goes_alone() {
    let mut log = Log::new(settings());
    let large = "x".repeat(70_000);
    put(&mut log, record("a", &large), ms(0));
    put(&mut log, record("b", &large), ms(0));
    let first = read(&mut log, &Cursor::at(Offset::ZERO), ms(0));
    assert_eq!((first.counts.records, first.counts.ahead, first.more), (1, 0, true));
    assert_eq!(decoded(&first).records[0].value.len(), 70_000);
    let second = read(&mut log, &first.next, ms(0));
    assert_eq!((second.counts.records, second.more), (1, false));
}

#[test]
fn frames_of_all_three_websocket_lengths_are_right() {
    let mut log = Log::new(settings());
    for size in [10, 500, 66_000] {
        put(&mut log, record("k", &"x".repeat(size)), ms(0));
        let before = Offset(log.head().0 - 1);
        let message = decoded(&read(&mut log, &Cursor::at(before), ms(0)));
        assert_eq!(message.records[0].value.len(), size);
    }
}

#[test]
fn a_filter_that_holds_everything_back_does_not_make_one_patch_read_a_whole_log() {
    let mut log = Log::new(settings());
    for key in 0..400 {
        put(&mut log, record(&format!("a{key}"), &"x".repeat(16 * 1024)), ms(0));
    }
    let filter = Filter { min_priority: None, key_prefix: Bytes::from_static(b"b") };
    let ask = Ask { filter: Some(&filter), ..ask(ms(0)) };
    let patch = log.patch(TopicId(1), &Cursor::at(Offset::ZERO), &ask);
    assert!(patch.more && patch.to > Offset(40) && patch.to < Offset(100), "it came to {}", patch.to);
    assert_eq!(patch.counts.filtered, patch.to.0);
    assert!(log.release_runs() > 1);
    assert!(log.memory_bytes() < 7_500_000, "what was encoded for the turn is given back");
}

#[test]
fn many_cursors_behind_cost_one_encoding() {
    let mut log = Log::new(settings());
    for key in 0..100 {
        put(&mut log, record(&format!("k{key}"), "a value"), ms(0));
    }
    for cursor in 0..100 {
        let message = decoded(&read(&mut log, &Cursor::at(Offset(cursor)), ms(0)));
        assert_eq!(message.records.len() as u64, 100 - cursor);
    }
    assert_eq!(log.release_runs(), 1, "the first one's run serves all");
    assert_eq!(log.release_runs(), 0, "what was counted is not counted again");
    // From the head backwards each encodes what those before did not need, and no record is encoded twice.
    for cursor in [75, 50, 25] {
        read(&mut log, &Cursor::at(Offset(cursor)), ms(0));
    }
    assert_eq!(log.release_runs(), 3);
    read(&mut log, &Cursor::at(Offset(0)), ms(0));
    put(&mut log, record("k0", "another"), ms(0));
    read(&mut log, &Cursor::at(Offset(0)), ms(0));
    assert_eq!(log.release_runs(), 2, "a run of the log as it was is of no use");
}

#[test]
fn events_count_as_unflushed_until_the_flush() {
    let mut log = Log::new(settings());
    put(&mut log, record("k", "keyed records merge, they need no room"), ms(0));
    assert_eq!(log.unflushed_event_bytes(), 0);
    put(&mut log, record("", "0123456789"), ms(0));
    assert!(log.unflushed_event_bytes() > 10);
    log.mark_flushed();
    assert_eq!(log.unflushed_event_bytes(), 0);
}
