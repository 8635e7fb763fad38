//! Random histories at a home, a replica that follows by random transfers, and readers of the replica.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{
    Ask, Cursor, Log, LogSettings, NewRecord, Patch, PressureWindows, Priority, ReplicaCursor, Transfer,
};
use super::decoded;
use super::model::Model;
use super::random::{options, records, settings};
use super::world::{Options, TOPIC, WALL};
use crate::clock::Moment;
use crate::ids::Offset;

const READERS: usize = 3;
const PRESSURE: PressureWindows = PressureWindows { low: Duration::from_millis(20), normal: Duration::from_millis(60) };

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<NewRecord>),
    Replace(Vec<NewRecord>),
    Wait(u64),
    ExpireKeys,
    Retain {
        heeds_replica: bool,
    },
    /// Makes the frame that the next transfer may share.
    MakeShared,
    /// A transfer into the channel.
    Send {
        room: usize,
        shared: Shared,
    },
    /// One transfer out of the channel.
    Deliver,
    RetainReplica {
        heeds_readers: bool,
    },
    /// The shard detaches and attaches again.
    Attach,
    Read {
        reader: usize,
        room: usize,
        is_pressed: bool,
        clock_lag_ms: u64,
    },
    Compare(Vec<Question>),
}

#[derive(Clone, Copy, Debug)]
enum Shared {
    /// What `MakeShared` made, however old.
    Made,
    /// One that some of the live events are not in.
    Pressed,
    None,
}

/// A cursor that asks home and replica the same.
#[derive(Clone, Debug)]
struct Question {
    options: Options,
    /// Where it is, as a part of 256 of the way to the head; anew if there is none.
    at: Option<u8>,
    resumes: bool,
    room: usize,
    is_pressed: bool,
}

/// A client of the replica that applies patches.
#[derive(Default)]
struct Reader {
    options: Options,
    /// None until the replica has come to its position.
    cursor: Option<Cursor>,
    position: u64,
    /// Events up to here were gone when it began from nothing.
    never_due: u64,
    state: BTreeMap<Bytes, Bytes>,
}

struct World {
    home: Log,
    model: Model,
    cursor: ReplicaCursor,
    shared: Option<Patch>,
    channel: VecDeque<Transfer>,
    replica: Log,
    now: Moment,
    readers: Vec<Reader>,
}

