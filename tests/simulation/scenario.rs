//! Random scenarios: limits, faults and clients from one seed.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;
use rand::rngs::SmallRng;
use tidegate::clock::Moment;
use tidegate::kernel::{Faults, SimulationConfig};
use tidegate::limits::Limits;
use tidegate::protocol::wire::{self, client_frame};
use tidegate::shard::Settings;
use tidegate::topic::{Pattern, Priority, TopicClass};

use crate::client::{Client, Pace, Wanted, masked};
use crate::explain::Options;
use crate::world::World;

const TOPICS: [&str; 5] = ["a/x", "a/y", "b/x", "b/y/z", "c"];
const PATTERNS: [&str; 5] = ["a/*", "*/x", "b/**", "**", "c"];

fn pick<T: Copy>(random: &mut SmallRng, choices: &[T]) -> T {
    choices[random.random_range(0..choices.len())]
}

/// How the kernel of this seed behaves.
pub fn kernel(seed: u64, random: &mut SmallRng) -> SimulationConfig {
    let faults = match random.random_range(0..4) {
        0 => Faults::default(),
        1 | 2 => Faults::harsh(),
        _ => Faults::deadly(),
    };
    SimulationConfig {
        seed,
        buffers: pick(random, &[1, 2, 8, 64]),
        buffer_bytes: pick(random, &[64, 512, 4_096]),
        max_sockets: pick(random, &[14, 40, 1_000]),
        capacity: pick(random, &[600, 4_000, 32_768]),
        latency: Duration::from_millis(1),
        faults,
    }
}

/// The limits and classes of this seed.
pub fn settings(random: &mut SmallRng) -> Settings {
    let ms = Duration::from_millis;
    let limits = Limits {
        answer_bytes: pick(random, &[200, 2_000, 65_536]),
        unflushed_event_bytes: pick(random, &[100, 2_000, 1_048_576]),
        kind_runs: pick(random, &[2, 8, 65_536]),
        heartbeat_interval: ms(pick(random, &[400, 2_000, 25_000])),
        heartbeat_answer: ms(pick(random, &[1_000, 10_000])),
        freshness_target: ms(pick(random, &[50, 250])),
        ..Limits::default()
    };
    let class = |random: &mut SmallRng, name: &str, pattern| TopicClass {
        name: name.to_owned(),
        pattern,
        priority: pick(random, &Priority::ALL),
        event_window: pick(random, &[None, None, Some(ms(50)), Some(ms(700))]),
        key_window: pick(random, &[None, None, Some(ms(100)), Some(ms(1_500))]),
        keys: pick(random, &[6, 1_000]),
        events: pick(random, &[3, 20, 200]),
        event_bytes: pick(random, &[300, 5_000, 1_048_576]),
        event_age: ms(pick(random, &[150, 2_000, 300_000])),
        pressure_low: ms(pick(random, &[20, 250])),
        pressure_normal: ms(pick(random, &[100, 2_000])),
        linger: ms(pick(random, &[300, 600_000])),
    };
    let first = class(random, "first", Pattern::parse("a/*").expect("valid"));
    let last = class(random, "default", Pattern::everything());
    Settings { limits, classes: vec![first, last], ..Settings::default() }
}

fn options(random: &mut SmallRng) -> Options {
    let mut options = Options::default();
    match random.random_range(0..12) {
        0 => options.window_ms = pick(random, &[1, 30, 200]),
        1 => options.max_hz = pick(random, &[3, 20, 200]),
        2 => options.min_priority = random.random_range(1..=4),
        3 => options.key_prefix = b"k1".to_vec(),
        4 => options.events_only_new = true,
        5 => {
            options = Options {
                window_ms: 100,
                max_hz: 10,
                min_priority: 2,
                key_prefix: b"k".to_vec(),
                events_only_new: true,
            }
        }
        _ => {}
    }
    options
}

pub fn client(random: &mut SmallRng, is_publisher: bool) -> Client {
    let ms = Duration::from_millis;
    let slowness = match random.random_range(0..10) {
        0..5 => None,
        5 => Some(Pace::Slow(pick(random, &[10, 100, 700]), ms(20))),
        6 => Some(Pace::Slow(pick(random, &[500, 5_000]), ms(200))),
        7 => Some(Pace::Stalled(Moment(1_500_000_000))),
        8 => Some(Pace::Stalled(Moment::NEVER)),
        _ => Some(Pace::Stalled(Moment(random.random_range(0..3_000_000_000)))),
    };
    let mut wanted: Vec<Wanted> = Vec::new();
    for _ in 0..random.random_range(0..4) {
        let topic = if random.random_bool(0.6) { pick(random, &TOPICS) } else { pick(random, &PATTERNS) };
        if wanted.iter().all(|other| other.topic != topic) {
            wanted.push(Wanted { topic: topic.to_owned(), options: options(random) });
        }
    }
    Client {
        wanted,
        is_publisher,
        next_act: Moment(random.random_range(0..300_000_000)),
        slowness: if is_publisher && random.random_bool(0.7) { None } else { slowness },
        credit_bytes: pick(random, &[0, 0, 500, 4_000, 100_000]),
        ..Client::default()
    }
}

