//! The load generator: one thread that publishes, reads everything, and looks at how old what everyone holds is.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};

use super::connection::Connection;
use super::dialect::{self, Duty, Observations, Peer, Role};
use super::failed;
use super::ledger::{Balance, Sums};
use super::options::CommonArgs;
use super::payload::Stopwatch;
use super::publisher::Publisher;
use super::server::{Metrics, Server};
use crate::cli::CliError;
use crate::shard::Ledger;

/// One subscriber in so many verifies every record.
pub(super) const VERIFY_ONE_IN: usize = 50;
/// Bytes read at a time.
pub(super) const SCRATCH: usize = 256 * 1024;
/// Events taken at a time.
pub(super) const EVENTS: usize = 256;
/// The publisher is looked after at least every so many reads, so that subscribers never make it wait long.
const READS_BETWEEN_PUBLISHES: usize = 16;
/// Slow subscribers read, and credit that waits is sent, this often.
const TICK: Duration = Duration::from_millis(10);
/// The last wait before something is due is spent looking: `epoll_wait` counts in milliseconds.
const SPIN: Duration = Duration::from_millis(1);
/// After so long without anything a peer is taken to have sent what it will.
const SILENCE: Duration = Duration::from_secs(2);
/// How long setting up and draining may take.
const PATIENCE: Duration = Duration::from_secs(60);

const PUBLISHER: Token = Token(usize::MAX);

/// What a run is made of.
pub(super) struct Shape {
    pub(super) subscribers: usize,
    /// So many of them read slowly, at `slow_rate`.
    pub(super) slow: usize,
    /// Bytes per second.
    pub(super) slow_rate: u64,
    /// Bytes of each value.
    pub(super) bytes: usize,
    /// 0: events.
    pub(super) keys: u64,
    /// `Hello.credit_bytes`.
    pub(super) credit: u64,
    /// Whether it is looked at how old what everyone holds is.
    pub(super) samples_ages: bool,
}

/// How the publisher goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Drive {
    /// Not at all.
    Rest,
    /// So many records a second, whether they are acknowledged or not.
    Rate(u64),
    /// As fast as it goes, with so many publishes unacknowledged.
    Outstanding(u64),
}

/// How old the newest record is that subscribers hold, sampled.
pub(super) struct Ages {
    pub(super) slow: Histogram<u64>,
    pub(super) healthy: Histogram<u64>,
}

impl Ages {
    pub(super) fn new() -> Self {
        let empty = || Histogram::new(3).expect("3 digits are allowed");
        Self { slow: empty(), healthy: empty() }
    }

    /// Adds another part of the run.
    pub(super) fn add(&mut self, other: &Self) {
        self.slow.add(&other.slow).expect("histograms that grow take every value");
        self.healthy.add(&other.healthy).expect("histograms that grow take every value");
    }
}

/// Sums over all subscribers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) delivered: u64,
    /// Messages with records in them; of Tidegate, patches.
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// Publisher, subscribers, and what they saw.
pub(super) struct Load {
    poll: Poll,
    pub(super) publisher: Publisher,
    pub(super) subscribers: Vec<Connection>,
    /// By subscriber: the serial from which on a peer owes it records.
    begun_at: Vec<u64>,
    /// By subscriber: whether it reads slowly. Those are not polled, but read by the clock.
    is_slow: Vec<bool>,
    slow_rate: u64,
    topic: String,
    peer: Option<Peer>,
    credit: u64,
    samples_ages: bool,
    pub(super) observations: Observations,
    /// Sampled this often, if at all.
    pub(super) sampling: Option<(Duration, Ages)>,
    scratch: Vec<u8>,
    before: Metrics,
    next_tick: Instant,
    last_tick: Instant,
    next_sample: Instant,
}

