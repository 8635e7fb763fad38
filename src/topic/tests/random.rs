//! Random histories, read by random subscribers, against the model.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{Ask, Cursor, Filter, Log, LogSettings, NewRecord, Patch, PressureWindows, Priority};
use super::decoded;
use super::model::{Class, Model, Past, until};
use crate::clock::{Moment, WallEpoch};
use crate::ids::{Offset, TopicId};
use crate::protocol::wire;

pub(super) const TOPIC: TopicId = TopicId(300);
pub(super) const WALL: WallEpoch = WallEpoch { boot_us: 1_700_000_000_000_000 };
const CLIENTS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<NewRecord>),
    Replace(Vec<NewRecord>),
    Wait(u64),
    ExpireKeys,
    Retain,
    Read {
        client: usize,
        room: usize,
        is_pressed: bool,
    },
    ReadToHead {
        client: usize,
        room: usize,
    },
    /// From one of the states that the client has been in, or from none.
    Resume {
        client: usize,
        earlier: Option<usize>,
    },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub(super) window: Option<Duration>,
    pub(super) filter: Option<Filter>,
    pub(super) only_new_events: bool,
}

/// A client that applies patches, and what the model has to know of it.
struct Client {
    options: Options,
    cursor: Cursor,
    past: Past,
    state: BTreeMap<Bytes, Bytes>,
    /// Where the client itself believes it is.
    position: u64,
    /// Where it was and what it held after each patch.
    earlier: Vec<(u64, BTreeMap<Bytes, Bytes>)>,
}

struct World {
    log: Log,
    model: Model,
    now: Moment,
    clients: Vec<Client>,
}

impl World {
    fn new(settings: LogSettings, options: Vec<Options>) -> Self {
        let log = Log::new(settings);
        let clients = options.into_iter().map(|options| Client {
            options,
            cursor: log.start(None).0,
            past: Past::default(),
            state: BTreeMap::new(),
            position: 0,
            earlier: Vec::new(),
        });
        Self { clients: clients.collect(), log, model: Model::new(settings), now: Moment(0) }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish(records) => {
                let before = self.model.head();
                let is_applied = self.model.publish(&records, self.now);
                let applied = self.log.apply(records, false, self.now);
                assert_eq!(applied.is_ok(), is_applied);
                if let Ok(applied) = applied {
                    assert_eq!(applied.last.0, self.model.head());
                    assert_eq!(applied.appended, self.model.head() - before);
                }
            }
            Step::Replace(records) => {
                let before = self.model.head();
                let is_applied = self.model.replace(&records, self.now);
                let applied = self.log.apply(records, true, self.now);
                assert_eq!(
                    applied.map(|applied| applied.appended).ok(),
                    is_applied.then(|| self.model.head() - before)
                );
            }
            Step::Wait(ms) => self.now = self.now + Duration::from_millis(ms),
            Step::ExpireKeys => {
                assert_eq!(self.log.expire_keys(self.now), self.model.expire_keys(self.now));
                assert!(self.log.next_key_expiry() > self.now);
            }
            Step::Retain => {
                let catching_up = self.clients.iter().filter(|client| client.cursor.is_catching_up());
                let lowest = catching_up.map(|client| client.cursor.needs()).min();
                self.log.retain(self.now, lowest);
                self.model.retain(self.now);
                assert!(self.log.next_retention() > self.now);
            }
            Step::Read { client, room, is_pressed } => {
                self.read(client, room, is_pressed);
            }
            Step::ReadToHead { client, room } => while self.read(client, room, false) {},
            Step::Resume { client, earlier } => {
                let client = &mut self.clients[client];
                let known = client.earlier.len().max(1);
                let chosen = earlier.and_then(|back| client.earlier.iter().rev().nth(back % known).cloned());
                let offset = chosen.as_ref().map(|(position, _)| *position);
                if let Some((position, state)) = chosen {
                    (client.position, client.state) = (position, state);
                }
                let (cursor, resumed) = self.log.start(offset.map(Offset));
                let is_known = offset.is_some_and(|offset| self.log.floor().0 <= offset && offset <= self.model.head());
                assert_eq!(resumed, is_known);
                client.cursor = cursor;
                client.past = Past::default();
                if !resumed {
                    client.past =
                        Past { reset_head: self.model.head(), never_due: self.model.evicted_to(), ahead_to: 0 };
                }
            }
        }
        assert_eq!(self.log.head().0, self.model.head());
        assert_eq!(self.log.checksum(), self.model.checksum());
        assert_eq!(
            (self.log.key_count(), self.log.tombstone_count()),
            (self.model.values.len(), self.model.deletes.len())
        );
        let state: BTreeMap<Bytes, Bytes> = self
            .log
            .state()
            .map(|(key, value, _)| (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)))
            .collect();
        assert_eq!(state, self.model.state());
    }

    /// One patch for one client. True if there is more.
    fn read(&mut self, client: usize, room: usize, is_pressed: bool) -> bool {
        let Self { log, model, now, clients } = self;
        let client = &mut clients[client];
        let options = client.options.clone();
        let pressure = PressureWindows { low: Duration::from_millis(20), normal: Duration::from_millis(60) };
        let ask = Ask {
            pressure: is_pressed.then_some(pressure),
            window: options.window,
            filter: options.filter.as_ref(),
            only_new_events: options.only_new_events,
            ..Ask::plain(*now, WALL, room)
        };
        let pending = log.pending_priority(&client.cursor);
        let expected_pending =
            (client.cursor.offset.0 + 1..=model.head()).map(|offset| model.at(offset).record.priority).max();
        assert_eq!(pending, expected_pending);

        let is_reset_due = client.cursor.is_reset_due();
        if !log.is_valid(&client.cursor) {
            assert!(client.cursor.needs() < log.floor(), "only the floor ends a chain");
            client.past = Past { reset_head: model.head(), never_due: model.evicted_to(), ahead_to: 0 };
        }
        let is_valid = log.is_valid(&client.cursor);
        let patch = log.patch(TOPIC, &client.cursor, &ask);
        let message = decoded(&patch);

        // The chain.
        assert_eq!(patch.reset, is_reset_due || !is_valid);
        let from = if patch.reset { 0 } else { client.position };
        assert_eq!((patch.from.0, message.from, message.to), (from, from, patch.to.0));
        assert_eq!((message.topic_id, message.reset, message.more), (TOPIC.0, patch.reset, patch.more));
        assert!(patch.to.0 > from || from == model.head());
        assert_eq!(patch.more, patch.to.0 < model.head());
        assert_eq!(patch.next.offset, patch.to);
        assert_eq!(patch.next.is_catching_up(), patch.more);

        // Every offset of it.
        let (mut counts, sent) = model.counts(from, patch.to.0, client.past, &ask);
        counts.ahead = message.ahead.len() as u64;
        assert_eq!(patch.counts, counts);
        let counted = (message.filtered, message.expired, message.overrun, message.lost);
        assert_eq!(counted, (counts.filtered, counts.expired, counts.overrun, counts.lost));
        let expected: Vec<wire::Record> = sent.iter().map(|&offset| model.wire(offset, *now)).collect();
        assert_eq!(message.records, expected);
        check_ahead(model, client.past, &ask, patch.to.0, &message);
        check_room(model, client.past, &ask, from, &patch, &sent);
        check_times(model, &ask, &patch, &message, &sent);

        // The client's state.
        if patch.reset {
            client.state.clear();
        }
        for record in message.records.into_iter().chain(message.ahead).filter(|record| !record.key.is_empty()) {
            if record.delete {
                client.state.remove(&record.key);
            } else {
                client.state.insert(record.key, record.value);
            }
        }
        let is_whole = !patch.more && options.filter.is_none();
        assert_eq!(message.checksum, is_whole.then(|| model.checksum()));
        if !patch.more && options.filter.as_ref().is_none_or(|filter| filter.min_priority.is_none()) {
            let prefix = options.filter.map(|filter| filter.key_prefix).unwrap_or_default();
            let expected: BTreeMap<_, _> =
                model.state().into_iter().filter(|(key, _)| key.starts_with(&prefix)).collect();
            assert_eq!(client.state, expected, "at the head the client holds the state");
        }

        client.position = patch.to.0;
        client.earlier.push((client.position, client.state.clone()));
        client.past = if patch.more { Past { ahead_to: model.head(), ..client.past } } else { Past::default() };
        client.cursor = patch.next;
        patch.more
    }
}

