//! A subscriber's side in the plainest form: applies what comes, and holds everything against what must be so.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::AddAssign;

use tidegate::feed::book::{Book, TickerIndex, Verdict};
use tidegate::protocol::wire::{self, Priority, server_frame::Body};

use super::input::{Expected, Moment, PREFIX, State, World};

/// Which part of the records a subscriber asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    /// Keys that start with [`PREFIX`], and events.
    Prefixed,
    /// Records of high priority and above: of these inputs, trades.
    Important,
}

/// What subscribers saw, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) patches: u64,
    /// Patches that led to a head, where the state was the expected one.
    pub(super) heads: u64,
    /// Heads at which the oracle knew the top of the book.
    pub(super) judged: u64,
    /// Heads without a filter, whose checksum was recomputed.
    pub(super) checksums: u64,
    pub(super) resumed: u64,
    /// Resumes that were refused, since the log had let the position go.
    pub(super) restarted: u64,
    pub(super) cuts: u64,
    pub(super) ahead: u64,
    // The ledger.
    pub(super) due: u64,
    pub(super) records: u64,
    pub(super) conflated: u64,
    pub(super) filtered: u64,
    pub(super) expired: u64,
    pub(super) overrun: u64,
    pub(super) lost: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.patches += other.patches;
        self.heads += other.heads;
        self.judged += other.judged;
        self.checksums += other.checksums;
        self.resumed += other.resumed;
        self.restarted += other.restarted;
        self.cuts += other.cuts;
        self.ahead += other.ahead;
        self.due += other.due;
        self.records += other.records;
        self.conflated += other.conflated;
        self.filtered += other.filtered;
        self.expired += other.expired;
        self.overrun += other.overrun;
        self.lost += other.lost;
    }
}

/// One subscriber, over all of its connections.
pub(super) struct Follower<'w> {
    world: &'w World,
    part: Part,
    topics: BTreeMap<String, Followed<'w>>,
    routes: HashMap<u32, String>,
    pub(super) tally: Tally,
}

struct Followed<'w> {
    expected: &'w Expected,
    tickers: &'w TickerIndex,
    epoch: u64,
    cursor: u64,
    is_at_head: bool,
    state: State,
    book: Option<Book>,
    /// `Subscribed` was said and its patch did not come yet: whether it goes on.
    announced: Option<bool>,
    /// No head yet since the last `reset`.
    is_snapshot: bool,
    /// The furthest offset that was ever passed; events up to here come again only in a snapshot.
    passed: u64,
    events: Events,
}

/// What became of the events of a topic.
#[derive(Default)]
pub(super) struct Events {
    pub(super) seen: HashSet<u64>,
    pub(super) lost: u64,
    /// The log had let them go before this subscriber came.
    pub(super) not_due: u64,
}

impl Events {
    /// An event that comes for the first time, with the value that was published.
    pub(super) fn take(&mut self, expected: &Expected, offset: u64, value: &[u8]) {
        assert_eq!(expected.events.get(&offset).map(|it| &**it), Some(value), "event {offset}");
        assert!(self.seen.insert(offset), "event {offset} came twice");
    }

    /// Every event is accounted for.
    pub(super) fn check(&self, expected: &Expected) {
        let missing = expected.events.len() as u64 - self.seen.len() as u64;
        assert_eq!(missing, self.lost + self.not_due, "events that are neither here nor counted");
    }
}

impl<'w> Follower<'w> {
    pub(super) fn new(world: &'w World, part: Part) -> Self {
        let (topics, routes) = (BTreeMap::new(), HashMap::new());
        Self { world, part, topics, routes, tally: Tally::default() }
    }

    /// Where a new connection goes on.
    pub(super) fn position(&self, topic: &str) -> Option<wire::Position> {
        let topic = self.topics.get(topic).filter(|topic| topic.cursor > 0)?;
        Some(wire::Position { epoch: topic.epoch, offset: topic.cursor })
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self) {
        self.tally.cuts += 1;
        self.routes.clear();
        for topic in self.topics.values_mut() {
            topic.announced = None;
            topic.is_at_head = false;
        }
    }

