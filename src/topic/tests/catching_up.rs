//! The model of the fine print: 5,000 keys, 1,000 writes a second, a client that takes 900 records a second.

use std::time::Duration;

use super::super::{Ask, Log, LogSettings, TopicClass};
use super::{decoded, record};
use crate::clock::{Moment, WallEpoch};
use crate::ids::TopicId;
use crate::limits::Limits;

/// Some key, without the standard library's hash, the same in every run.
fn scrambled(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 31)
}

#[test]
fn a_hot_key_stays_fresh_while_the_rest_is_caught_up() {
    let settings = LogSettings::new(&TopicClass::catch_all(), &Limits::default());
    let mut log = Log::new(settings);
    for key in 0..5_000 {
        log.apply(vec![record(&format!("cold{key:05}"), "0123456789")], false, Moment(0)).expect("room");
    }
    // About 30 bytes a record: 900 a second are 18 in each of 50 reads.
    let room = 18 * 33 + 40;
    let (mut cursor, _) = log.start(None);
    let (mut hot_arrivals, mut longest_gap, mut last_hot) = (0_u64, 0_u64, 0_u64);
    let (mut taken, mut heads, mut write) = (0_u64, 0_u64, 0_u64);
    for millisecond in 0..120_000_u64 {
        let now = Moment(0) + Duration::from_millis(millisecond);
        // One write in fifty, at random: at a fixed beat it could always fall between two reads.
        let key = match scrambled(write) {
            random if random % 50 == 0 => "hot".to_owned(),
            random => format!("cold{:05}", (random >> 16) % 5_000),
        };
        write += 1;
        log.apply(vec![record(&key, "0123456789")], false, now).expect("room");
        if millisecond % 20 != 19 {
            continue;
        }
        let patch = log.patch(TopicId(1), &cursor, &Ask::plain(now, WallEpoch::default(), room));
        let message = decoded(&patch);
        taken += patch.counts.records + patch.counts.ahead;
        heads += u64::from(!patch.more);
        if message.records.iter().chain(&message.ahead).any(|record| &record.key[..] == b"hot") {
            hot_arrivals += 1;
            longest_gap = longest_gap.max(millisecond - last_hot);
            last_hot = millisecond;
        }
        cursor = patch.next;
    }
    assert!(taken <= 120 * 950, "the client takes some 900 a second, not {}", taken / 120);
    assert!(hot_arrivals >= 120 * 5, "{hot_arrivals} times in two minutes");
    assert!(longest_gap <= 1_000, "{longest_gap} ms without it");
    assert!(cursor.offset.0 > 100_000, "and the rest goes on: at {}, at the head {heads} times", cursor.offset);
}
