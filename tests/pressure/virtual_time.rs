//! The production turn over the simulated kernel: the same figures in every run.

use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use tidegate::clock::{Moment, WallEpoch};
use tidegate::config::Config;
use tidegate::kernel::{Held, Kernel as _, Simulation, SimulationConfig, Wait};
use tidegate::protocol::wire::{self, Priority, client_frame, server_frame::Body};
use tidegate::shard::{Ledger, Settings, Shard, ShardCommand};

use super::account::{Account, PRIORITIES, event, plus};
use super::link::Link;

/// What a turn takes at least.
const TURN: Duration = Duration::from_micros(5);
/// The slow reader: 400 bytes every 20 ms are 20 kB/s.
const SLOW_BYTES: usize = 400;
const SLOW_PAUSE: Duration = Duration::from_millis(20);

/// One event of each priority, so often, each so large.
#[derive(Clone, Copy)]
struct Load {
    pause: Duration,
    value_bytes: usize,
    rounds: u32,
    /// The window that events of high priority carry.
    high_window: Option<Duration>,
    /// Each priority in a topic of its own, or all in one.
    has_topic_each: bool,
    /// What the slow reader says in Hello.
    credit_bytes: u64,
}

struct Reader {
    link: Link,
    /// So many bytes at a time, so often; everything at once if it keeps up.
    pace: Option<(usize, Duration)>,
    next_read: Moment,
    has_credit: bool,
    account: Account,
    /// Milliseconds from publish to arrival at the application, by priority.
    ages: [Vec<u64>; 4],
}

pub(super) struct World {
    pub(super) shard: Shard<Simulation>,
    pub(super) commands: Sender<ShardCommand>,
    pub(super) now: Moment,
}

impl World {
    pub(super) fn new() -> Self {
        let simulation = Simulation::new(SimulationConfig {
            // What a client's receive buffer takes by itself, as measured on Linux.
            capacity: 100 * 1024,
            latency: Duration::from_millis(5),
            ..SimulationConfig::default()
        });
        let Config { limits, classes, allowed_origins, trusted, .. } = Config::default();
        let settings = Settings { limits, classes, allowed_origins, trusted, ..Settings::default() };
        let (commands, received) = bounded(1);
        Self { shard: Shard::alone(simulation, settings, WallEpoch::default(), 1, received), commands, now: Moment(0) }
    }

    /// What has become due, and a turn that sees it; then the clock goes to what comes next.
    pub(super) fn turn(&mut self, next: Moment) {
        self.shard.kernel_mut().enter(Wait::No).expect("the simulation does not break");
        let wait = self.shard.prepare(self.now);
        let wait = self.shard.hand_over(wait);
        self.shard.submit(wait).expect("the simulation does not break");
        let due = match wait {
            Wait::No => self.now,
            Wait::AtMost(wait) => self.now + wait,
            Wait::Forever => Moment::NEVER,
        };
        let event = self.shard.kernel_mut().next_event().unwrap_or(Moment::NEVER);
        self.now = due.min(event).min(next).max(self.now + TURN);
        self.shard.kernel_mut().set_now(self.now);
    }
}

impl Reader {
    fn new(world: &mut World, pace: Option<(usize, Duration)>, credit_bytes: u64) -> Self {
        let simulation = world.shard.kernel_mut();
        let link = Link::new(simulation, credit_bytes);
        let subscribe = wire::Subscribe { topic: "**".into(), ..wire::Subscribe::default() };
        link.say(simulation, client_frame::Body::Subscribe(subscribe));
        let has_credit = credit_bytes > 0;
        let (account, ages) = Default::default();
        Self { link, pace, next_read: Moment(0), has_credit, account, ages }
    }