    /// Whether it has been brought to the end of these topics.
    pub(super) fn is_at_end(&self, wanted: &[String]) -> bool {
        wanted.iter().all(|name| {
            self.topics.get(name).is_some_and(|topic| topic.is_at_head && topic.cursor == topic.expected.last)
        })
    }

    pub(super) fn take(&mut self, frame: wire::ServerFrame) {
        match frame.body {
            Some(Body::Subscribed(subscribed)) => self.subscribed(subscribed),
            Some(Body::Patch(patch)) => self.patch(patch),
            other => panic!("a subscriber is not told {other:?}"),
        }
    }

    fn subscribed(&mut self, subscribed: wire::Subscribed) {
        if subscribed.topic_id == 0 {
            return;
        }
        let (input, expected) = self.world.topic(&subscribed.topic);
        let book = self.part == Part::Whole && subscribed.topic.starts_with("depth/");
        let topic = self.topics.entry(subscribed.topic.clone()).or_insert_with(|| Followed {
            expected,
            tickers: &input.tickers,
            epoch: subscribed.epoch,
            cursor: 0,
            is_at_head: false,
            state: State::default(),
            book: book.then(Book::default),
            announced: None,
            is_snapshot: true,
            passed: 0,
            events: Events::default(),
        });
        assert_eq!(topic.epoch, subscribed.epoch, "the log of {} was never lost", subscribed.topic);
        assert!(subscribed.head <= expected.last);
        let is_restarted = !subscribed.resumed && topic.cursor > 0;
        assert!(!is_restarted || expected.events.is_empty(), "what trades were is known for longer than they are");
        topic.announced = Some(subscribed.resumed);
        self.tally.resumed += u64::from(subscribed.resumed);
        self.tally.restarted += u64::from(is_restarted);
        self.routes.insert(subscribed.topic_id, subscribed.topic);
    }

    fn patch(&mut self, patch: wire::Patch) {
        let name = &self.routes[&patch.topic_id];
        let topic = self.topics.get_mut(name).expect("made by its Subscribed");
        assert_eq!(patch.reset, topic.announced.take().is_some_and(|is_resumed| !is_resumed), "{name}: a reset");
        if patch.reset {
            topic.cursor = 0;
            topic.state = State::default();
            topic.book = topic.book.take().map(|_| Book::default());
            topic.is_snapshot = true;
        }
        assert_eq!(patch.from, topic.cursor, "{name}: the chain broke");
        let passed = patch.to.checked_sub(patch.from).expect("a patch does not go back");
        let told = patch.records.len() as u64 + patch.filtered + patch.expired + patch.overrun + patch.lost;
        let conflated = passed.checked_sub(told).unwrap_or_else(|| panic!("{name}: {told} of {passed} offsets"));

        let mut last = patch.from;
        for record in &patch.records {
            let offset = if record.offset == 0 { patch.to } else { record.offset };
            assert!(last < offset && offset <= patch.to, "{name}: {offset} after {last}, up to {}", patch.to);
            last = offset;
            topic.take(record, offset, self.part);
        }
        assert!(patch.more || patch.ahead.is_empty(), "nothing is ahead of the head");
        for record in &patch.ahead {
            assert!(record.offset > patch.to && !record.key.is_empty(), "{name}: no record ahead: {record:?}");
            topic.take(record, record.offset, self.part);
        }
        topic.cursor = patch.to;
        topic.passed = topic.passed.max(patch.to);
        topic.is_at_head = !patch.more;

        // No input has windows, and only trades are events, all of them critical.
        assert_eq!((patch.expired, patch.overrun), (0, 0), "{name}");
        assert!(patch.lost == 0 || !topic.expected.events.is_empty(), "{name} lost events that it has not");
        topic.events.lost += patch.lost;
        if !topic.expected.events.is_empty() {
            assert!(conflated == 0 || topic.is_snapshot, "{name}: {conflated} events are said to be conflated");
            topic.events.not_due += conflated;
        }
        assert!(patch.filtered == 0 || self.part != Part::Whole);

        if patch.more {
            assert_eq!(patch.checksum, None, "{name}: the checksum of no moment");
        } else {
            topic.is_snapshot = false;
            self.tally.judged += u64::from(topic.check_head(name, self.part));
            self.tally.heads += 1;
            if self.part == Part::Whole {
                assert_eq!(patch.checksum, Some(topic.state.digest().checksum), "{name}: the checksum at {}", patch.to);
                self.tally.checksums += 1;
            } else {
                assert_eq!(patch.checksum, None, "{name}: the checksum of a part");
            }
        }
        self.tally += Tally {
            patches: 1,
            ahead: patch.ahead.len() as u64,
            due: passed,
            records: patch.records.len() as u64,
            conflated,
            filtered: patch.filtered,
            lost: patch.lost,
            ..Tally::default()
        };
    }