/// `ahead` is the newest of what may be sent ahead, in order.
fn check_ahead(model: &Model, past: Past, ask: &Ask<'_>, to: u64, message: &wire::Patch) {
    if !message.more {
        assert!(message.ahead.is_empty());
        return;
    }
    let lowest = to.max(past.ahead_to);
    let candidates: Vec<wire::Record> = (lowest + 1..=model.head())
        .filter(|&offset| !model.at(offset).record.is_event() && model.class(offset, past, ask) == Class::Sent)
        .map(|offset| model.wire(offset, ask.now))
        .collect();
    assert!(candidates.ends_with(&message.ahead), "{:?} of {candidates:?}", message.ahead);
}

/// A patch keeps to its room, and ends short of the head only for want of it.
fn check_room(model: &Model, past: Past, ask: &Ask<'_>, from: u64, patch: &Patch, sent: &[u64]) {
    let is_one_large = sent.len() == 1 && patch.counts.ahead == 0;
    assert!(patch.payload_len <= ask.room || sent.is_empty() || is_one_large, "{} of {}", patch.payload_len, ask.room);
    if patch.more {
        let (_, all) = model.counts(from, model.head(), past, ask);
        let bytes: usize = all.iter().map(|&offset| encoded_len(&model.wire(offset, ask.now))).sum();
        assert!(bytes + HEAD_AT_MOST > ask.room, "everything would have fitted");
        // Half a room is for the records, if they are small enough to fill it.
        assert!(!sent.is_empty(), "a chunk moves on");
    }
}

/// More than the fields before the records ever take in these histories.
const HEAD_AT_MOST: usize = 60;

fn encoded_len(record: &wire::Record) -> usize {
    let len = prost::Message::encoded_len(record);
    1 + prost::length_delimiter_len(len) + len
}

fn check_times(model: &Model, ask: &Ask<'_>, patch: &Patch, message: &wire::Patch, sent: &[u64]) {
    let given = sent.iter().copied().chain(message.ahead.iter().map(|record| record.offset));
    let newest = given.max().unwrap_or(model.head());
    let arrived = if newest == 0 { Moment(0) } else { model.at(newest).arrived };
    assert_eq!(message.time_us, WALL.unix_us(arrived));
    let events = sent.iter().map(|&offset| model.at(offset)).filter(|sent| sent.record.is_event());
    let (mut valid_until, mut oldest_event) = (Moment::NEVER, Moment::NEVER);
    for event in events.filter(|event| event.record.priority != Priority::Critical) {
        valid_until = valid_until.min(until(event.record.priority, event.arrived, event.deadline, ask));
        oldest_event = oldest_event.min(event.arrived);
    }
    assert_eq!((patch.valid_until, patch.oldest_event), (valid_until, oldest_event));
    assert!(valid_until > ask.now, "no frame is begun with an event whose window has passed");
}

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