impl World {
    fn new(settings: LogSettings, options: Vec<Options>) -> Self {
        let home = Log::new(settings);
        let readers = options.into_iter().map(|options| Reader { options, ..Reader::default() });
        Self {
            cursor: home.start_replica(),
            home,
            model: Model::new(settings),
            shared: None,
            channel: VecDeque::new(),
            replica: Log::replica(settings),
            now: Moment(0),
            readers: readers.collect(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish(records) => {
                self.model.publish(&records, self.now);
                _ = self.home.apply(records, false, self.now);
            }
            Step::Replace(records) => {
                self.model.replace(&records, self.now);
                _ = self.home.apply(records, true, self.now);
            }
            Step::Wait(ms) => self.now = self.now + Duration::from_millis(ms),
            Step::ExpireKeys => {
                self.model.expire_keys(self.now);
                self.home.expire_keys(self.now);
                assert_eq!(self.replica.expire_keys(self.now), 0, "key windows run at home only");
            }
            Step::Retain { heeds_replica } => {
                self.model.retain(self.now);
                self.home.retain(self.now, heeds_replica.then(|| self.cursor.needs()));
            }
            Step::MakeShared => self.shared = self.make_shared(None),
            Step::Send { room, shared } => {
                let shared = match shared {
                    Shared::Made => self.shared.take(),
                    Shared::Pressed => self.make_shared(Some(PRESSURE)),
                    Shared::None => None,
                };
                self.send(room, shared.as_ref());
            }
            Step::Deliver => self.deliver(),
            Step::RetainReplica { heeds_readers } => {
                let cursors = self.readers.iter().filter_map(|reader| reader.cursor.as_ref());
                let lowest = cursors.filter(|cursor| cursor.is_catching_up()).map(Cursor::needs).min();
                self.replica.retain(self.now, lowest.filter(|_| heeds_readers));
                assert_eq!(self.replica.next_retention(), Moment::NEVER);
            }
            Step::Attach => {
                self.cursor = self.home.start_replica();
                self.channel.clear();
                self.replica = Log::replica(self.home.settings);
                self.readers.iter_mut().for_each(|reader| reader.cursor = None);
            }
            Step::Read { reader, room, is_pressed, clock_lag_ms } => {
                self.read(reader, room, is_pressed, clock_lag_ms);
            }
            Step::Compare(questions) => {
                self.synchronize();
                questions.iter().for_each(|question| self.compare(question));
            }
        }
        assert_eq!(self.home.head().0, self.model.head());
        assert_eq!(self.replica.next_key_expiry(), Moment::NEVER);
    }

    fn make_shared(&mut self, pressure: Option<PressureWindows>) -> Option<Patch> {
        let cursor = Cursor::at(self.cursor.offset());
        let ask = Ask { pressure, ..Ask::plain(self.now, WALL, 600) };
        self.home.is_valid(&cursor).then(|| self.home.patch(TOPIC, &cursor, &ask))
    }

    fn send(&mut self, room: usize, shared: Option<&Patch>) {
        let was_behind = self.home.is_behind(&self.cursor);
        let (transfer, next) = self.home.transfer(TOPIC, &self.cursor, shared, self.now, WALL, room);
        assert_eq!(self.home.is_behind(&next), transfer.has_more(), "the last one leaves nothing to tell");
        assert!(was_behind || transfer.beside.is_empty() && transfer.fates.to() == self.cursor.needs());
        assert_eq!(transfer.patch.to, next.offset());
        let is_one_large = transfer.patch.counts.records == 1;
        let is_own = shared.is_none_or(|shared| shared.frame.as_ptr() != transfer.patch.frame.as_ptr());
        assert!(!is_own || transfer.patch.payload_len <= room.max(60) || is_one_large, "own ones keep to their room");
        self.cursor = next;
        self.channel.push_back(transfer);
    }

    fn deliver(&mut self) {
        let Some(transfer) = self.channel.pop_front() else { return };
        let (before, more) = (self.replica.head(), transfer.has_more());
        let is_current = self.replica.is_current();
        let to = transfer.patch.to;
        let memory = self.replica.memory_bytes();
        let weight = transfer.weight();
        self.replica.follow(transfer);
        if more {
            assert_eq!((self.replica.head(), self.replica.is_current()), (before, is_current), "it waits for the rest");
            assert!(self.replica.is_current() || self.replica.memory_bytes() >= memory.min(weight));
        } else {
            assert_eq!((self.replica.head(), self.replica.is_current()), (to, true));
        }
    }

    /// Both at one head, and nothing pending.
    fn synchronize(&mut self) {
        self.model.retain(self.now);
        self.home.retain(self.now, None);
        while self.home.is_behind(&self.cursor) {
            self.send(200, None);
        }
        while !self.channel.is_empty() {
            self.deliver();
        }
        self.replica.retain(self.now, None);
        let facts = |log: &Log| {
            let state: Vec<_> =
                log.state().map(|(key, value, offset)| (key.to_vec(), value.to_vec(), offset)).collect();
            let counts = (log.key_count(), log.tombstone_count(), log.event_count());
            let pending: Vec<_> =
                (0..=log.head().0).map(|offset| log.pending_priority(&Cursor::at(Offset(offset)))).collect();
            (log.head(), log.floor(), log.checksum(), counts, pending, state)
        };
        assert_eq!(facts(&self.replica), facts(&self.home));
    }

    fn compare(&mut self, question: &Question) {
        let Self { home, replica, now, .. } = self;
        let offset = question.at.map(|at| Offset(home.head().0 * u64::from(at) / 255));
        let (mut cursor, resumed) = home.start(offset);
        assert_eq!(replica.start(offset), (cursor.clone(), resumed));
        if let (Some(offset), false) = (offset, question.resumes) {
            cursor = Cursor::at(offset);
        }
        let ask = Ask {
            pressure: question.is_pressed.then_some(PRESSURE),
            window: question.options.window,
            filter: question.options.filter.as_ref(),
            only_new_events: question.options.only_new_events,
            ..Ask::plain(*now, WALL, question.room)
        };
        loop {
            assert_eq!(replica.is_valid(&cursor), home.is_valid(&cursor));
            let patch = home.patch(TOPIC, &cursor, &ask);
            let same = replica.patch(TOPIC, &cursor, &ask);
            assert_eq!(decoded(&same), decoded(&patch));
            assert_eq!(format!("{same:?}"), format!("{patch:?}"));
            cursor = patch.next;
            if !patch.more {
                break;
            }
        }
    }

    /// One patch for one reader of the replica. True if there is more.
    fn read(&mut self, reader: usize, room: usize, is_pressed: bool, clock_lag_ms: u64) -> bool {
        let Self { model, replica, now, readers, .. } = self;
        let reader = &mut readers[reader];
        if !replica.is_current() || reader.position > replica.head().0 {
            return false;
        }
        let mut cursor = reader.cursor.take().unwrap_or_else(|| {
            reader.never_due = 0;
            let resume = Some(reader.position).filter(|&position| position > 0);
            replica.start(resume.map(Offset)).0
        });
        if !replica.is_valid(&cursor) {
            cursor = replica.start(None).0;
        }
        if cursor.is_reset_due() {
            reader.never_due = replica.kinds.evicted_to().0;
        }
        let ask = Ask {
            pressure: is_pressed.then_some(PRESSURE),
            window: reader.options.window,
            filter: reader.options.filter.as_ref(),
            only_new_events: reader.options.only_new_events,
            ..Ask::plain(*now - Duration::from_millis(clock_lag_ms), WALL, room)
        };
        let patch = replica.patch(TOPIC, &cursor, &ask);
        let message = decoded(&patch);

        let from = if patch.reset { 0 } else { reader.position };
        assert_eq!((message.from, message.to, message.more), (from, patch.to.0, patch.to < replica.head()));
        assert_eq!(message.records.len() as u64, patch.counts.records, "what is counted as sent is there");
        for record in &message.records {
            let sent = &model.at(record.offset).record;
            assert_eq!((&record.key, &record.value, record.delete), (&sent.key, &sent.value, sent.is_delete));
        }
        if reader.options.filter.is_none() && !reader.options.only_new_events {
            let sent: Vec<u64> = message.records.iter().map(|record| record.offset).collect();
            let is_missing = |offset: &u64| model.at(*offset).record.is_event() && !sent.contains(offset);
            let missing: Vec<u64> = (from.max(reader.never_due) + 1..=message.to).filter(is_missing).collect();
            let counts = patch.counts;
            assert_eq!(
                counts.expired + counts.overrun + counts.lost,
                missing.len() as u64,
                "{missing:?} of {message:?}"
            );
            let critical = missing.iter().filter(|&&offset| model.at(offset).record.priority == Priority::Critical);
            assert_eq!(counts.lost, critical.count() as u64);
        }
        if patch.reset {
            reader.state.clear();
        }
        for record in message.records.into_iter().chain(message.ahead).filter(|record| !record.key.is_empty()) {
            if record.delete {
                reader.state.remove(&record.key);
            } else {
                reader.state.insert(record.key, record.value);
            }
        }
        if !patch.more {
            reader.never_due = 0;
            if reader.options.filter.is_none() {
                assert_eq!(message.checksum, Some(replica.checksum()));
                let state: BTreeMap<_, _> =
                    replica.state().map(|(key, value, _)| (key.to_vec().into(), value.to_vec().into())).collect();
                assert_eq!(reader.state, state, "at the head the reader holds the state");
            }
        }
        reader.position = message.to;
        reader.cursor = Some(patch.next);
        patch.more
    }
}

fn question() -> impl Strategy<Value = Question> {
    let room = prop_oneof![Just(0_usize), 60_usize..260, 200_usize..2_000];
    (options(), prop::option::weighted(0.8, any::<u8>()), any::<bool>(), room, any::<bool>())
        .prop_map(|(options, at, resumes, room, is_pressed)| Question { options, at, resumes, room, is_pressed })
}

fn step() -> impl Strategy<Value = Step> {
    let room = prop_oneof![Just(0_usize), 60_usize..260, 200_usize..2_000];
    let shared = prop_oneof![Just(Shared::Made), Just(Shared::Pressed), Just(Shared::None)];
    let read = (0..READERS, room.clone(), any::<bool>(), 0_u64..3)
        .prop_map(|(reader, room, is_pressed, clock_lag_ms)| Step::Read { reader, room, is_pressed, clock_lag_ms });
    prop_oneof![
        8 => records(false).prop_map(Step::Publish),
        2 => records(true).prop_map(Step::Replace),
        4 => (1_u64..80).prop_map(Step::Wait),
        2 => Just(Step::ExpireKeys),
        4 => any::<bool>().prop_map(|heeds_replica| Step::Retain { heeds_replica }),
        3 => Just(Step::MakeShared),
        8 => (room, shared).prop_map(|(room, shared)| Step::Send { room, shared }),
        8 => Just(Step::Deliver),
        4 => any::<bool>().prop_map(|heeds_readers| Step::RetainReplica { heeds_readers }),
        1 => Just(Step::Attach),
        8 => read,
        2 => prop::collection::vec(question(), 1..4).prop_map(Step::Compare),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_replica_serves_any_cursor_as_its_home_would(
        settings in settings(), options in prop::collection::vec(options(), READERS),
        steps in prop::collection::vec(step(), 1..150), last in prop::collection::vec(question(), 4),
    ) {
        let mut world = World::new(settings, options);
        steps.into_iter().for_each(|step| world.step(step));
        world.step(Step::Compare(last));
        (0..READERS).for_each(|reader| while world.read(reader, 150, false, 0) {});
        for reader in world.readers.iter().filter(|reader| reader.options.filter.is_none()) {
            prop_assert_eq!(&reader.state, &world.model.state(), "every reader converges");
        }
    }
}
