//! Replicas: lines of the fine print, each by an example.

use std::time::Duration;

use bytes::Bytes;

use super::super::{Ask, Cursor, Log, LogSettings, NewRecord, Patch, Priority, ReplicaCursor, TopicClass};
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
