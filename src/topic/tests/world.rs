//! A log and the model beside it, taken through the same steps and read by the same subscribers: whatever the log says is
//! compared. The steps come from random tests and from fuzzing.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::super::{Ask, Cursor, Filter, Log, LogSettings, NewRecord, Patch, PressureWindows, Priority};
use super::decoded;
use super::model::{Class, Model, Past, until};
use crate::clock::{Moment, WallEpoch};
use crate::ids::{Offset, TopicId};
use crate::protocol::wire;

pub(super) const TOPIC: TopicId = TopicId(300);
pub(super) const WALL: WallEpoch = WallEpoch { boot_us: 1_700_000_000_000_000 };
pub(crate) const CLIENTS: usize = 3;

#[derive(Clone, Debug)]
pub(crate) enum Step {
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
pub(crate) struct Options {
    pub(crate) window: Option<Duration>,
    pub(crate) filter: Option<Filter>,
    pub(crate) only_new_events: bool,
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

pub(crate) struct World {
    log: Log,
    model: Model,
    now: Moment,
    clients: Vec<Client>,
}

impl World {
    /// One client for each of `options`, of which there are [`CLIENTS`].
    pub(crate) fn new(settings: LogSettings, options: Vec<Options>) -> Self {
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

    pub(crate) fn step(&mut self, step: Step) {
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