impl Load {
    /// Connects everyone; returns when each subscriber has been sent its first patch.
    pub(super) fn connect(server: &Server, options: &CommonArgs, shape: &Shape) -> Result<Self, CliError> {
        let before = server.metrics()?;
        let poll = Poll::new().map_err(failed)?;
        let topic = format!("bench/{}-{}", std::process::id(), unix_ms());
        let clock = Stopwatch::start();
        let now = Instant::now();
        let latency = Histogram::new(3).expect("3 digits are allowed");
        let mut observations = Observations { latency, is_measuring: false, clock };
        let role = Role { topic: &topic, duty: Duty::Publish };
        let connection = open(server, options, &role, &mut observations)?;
        let mut load = Self {
            publisher: Publisher::new(connection, shape.bytes, shape.keys),
            topic,
            peer: options.peer,
            begun_at: Vec::with_capacity(shape.subscribers),
            samples_ages: shape.samples_ages,
            credit: shape.credit,
            poll,
            subscribers: Vec::with_capacity(shape.subscribers),
            is_slow: Vec::with_capacity(shape.subscribers),
            slow_rate: shape.slow_rate,
            observations,
            sampling: None,
            scratch: vec![0; SCRATCH],
            before,
            next_tick: now,
            last_tick: now,
            next_sample: now,
        };
        load.register_publisher()?;
        load.run_until("the answer to the publisher's greeting", |load| load.publisher.connection.seen.is_ready)?;
        if load.peer.is_none() {
            // The topic comes into being, so that everyone's first patch can come.
            load.publisher.publish(clock.now());
            load.run_until("the first publish", |load| load.publisher.outstanding() == 0)?;
        }
        for at in 0..shape.subscribers {
            let is_slow = (at + 1) * shape.slow / shape.subscribers > at * shape.slow / shape.subscribers;
            load.subscribe(server, options, is_slow)?;
        }
        load.await_first_patches()?;
        Ok(load)
    }

    /// Connects more subscribers, none of them slow.
    pub(super) fn subscribe_more(
        &mut self,
        server: &Server,
        options: &CommonArgs,
        more: usize,
    ) -> Result<(), CliError> {
        for _ in 0..more {
            self.subscribe(server, options, false)?;
        }
        self.await_first_patches()
    }

    fn subscribe(&mut self, server: &Server, options: &CommonArgs, is_slow: bool) -> Result<(), CliError> {
        let at = self.subscribers.len();
        let of_its_kind = self.is_slow.iter().filter(|other| **other == is_slow).count();
        let is_verifying = of_its_kind.is_multiple_of(VERIFY_ONE_IN);
        let duty = Duty::Subscribe { is_verifying, wants_newest: is_slow || self.samples_ages, credit: self.credit };
        let role = Role { topic: &self.topic, duty };
        let mut subscriber = open(server, options, &role, &mut self.observations)?;
        if self.peer.is_some() {
            // What was published before is not sent to it.
            subscriber.seen.cursor = self.publisher.published;
        }
        self.begun_at.push(subscriber.seen.cursor);
        if !is_slow {
            let registry = self.poll.registry();
            registry.register(&mut subscriber.stream, Token(at), Interest::READABLE).map_err(failed)?;
        }
        self.subscribers.push(subscriber);
        self.is_slow.push(is_slow);
        if at.is_multiple_of(EVENTS) {
            self.step(Drive::Rest, Instant::now(), &mut 0, Instant::now())?;
        }
        Ok(())
    }

    fn await_first_patches(&mut self) -> Result<(), CliError> {
        self.run_until("the answers to subscribers", |load| load.subscribers.iter().all(|one| one.seen.is_ready))
    }