fn records(random: &mut SmallRng, number: usize, may_have_events: bool) -> Vec<wire::Record> {
    let count = match random.random_range(0..10) {
        0..6 => random.random_range(1..4),
        6..9 => random.random_range(1..12),
        _ => random.random_range(20..60),
    };
    let kind = random.random_range(0..3);
    (0..count)
        .map(|at| {
            let is_event = may_have_events && (kind == 0 || (kind == 1 && random.random_bool(0.5)));
            let key = match (is_event, random.random_range(0..3)) {
                (true, _) => Bytes::new(),
                (false, 0) => Bytes::from_static(b"k0"),
                (false, _) => Bytes::from(format!("k{}", random.random_range(0..16))),
            };
            let delete = !is_event && random.random_bool(0.15);
            let padding = match random.random_range(0..40) {
                0 if count < 5 => 9_000, // a message has at most 64 KiB
                1..4 => 700,
                _ => random.random_range(0..40),
            };
            let value = if delete { Bytes::new() } else { Bytes::from(format!("{number}.{at}.{:padding$}", "")) };
            let window_ms = if random.random_bool(0.15) { pick(random, &[1, 20, 300, 4_000_000]) } else { 0 };
            wire::Record { key, value, delete, priority: random.random_range(0..=4), window_ms, offset: 0 }
        })
        .collect()
}

impl World {
    /// A client does something.
    pub fn act(&mut self, client: usize) {
        let pause = match self.below(10) {
            0 => 1 + self.below(800),
            _ if self.clients[client].flits => 1 + self.below(6),
            _ => 1 + self.below(if self.clients[client].is_publisher { 25 } else { 150 }),
        };
        self.clients[client].next_act = self.now + Duration::from_micros(pause as u64 * 1_000);
        let Some(link) = self.clients[client].link else {
            self.connect(client);
            return;
        };
        if !self.links[link].is_welcome {
            // Somebody may have stolen the session with the same secret, or the peer is dead: do not wait for ever.
            if self.now.since(self.links[link].began) > Duration::from_secs(1) {
                self.leave(client, link, true);
            }
            return;
        }
        if self.clients[client].flits && self.chance(700) {
            return self.change_subscriptions(client, link);
        }
        match self.below(1_000) {
            0..15 => self.leave(client, link, false),
            15..30 => self.leave(client, link, true),
            // While the other connection stands.
            30..40 => _ = self.connect(client),
            40..50 => {
                let peer = self.links[link].peer;
                self.links[link].was_left = true;
                self.simulation_of(link).peer_write(peer, &masked(8, &1000_u16.to_be_bytes()));
            }
            50..75 => self.change_subscriptions(client, link),
            75..85 => {
                let until = self.now + Duration::from_millis(100 + self.random.random_range(0..1_000));
                self.links[link].pace = Pace::Stalled(until);
            }
            85..90 => {
                let peer = self.links[link].peer;
                self.simulation_of(link).peer_write(peer, &masked(9, b"hello"));
            }
            90..100 => _ = self.write(link, client_frame::Body::Ping(wire::Ping { client_time_us: 7 })),
            _ if self.clients[client].is_publisher => self.publish_something(client, link),
            _ => {}
        }
    }

    /// The client goes, and has nothing to do with this connection any more.
    pub fn leave(&mut self, client: usize, link: usize, is_reset: bool) {
        self.say(|| format!("client {client} leaves link {link}, reset {is_reset}"));
        let peer = self.links[link].peer;
        self.links[link].was_left = true;
        self.clients[client].link = None;
        if is_reset {
            self.links[link].is_over = true;
            self.simulation_of(link).peer_reset(peer);
        } else {
            self.simulation_of(link).peer_finish(peer);
        }
    }

    fn change_subscriptions(&mut self, client: usize, link: usize) {
        let count = self.clients[client].wanted.len();
        if count > 0 && self.chance(500) {
            let at = self.below(count);
            if self.chance(500) {
                let wanted = self.clients[client].wanted.remove(at);
                let name = wanted.topic.clone();
                self.disturb(client, &tidegate::topic::Pattern::parse(&name).expect("valid"));
                self.say(|| format!("client {client} unsubscribes from {name}"));
                let unsubscribe = wire::Unsubscribe { topic: wanted.topic };
                self.write(link, client_frame::Body::Unsubscribe(unsubscribe));
            } else {
                let options = options(&mut self.random);
                self.clients[client].wanted[at].options = options;
                let wanted = self.clients[client].wanted[at].clone();
                self.subscribe(link, &wanted, false);
            }
            return;
        }
        let choices = if self.chance(500) { TOPICS } else { PATTERNS };
        let topic = choices[self.below(choices.len())].to_owned();
        if self.clients[client].wanted.iter().all(|wanted| wanted.topic != topic) {
            let wanted = Wanted { topic, options: options(&mut self.random) };
            self.subscribe(link, &wanted, false);
            self.clients[client].wanted.push(wanted);
        }
    }

    pub fn publish_something(&mut self, client: usize, link: usize) {
        for _ in 0..pick(&mut self.random, &[1, 1, 1, 2, 8]) {
            let topic = pick(&mut self.random, &TOPICS).to_owned();
            let replace = self.chance(50);
            let number = self.publishes.len();
            let records = records(&mut self.random, number, !replace);
            let sequence = if self.chance(700) {
                self.clients[client].sequence += 1;
                self.clients[client].sequence
            } else {
                0
            };
            self.publish(link, wire::Publish { topic, records, sequence, replace });
        }
    }
}