    /// Reads what its pace allows; returns when it reads next.
    fn read(&mut self, world: &mut World, published: &[Moment]) -> Moment {
        let now = world.now;
        let (most, pause) = self.pace.unwrap_or((usize::MAX, Duration::ZERO));
        if now < self.next_read {
            return self.next_read;
        }
        let mut consumed = 0;
        for (frame, len) in self.link.read(world.shard.kernel_mut(), most) {
            match frame.body {
                Some(Body::Patch(patch)) => {
                    consumed += len as u64;
                    let ages = &mut self.ages;
                    self.account.take(&patch, |round, priority| {
                        ages[priority].push(now.since(published[round as usize]).as_millis() as u64);
                    });
                }
                Some(Body::Welcome(_) | Body::Subscribed(_) | Body::GoAway(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        if consumed > 0 && self.has_credit {
            let credit = client_frame::Body::Credit(wire::Credit { bytes: consumed });
            self.link.say(world.shard.kernel_mut(), credit);
        }
        self.next_read = if pause > Duration::ZERO { now + pause } else { now };
        if pause > Duration::ZERO { self.next_read } else { Moment::NEVER }
    }

    /// The age below which 99 of 100 were, in milliseconds.
    fn p99(&self, priority: usize) -> u64 {
        let mut ages = self.ages[priority].clone();
        ages.sort_unstable();
        ages[ages.len() * 99 / 100]
    }
}

/// What became of the events at the slow reader, the other having lost none: low first.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    missing: [u64; 4],
    p99_ms: [u64; 4],
}

fn publish(world: &mut World, publisher: &Link, load: &Load, round: u32) {
    let record = |priority: Priority| {
        let window = load.high_window.filter(|_| priority == Priority::High);
        let window_ms = window.map_or(0, |window| window.as_millis() as u32);
        wire::Record { window_ms, ..event(round, priority, load.value_bytes) }
    };
    let records: Vec<_> = PRIORITIES.into_iter().map(record).collect();
    let publishes: Vec<_> = if load.has_topic_each {
        records.into_iter().enumerate().map(|(at, record)| (format!("by-priority/{at}"), vec![record])).collect()
    } else {
        vec![("mixed".to_owned(), records)]
    };
    for (topic, records) in publishes {
        let publish = wire::Publish { topic, records, ..wire::Publish::default() };
        publisher.say(world.shard.kernel_mut(), client_frame::Body::Publish(publish));
    }
}

/// Plays a load to a slow reader and to one that keeps up, until both are at the head; then everything is given back.
fn play(load: &Load) -> Outcome {
    let mut world = World::new();
    let mut publisher = Link::new(world.shard.kernel_mut(), 0);
    let mut slow = Reader::new(&mut world, Some((SLOW_BYTES, SLOW_PAUSE)), load.credit_bytes);
    let mut prompt = Reader::new(&mut world, None, 0);
    let rounds = u64::from(load.rounds);
    let mut published = Vec::new();
    // Both are subscribed by then.
    let mut next_round = Moment(0) + Duration::from_secs(1);
    let give_up = next_round + load.pause * load.rounds + Duration::from_mins(1);
    while slow.account.position() < 4 * rounds || prompt.account.position() < 4 * rounds {
        assert!(world.now < give_up, "at {} and {}", slow.account.position(), prompt.account.position());
        if published.len() < load.rounds as usize && next_round <= world.now {
            publish(&mut world, &publisher, load, published.len() as u32);
            published.push(world.now);
            next_round = world.now + load.pause;
        }
        let next = slow.read(&mut world, &published).min(prompt.read(&mut world, &published));
        for (frame, _) in publisher.read(world.shard.kernel_mut(), usize::MAX) {
            assert!(matches!(frame.body, Some(Body::Welcome(_) | Body::Published(_))), "{frame:?}");
        }
        world.turn(if published.len() < load.rounds as usize { next.min(next_round) } else { next });
    }

    slow.account.close(rounds);
    prompt.account.close(rounds);
    assert_eq!(prompt.account.missing(rounds), [0; 4], "a reader that keeps up loses nothing");
    let oldest = prompt.ages.iter().flatten().max();
    assert!(oldest <= Some(&11), "and waits for nobody: {oldest:?} ms on a way of ten");
    let expected = plus(&slow.account.told, &prompt.account.told);
    let ledgers =
        world.shard.report().counters.classes.iter().fold(Ledger::default(), |sum, class| plus(&sum, &class.ledger));
    assert_eq!(ledgers, expected, "both ends count the same");

    world.commands.send(ShardCommand::Drain(Duration::from_secs(1))).expect("there is room");
    while !world.shard.is_drained() {
        assert!(world.now < give_up, "shutting down");
        publisher.read(world.shard.kernel_mut(), usize::MAX);
        let next = slow.read(&mut world, &published).min(prompt.read(&mut world, &published));
        world.turn(next.min(world.now + Duration::from_millis(10)));
    }
    assert!(publisher.is_closed && slow.link.is_closed && prompt.link.is_closed, "everyone is told");
    assert_eq!(world.shard.held(), Held::default(), "nothing is left over");
    Outcome { missing: slow.account.missing(rounds), p99_ms: [0, 1, 2, 3].map(|priority| slow.p99(priority)) }
}

/// What is in flight to a reader of 20 kB/s at most, once its window is found: what it reads in the freshness target and in the
/// delay of the smallest window (4 KiB), and one credit or marker more. In milliseconds.
const IN_FLIGHT_MS: u64 = 750;

/// With plain clients, whose pongs confirm, and with credit.
fn for_both_clocks(load: &Load, check: impl Fn(Outcome)) {
    for credit_bytes in [0, 16_000] {
        println!("credit {credit_bytes}");
        let load = Load { credit_bytes, ..*load };
        let outcome = play(&load);
        println!(
            "of {} of each priority {:?} did not come; p99 ages {:?} ms",
            load.rounds, outcome.missing, outcome.p99_ms
        );
        check(outcome);
    }
}

/// 170 bytes of each priority every 20 ms: without low there are still 25 kB/s, without normal 17.
const MIXED: Load = Load {
    pause: Duration::from_millis(20),
    value_bytes: 150,
    rounds: 3_000,
    high_window: None,
    has_topic_each: false,
    credit_bytes: 0,
};

#[test]
fn low_loses_most_normal_less_high_and_critical_nothing() {
    for_both_clocks(&MIXED, |Outcome { missing: [low, normal, high, critical], .. }| {
        assert!((2_850..3_000).contains(&low), "all but those before the pressure");
        // High and critical leave 3 kB/s of the link, which are 18 normal ones a second.
        assert!((1_200..1_960).contains(&normal), "those beyond what the link can take");
        assert_eq!((high, critical), (0, 0));
    });
    assert_eq!(play(&MIXED), play(&MIXED), "the same again");
}

#[test]
fn high_loses_what_its_own_window_says() {
    let load = Load { value_bytes: 200, high_window: Some(Duration::from_secs(3)), ..MIXED };
    for_both_clocks(&load, |Outcome { missing: [low, normal, high, critical], p99_ms }| {
        assert!(low > normal && normal > 2 * high, "low loses most, normal less");
        assert!((100..1_000).contains(&high), "high and critical alone are more than the link can take");
        assert!((3_000..3_000 + IN_FLIGHT_MS).contains(&p99_ms[2]), "what comes of high is as old as its window");
        assert_eq!(critical, 0);
    });
}

#[test]
fn with_a_topic_for_each_priority_the_high_ones_do_not_wait_for_the_others() {
    let load = Load { value_bytes: 120, has_topic_each: true, ..MIXED };
    for_both_clocks(&load, |Outcome { missing: [low, normal, high, critical], p99_ms }| {
        assert!(low > normal + normal / 4 && normal > 0, "low loses most, normal less");
        assert_eq!((high, critical), (0, 0));
        assert!(p99_ms[3] < 1_000 && p99_ms[2] < 1_500, "they go first");
    });
}

/// The turns out of order are many when credit comes back in small steps: they must not turn the picture upside down.
#[test]
fn with_a_topic_for_each_priority_low_loses_most_however_much_credit_there_is_and_however_full_the_link() {
    for value_bytes in [120, 150, 200] {
        for credit_bytes in [0, 2_000, 4_000, 16_000, 64_000] {
            let load = Load { value_bytes, credit_bytes, has_topic_each: true, rounds: 1_500, ..MIXED };
            let Outcome { missing: [low, normal, high, critical], p99_ms } = play(&load);
            println!(
                "values of {value_bytes} bytes, credit {credit_bytes}: of {} of each priority {:?} did not come; p99 ages \
                 {p99_ms:?} ms",
                load.rounds,
                [low, normal, high, critical]
            );
            assert!(low > normal + normal / 20 && normal > 0, "low loses most, normal less");
            assert_eq!((high, critical), (0, 0), "they have no window");
            // With 150 bytes and the frames around them high and critical alone fill the link.
            assert!(p99_ms[3] < 1_500 && (value_bytes > 120 || p99_ms[2] < 1_500), "they go first");
        }
    }
}

#[test]
fn what_comes_is_no_older_after_five_minutes_than_after_one() {
    for_both_clocks(&Load { rounds: 15_000, ..MIXED }, |Outcome { missing: [_, _, high, critical], p99_ms }| {
        assert!(p99_ms[0] < 250 + IN_FLIGHT_MS, "low: its pressure window, and what is in flight");
        assert!((2_000..2_000 + IN_FLIGHT_MS).contains(&p99_ms[1]), "normal: the same");
        assert!(p99_ms[2] < 3_000 && p99_ms[3] < 3_000, "the others wait in line behind normal");
        assert_eq!((high, critical), (0, 0));
    });
}

#[test]
fn a_link_that_is_wide_enough_loses_nothing() {
    for_both_clocks(&Load { value_bytes: 60, ..MIXED }, |Outcome { missing, p99_ms }| {
        assert_eq!(missing, [0; 4]);
        assert!(p99_ms.iter().all(|&age| age < 100), "and nothing queues");
    });
}

#[test]
fn without_pressure_nothing_is_shed_before_its_own_window() {
    let mut world = World::new();
    let publisher = Link::new(world.shard.kernel_mut(), 0);
    let load = Load { value_bytes: 60, ..MIXED };
    let published = vec![Moment(0); 20];
    (0..20).for_each(|round| publish(&mut world, &publisher, &load, round));
    while world.now < Moment(0) + Duration::from_secs(10) {
        world.turn(Moment(0) + Duration::from_secs(10));
    }
    // All that is there fits its window, so it is at the head at once.
    let mut newcomer = Reader::new(&mut world, None, 0);
    while newcomer.account.position() < 80 {
        assert!(world.now < Moment(0) + Duration::from_secs(20), "it is at {}", newcomer.account.position());
        let next = newcomer.read(&mut world, &published);
        world.turn(next);
    }
    assert_eq!(newcomer.account.missing(20), [0; 4], "however old they are");
    assert!(newcomer.p99(0) > 9_000);
}