    /// At the end: the maps are the expected ones, entry by entry, and no event is unaccounted for.
    pub(super) fn finish(self, wanted: &[String]) -> Tally {
        assert!(self.is_at_end(wanted));
        for (name, topic) in &self.topics {
            let is_wanted = |key: &[u8]| match self.part {
                Part::Whole => true,
                Part::Prefixed => key.starts_with(PREFIX),
                Part::Important => false,
            };
            let right: State = part_of(&topic.expected.state, is_wanted);
            assert!(topic.state == right, "{name} ends in another state");
            topic.events.check(topic.expected);
        }
        self.tally
    }
}

fn part_of(state: &State, is_wanted: impl Fn(&[u8]) -> bool) -> State {
    let mut part = State::default();
    state.iter().filter(|(key, _)| is_wanted(key)).for_each(|(key, value)| part.set(key, value));
    part
}

impl Followed<'_> {
    fn take(&mut self, record: &wire::Record, offset: u64, part: Part) {
        if record.key.is_empty() {
            assert_eq!(record.priority(), Priority::Critical);
            if offset > self.passed || !self.events.seen.contains(&offset) {
                self.events.take(self.expected, offset, &record.value);
            } else {
                assert!(self.is_snapshot, "event {offset} came twice");
            }
            return;
        }
        if record.delete {
            self.state.remove(&record.key);
        } else {
            let is_wanted = match part {
                Part::Whole => true,
                Part::Prefixed => record.key.starts_with(PREFIX),
                Part::Important => false,
            };
            assert!(is_wanted, "{:?} does not pass the filter", record.key);
            self.state.set(&record.key, &record.value);
        }
        if let Some(book) = &mut self.book {
            match record.delete {
                true => book.remove(&record.key),
                false => book.set(&record.key, &record.value).expect("a level of the book"),
            }
        }
    }

    /// The state at a head is that of the moment; whether the oracle could say so, too.
    fn check_head(&self, name: &str, part: Part) -> bool {
        let Moment { whole, prefixed } = self.expected.moment(self.cursor);
        match part {
            Part::Whole => assert_eq!(self.state.digest(), *whole, "{name} at {}", self.cursor),
            Part::Prefixed => assert_eq!(self.state.digest(), *prefixed, "{name} at {}", self.cursor),
            Part::Important => assert_eq!(self.state.digest().keys, 0, "{name} at {}", self.cursor),
        }
        self.book.as_ref().is_some_and(|book| part == Part::Whole && is_right(self.tickers, book))
    }
}

/// Whether the oracle knows the top of the book; a wrong one fails the test.
pub(super) fn is_right(tickers: &TickerIndex, book: &Book) -> bool {
    match tickers.judge(book) {
        Verdict::Right => true,
        Verdict::Unknown => false,
        wrong @ Verdict::Wrong { .. } => panic!("a wrong book: {wrong}"),
    }
}