    fn register_publisher(&mut self) -> Result<(), CliError> {
        let interests = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut self.publisher.connection.stream, PUBLISHER, interests).map_err(failed)
    }

    /// Goes on for so long.
    pub(super) fn run_for(&mut self, duration: Duration, drive: Drive) -> Result<(), CliError> {
        let start = Instant::now();
        let mut sent = 0;
        while start.elapsed() < duration {
            self.step(drive, start, &mut sent, start + duration)?;
        }
        Ok(())
    }

    /// Goes on without publishing until `is_done`.
    fn run_until(&mut self, what: &str, is_done: impl Fn(&Self) -> bool) -> Result<(), CliError> {
        let deadline = Instant::now() + PATIENCE;
        while !is_done(self) {
            if Instant::now() > deadline {
                return Err(failed(format!("{what} did not come within {} s", PATIENCE.as_secs())));
            }
            self.step(Drive::Rest, deadline, &mut 0, deadline)?;
        }
        Ok(())
    }

    /// Publishes what is due, waits for something at most until `deadline`, and reads it. `sent` counts what was published
    /// since `start`.
    fn step(&mut self, drive: Drive, start: Instant, sent: &mut u64, deadline: Instant) -> Result<(), CliError> {
        let mut due = deadline.min(self.next_tick);
        if self.sampling.is_some() {
            due = due.min(self.next_sample);
        }
        if let Some(next) = self.publish_due(drive, start, sent)? {
            due = due.min(next);
        }
        let wait = due.saturating_duration_since(Instant::now());
        let wait = Duration::from_millis(wait.saturating_sub(SPIN).as_millis() as u64);
        let mut events = Events::with_capacity(EVENTS);
        match self.poll.poll(&mut events, Some(wait)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => other.map_err(failed)?,
        }
        for (at, event) in events.iter().enumerate() {
            if event.token() == PUBLISHER || (at % READS_BETWEEN_PUBLISHES == 0) {
                self.publisher.pump(&mut self.scratch, &mut self.observations).map_err(failed)?;
                self.publish_due(drive, start, sent)?;
            }
            if let Some(subscriber) = self.subscribers.get_mut(event.token().0) {
                while !subscriber.read(&mut self.scratch, SCRATCH, &mut self.observations).map_err(failed)? {}
            }
        }
        let now = Instant::now();
        if now >= self.next_tick {
            self.tick(now)?;
        }
        if now >= self.next_sample {
            self.sample(now);
        }
        Ok(())
    }

    /// Publishes what is due by now; says when something is due next, if that is a matter of time.
    fn publish_due(&mut self, drive: Drive, start: Instant, sent: &mut u64) -> Result<Option<Instant>, CliError> {
        let before = self.publisher.published;
        let next = match drive {
            Drive::Rest => return Ok(None),
            Drive::Rate(rate) => {
                // Stamped with the moment that it was due, so that being late counts.
                let (elapsed, now) = (start.elapsed(), self.observations.clock.now());
                let begun = now.saturating_sub(elapsed.as_nanos() as u64);
                let due_at = |serial: u64| serial * 1_000_000_000 / rate;
                while due_at(*sent) <= elapsed.as_nanos() as u64 {
                    self.publisher.publish(begun + due_at(*sent));
                    *sent += 1;
                }
                Some(start + Duration::from_nanos(due_at(*sent)))
            }
            Drive::Outstanding(limit) => {
                let now = self.observations.clock.now();
                while self.publisher.outstanding() < limit {
                    self.publisher.publish(now);
                }
                None
            }
        };
        if self.publisher.published > before {
            self.publisher.pump(&mut self.scratch, &mut self.observations).map_err(failed)?;
        }
        Ok(next)
    }

    /// What is done by the clock: slow subscribers read what their rate allows, and credit goes out.
    fn tick(&mut self, now: Instant) -> Result<(), CliError> {
        let allowed = (now.duration_since(self.last_tick).as_secs_f64() * self.slow_rate as f64) as usize;
        for (subscriber, is_slow) in self.subscribers.iter_mut().zip(&self.is_slow) {
            if *is_slow {
                subscriber.read(&mut self.scratch, allowed.max(1), &mut self.observations).map_err(failed)?;
            }
            subscriber.tick().map_err(failed)?;
        }
        self.publisher.connection.tick().map_err(failed)?;
        self.last_tick = now;
        self.next_tick = now + TICK;
        Ok(())
    }

    fn sample(&mut self, now: Instant) {
        let Some((interval, ages)) = &mut self.sampling else { return };
        self.next_sample = now + *interval;
        let clock = self.observations.clock.now();
        for (subscriber, is_slow) in self.subscribers.iter().zip(&self.is_slow) {
            let ages = if *is_slow { &mut ages.slow } else { &mut ages.healthy };
            let age = clock.saturating_sub(subscriber.seen.newest);
            ages.record(age).expect("a histogram that grows takes every value");
        }
    }

    /// Stops publishing and reads until everyone holds the head, slow ones as fast as they can. A peer may owe records for
    /// ever: of those, until nothing has come for a while.
    pub(super) fn drain(&mut self) -> Result<(), CliError> {
        self.sampling = None;
        self.slow_rate = u64::MAX;
        let is_drained = |load: &Self| {
            let head = load.publisher.published;
            load.publisher.outstanding() == 0 && load.subscribers.iter().all(|one| one.seen.cursor == head)
        };
        if self.peer.is_none() {
            return self.run_until("the end of the run", is_drained);
        }
        loop {
            let before = self.totals();
            self.run_for(SILENCE, Drive::Rest)?;
            if is_drained(self) || self.totals() == before {
                return Ok(());
            }
        }
    }

    /// Both ends' sums, after [`Load::drain`].
    pub(super) fn balance(&self, server: &Server) -> Result<Balance, CliError> {
        let published = self.publisher.published;
        let mut clients = Ledger::default();
        for Connection { seen, .. } in &self.subscribers {
            let ledger = &seen.ledger;
            clients.due += ledger.due;
            clients.delivered += ledger.delivered;
            clients.conflated += ledger.conflated;
            clients.filtered += ledger.filtered;
            clients.expired += ledger.expired;
            clients.overrun += ledger.overrun;
            clients.lost += ledger.lost;
            if self.peer.is_some() {
                clients.lost += published - seen.cursor;
            }
        }
        let of_server = match self.peer {
            Some(_) => None,
            None => Some(Sums::of_server(&self.before, &server.metrics()?)),
        };
        Ok(Balance {
            published,
            subscribers: self.subscribers.len() as u64,
            due: self.begun_at.iter().map(|begun| published - begun).sum(),
            clients: clients.into(),
            server: of_server,
            misplaced: self.subscribers.iter().map(|one| one.seen.misplaced).sum(),
        })
    }

    /// What all subscribers received so far.
    pub(super) fn totals(&self) -> Totals {
        self.subscribers.iter().fold(Totals::default(), |totals, one| Totals {
            delivered: totals.delivered + one.seen.ledger.delivered,
            messages: totals.messages + one.seen.messages,
            bytes: totals.bytes + one.bytes,
        })
    }

    /// Bytes that slow subscribers read so far.
    pub(super) fn slow_bytes(&self) -> u64 {
        self.subscribers.iter().zip(&self.is_slow).filter(|(_, is_slow)| **is_slow).map(|(one, _)| one.bytes).sum()
    }

    /// How many subscribers verified, how many records, and how many checksums.
    pub(super) fn verified(&self) -> (usize, u64, u64) {
        let verifiers = self.subscribers.iter().map(|one| &one.seen).filter(|seen| seen.is_verifying);
        verifiers.fold((0, 0, 0), |(count, records, checksums), seen| {
            (count + 1, records + seen.verified, checksums + seen.checksums)
        })
    }
}

fn open(
    server: &Server,
    options: &CommonArgs,
    role: &Role<'_>,
    observations: &mut Observations,
) -> Result<Connection, CliError> {
    let dialect = dialect::of(options.peer, role);
    Connection::open(server.address, options.congestion(), dialect, role, observations).map_err(failed)
}

fn unix_ms() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis()
}
