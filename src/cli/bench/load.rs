//! The load generator: one thread that publishes, reads everything, and looks at how old what everyone holds is.

mod guests;
mod publishing;
mod returning;
mod sums;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};

use super::ages::{Ages, Published};
use super::connection::Connection;
use super::dialect::{self, Duty, Observations, Peer, Role, Values};
use super::failed;
use super::feed::Feed;
use super::options::CommonArgs;
use super::payload::Stopwatch;
use super::publisher::Publisher;
use super::server::{Metrics, Server};
use super::shape::{Drive, Reading, Shape};
use crate::cli::CliError;

pub(super) use self::sums::Totals;

/// One subscriber in so many verifies every record.
pub(super) const VERIFY_ONE_IN: usize = 50;
/// Bytes read at a time.
pub(super) const SCRATCH: usize = 256 * 1024;
/// Events taken at a time.
pub(super) const EVENTS: usize = 256;
/// So many connections to a peer are being made at a time: fewer than its listener keeps waiting.
const CONNECTING_AT_ONCE: usize = 128;
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

/// Tokens of publishers: this, and those below.
const FIRST_PUBLISHER: usize = usize::MAX - 1;

/// Publishers, subscribers, and what they saw.
pub(super) struct Load {
    poll: Poll,
    pub(super) publishers: Vec<Publisher>,
    /// What is published instead of our own values, and when.
    feed: Option<Feed>,
    /// Subscribers that are to connect again, and where.
    returning: Range<usize>,
    target: (SocketAddr, Option<String>),
    pub(super) subscribers: Vec<Connection>,
    /// By subscriber: the serial from which on a peer owes it records.
    begun_at: Vec<u64>,
    /// By subscriber. Only healthy ones are polled.
    reading: Vec<Reading>,
    slow_rate: u64,
    /// The end has come: stalled ones read, too.
    is_draining: bool,
    topic: String,
    peer: Option<Peer>,
    values: Values,
    credit: u64,
    pub(super) observations: Observations,
    /// When what was published was due, if it is asked how old what everyone holds is.
    history: Option<Published>,
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
        let values = if shape.publishers + shape.publishers_later > 1 { Values::ByOrigin } else { Values::Numbered };
        let topic = format!("bench/{}-{}", std::process::id(), unix_ns());
        let mut load = Self::with_publishers(server, options, shape, topic, values)?;
        if load.peer.is_none() {
            // The topic comes into being, so that everyone's first patch can come.
            load.publish(0, load.observations.clock.now());
            load.run_until("the first publish", |load| load.outstanding() == 0)?;
        }
        load.subscribe_all(server, options, shape)?;
        Ok(load)
    }

    /// Connects a publisher of what was recorded, and then subscribers to `pattern`, which are sent something once there is
    /// something.
    pub(super) fn connect_feed(
        server: &Server,
        options: &CommonArgs,
        shape: &Shape,
        pattern: &str,
        feed: Feed,
    ) -> Result<Self, CliError> {
        let mut load = Self::with_publishers(server, options, shape, pattern.to_owned(), Values::Recorded)?;
        load.feed = Some(feed);
        load.subscribe_all(server, options, shape)?;
        Ok(load)
    }

    fn with_publishers(
        server: &Server,
        options: &CommonArgs,
        shape: &Shape,
        topic: String,
        values: Values,
    ) -> Result<Self, CliError> {
        let before = server.metrics()?;
        let poll = Poll::new().map_err(failed)?;
        let now = Instant::now();
        let latency = Histogram::new(3).expect("3 digits are allowed");
        let observations = Observations { latency, is_measuring: false, clock: Stopwatch::start() };
        let mut load = Self {
            poll,
            publishers: Vec::new(),
            feed: None,
            returning: 0..0,
            target: (server.address, options.congestion().map(str::to_owned)),
            subscribers: Vec::with_capacity(shape.subscribers),
            begun_at: Vec::with_capacity(shape.subscribers),
            reading: Vec::with_capacity(shape.subscribers),
            slow_rate: shape.slow_rate,
            is_draining: true,
            topic,
            peer: options.peer,
            values,
            credit: shape.credit,
            observations,
            history: shape.samples_ages.then(Published::default),
            sampling: None,
            scratch: vec![0; SCRATCH],
            before,
            next_tick: now,
            last_tick: now,
            next_sample: now,
        };
        for _ in 0..shape.publishers {
            let role = Role { topic: &load.topic, duty: Duty::Publish, values, resume: None };
            let connection = open(server, options, &role, &mut load.observations)?;
            load.make_publisher(connection, shape)?;
        }
        load.run_until("the answer to the publishers' greetings", |load| {
            load.publishers.iter().all(|publisher| publisher.connection.seen.is_ready)
        })?;
        Ok(load)
    }

    fn subscribe_all(&mut self, server: &Server, options: &CommonArgs, shape: &Shape) -> Result<(), CliError> {
        for at in 0..shape.subscribers {
            self.subscribe(server, options, Reading::of(at, shape))?;
        }
        if self.feed.is_none() {
            self.await_first_patches()?;
        }
        self.is_draining = false;
        Ok(())
    }

    /// What is published of a recording.
    pub(super) fn feed(&self) -> Option<&Feed> {
        self.feed.as_ref()
    }

    /// Connects more subscribers, none of them slow.
    pub(super) fn subscribe_more(
        &mut self,
        server: &Server,
        options: &CommonArgs,
        more: usize,
    ) -> Result<(), CliError> {
        for _ in 0..more {
            self.subscribe(server, options, Reading::Healthy)?;
        }
        self.await_first_patches()
    }

    fn subscribe(&mut self, server: &Server, options: &CommonArgs, reading: Reading) -> Result<(), CliError> {
        let at = self.subscribers.len();
        let of_its_kind = self.reading.iter().filter(|other| **other == reading).count();
        let is_verifying = of_its_kind.is_multiple_of(VERIFY_ONE_IN);
        let duty = Duty::Subscribe { is_verifying, credit: self.credit };
        let role = Role { topic: &self.topic, duty, values: self.values, resume: None };
        let mut subscriber = match self.peer {
            // Several at once: some peers take a tenth of a second for each step of a handshake.
            Some(_) => {
                let dialect = dialect::of(self.peer, &role);
                Connection::begin(server.address, options.congestion(), dialect, &role).map_err(failed)?
            }
            None => open(server, options, &role, &mut self.observations)?,
        };
        if self.peer.is_some() {
            // What was published before is not sent to it.
            subscriber.seen.cursor = self.published();
        }
        self.begun_at.push(subscriber.seen.cursor);
        if reading == Reading::Healthy {
            let registry = self.poll.registry();
            registry.register(&mut subscriber.stream, Token(at), Interest::READABLE).map_err(failed)?;
        }
        self.subscribers.push(subscriber);
        self.reading.push(reading);
        if self.peer.is_some() && (at + 1).is_multiple_of(CONNECTING_AT_ONCE) {
            self.await_first_patches()?;
        }
        if at.is_multiple_of(EVENTS) {
            self.step(Drive::Rest, Instant::now(), &mut 0, Instant::now())?;
        }
        Ok(())
    }

    pub(super) fn await_first_patches(&mut self) -> Result<(), CliError> {
        self.run_until("the answers to subscribers", |load| load.subscribers.iter().all(|one| one.seen.is_ready))
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

    /// Goes on until `is_done`, at most for so long; says whether it was.
    pub(super) fn run_while(
        &mut self,
        limit: Duration,
        drive: Drive,
        is_done: impl Fn(&Self) -> bool,
    ) -> Result<bool, CliError> {
        let (start, mut sent) = (Instant::now(), 0);
        while !is_done(self) {
            if start.elapsed() > limit {
                return Ok(false);
            }
            self.step(drive, start, &mut sent, start + limit)?;
        }
        Ok(true)
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
        if !self.returning.is_empty() {
            self.begin_to_return()?;
            due = Instant::now();
        }
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
            if let Some(publisher) = self.publishers.get_mut(FIRST_PUBLISHER - event.token().0.min(FIRST_PUBLISHER)) {
                publisher.pump(&mut self.scratch, &mut self.observations).map_err(failed)?;
                self.publish_due(drive, start, sent)?;
            } else if at % READS_BETWEEN_PUBLISHES == 0 {
                if let [publisher] = &mut self.publishers[..] {
                    publisher.pump(&mut self.scratch, &mut self.observations).map_err(failed)?;
                }
                self.publish_due(drive, start, sent)?;
            }
            if let Some(subscriber) = self.subscribers.get_mut(event.token().0) {
                if event.is_writable() {
                    subscriber.flush().map_err(failed)?;
                }
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

    /// What is done by the clock: slow subscribers read what their rate allows, and credit goes out.
    fn tick(&mut self, now: Instant) -> Result<(), CliError> {
        let allowed = (now.duration_since(self.last_tick).as_secs_f64() * self.slow_rate as f64) as usize;
        for (subscriber, reading) in self.subscribers.iter_mut().zip(&self.reading) {
            if *reading == Reading::Slow || (*reading == Reading::Stalled && self.is_draining) {
                subscriber.read(&mut self.scratch, allowed.max(1), &mut self.observations).map_err(failed)?;
            }
            subscriber.tick().map_err(failed)?;
        }
        for publisher in &mut self.publishers {
            publisher.connection.tick().map_err(failed)?;
        }
        self.last_tick = now;
        self.next_tick = now + TICK;
        Ok(())
    }

    fn sample(&mut self, now: Instant) {
        let (Some((interval, ages)), Some(history)) = (&mut self.sampling, &self.history) else { return };
        self.next_sample = now + *interval;
        let clock = self.observations.clock.now();
        for (subscriber, reading) in self.subscribers.iter().zip(&self.reading) {
            let ages = match reading {
                Reading::Healthy => &mut ages.healthy,
                Reading::Slow => &mut ages.slow,
                Reading::Stalled => &mut ages.stalled,
            };
            ages.record(history.age(subscriber.seen.newest, clock)).expect("a histogram that grows takes every value");
        }
    }

    /// Stops publishing and reads until everyone holds the head, slow ones as fast as they can. A peer may owe records for
    /// ever: of those, until nothing has come for a while.
    pub(super) fn drain(&mut self) -> Result<(), CliError> {
        self.sampling = None;
        self.slow_rate = u64::MAX;
        self.is_draining = true;
        let is_drained = |load: &Self| {
            let head = load.published();
            load.outstanding() == 0 && load.subscribers.iter().all(|one| one.seen.cursor == head)
        };
        if self.peer.is_none() {
            return self.run_until("the end of the run", is_drained);
        }
        let (mut before, mut changed) = (self.totals(), Instant::now());
        loop {
            // Also when everything is there: what comes twice comes behind it.
            self.run_for(SILENCE / 10, Drive::Rest)?;
            let totals = self.totals();
            if totals != before {
                (before, changed) = (totals, Instant::now());
            } else if is_drained(self) || changed.elapsed() >= SILENCE {
                return Ok(());
            }
        }
    }
}

fn open(
    server: &Server,
    options: &CommonArgs,
    role: &Role<'_>,
    observations: &mut Observations,
) -> Result<Connection, CliError> {
    let dialect = dialect::of(options.peer, role);
    Connection::open(server.address, options.congestion(), dialect, role, observations)
}

/// No two runs of one process have the same.
fn unix_ns() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos()
}
