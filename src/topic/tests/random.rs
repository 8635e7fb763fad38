//! Random histories, read by random subscribers, against the model.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{Filter, LogSettings, NewRecord, Priority};
use super::world::{CLIENTS, Options, Step, World};

pub(super) fn records(is_keyed_only: bool) -> impl Strategy<Value = Vec<NewRecord>> {
    let kind = if is_keyed_only { 3_u8..10 } else { 0_u8..10 };
    let key = prop::sample::select(vec!["a1", "a2", "a3", "b1", "b2", "b3", "b4"]);
    let value = prop_oneof![4 => "[xy]{0,2}", 1 => "[z]{120,140}"];
    let window = prop::option::weighted(0.4, 1_u64..120);
    let record =
        (kind, key, value, 0_usize..4, window).prop_map(move |(kind, key, value, priority, window)| NewRecord {
            key: if kind < 4 && !is_keyed_only { Bytes::new() } else { key.into() },
            is_delete: kind >= 8,
            value: if kind >= 8 { Bytes::new() } else { value.into() },
            priority: Priority::ALL[priority],
            window: window.filter(|_| kind < 8).map(Duration::from_millis),
        });
    prop::collection::vec(record, 1..6)
}

fn step() -> impl Strategy<Value = Step> {
    let room = prop_oneof![Just(0_usize), 60_usize..260, 200_usize..2_000];
    let read = (0..CLIENTS, room.clone(), any::<bool>()).prop_map(|(client, room, is_pressed)| Step::Read {
        client,
        room,
        is_pressed,
    });
    prop_oneof![
        8 => records(false).prop_map(Step::Publish),
        1 => records(true).prop_map(Step::Replace),
        4 => (1_u64..80).prop_map(Step::Wait),
        2 => Just(Step::ExpireKeys),
        4 => Just(Step::Retain),
        8 => read,
        1 => (0..CLIENTS, room).prop_map(|(client, room)| Step::ReadToHead { client, room }),
        1 => (0..CLIENTS, prop::option::weighted(0.8, 0_usize..20))
            .prop_map(|(client, earlier)| Step::Resume { client, earlier }),
    ]
}

pub(super) fn options() -> impl Strategy<Value = Options> {
    let filter =
        (prop::option::of(0_usize..4), prop::sample::select(vec!["", "a", "b1"])).prop_map(|(least, prefix)| Filter {
            min_priority: least.map(|least| Priority::ALL[least]),
            key_prefix: prefix.into(),
        });
    (prop::option::weighted(0.3, 1_u64..100), prop::option::weighted(0.4, filter), prop::bool::weighted(0.3)).prop_map(
        |(window, filter, only_new_events)| Options {
            window: window.map(Duration::from_millis),
            filter,
            only_new_events,
        },
    )
}

pub(super) fn settings() -> impl Strategy<Value = LogSettings> {
    let runs = prop_oneof![0_usize..6, Just(1_000)];
    let tombstones = prop_oneof![0_usize..3, Just(1_000)];
    (3_usize..8, 0_usize..8, 20_usize..400, 20_u64..400, runs, tombstones).prop_map(
        |(keys, events, event_bytes, event_age, kind_runs, tombstones_beyond_keys)| LogSettings {
            keys,
            events,
            event_bytes,
            event_age: Duration::from_millis(event_age),
            kind_runs,
            tombstones_beyond_keys,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whoever_applies_the_patches_holds_the_state_and_every_offset_is_accounted_for(
        settings in settings(), options in prop::collection::vec(options(), CLIENTS),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(settings, options);
        steps.into_iter().for_each(|step| world.step(step));
        (0..CLIENTS).for_each(|client| world.step(Step::ReadToHead { client, room: 150 }));
    }
}
