//! Recorded input through a real engine, to many subscribers of every kind at once.
//!
//! What everybody must see is worked out beforehand from the recordings: the offset of each record, so which offsets can
//! be heads, and the state at each of them. Books are judged by the book tickers, which no record of a book is made
//! of. Where the recordings are absent, a simulated market and a made up match write the same formats; it is printed
//! which is used. `TIDEGATE_SEED` repeats the subscribers' choices (not the scheduler's).

mod support;

#[path = "real_input/clients.rs"]
mod clients;
#[path = "real_input/follower.rs"]
mod follower;
#[path = "real_input/input.rs"]
mod input;
#[path = "real_input/progress.rs"]
mod progress;
#[path = "support/relay.rs"]
mod relay;
#[path = "real_input/sockets.rs"]
mod sockets;

use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use follower::{Follower, Part, Tally};
use input::{Input, PREFIX, World};
use progress::Progress;
use relay::Relay;
use sockets::{Habit, Random};
use support::{Client, LIMIT, end, engine};
use tidegate::config::Shards;
use tidegate::engine::Engine;
use tidegate::feed::book::Book;
use tidegate::protocol::wire;
use tidegate::shard::Ledger;
use tidegate::topic::{Pattern, TopicName};

/// Raw subscribers of one input, by habit.
const KINDS: [(Habit, usize); 6] = [
    (Habit::Steady, 6),
    (Habit::Stalls, 8),
    (Habit::Closes, 5),
    (Habit::Resets, 5),
    (Habit::IsCutOff, 3),
    (Habit::Late(30), 2),
];

/// Everything that follows one engine.
struct Audience {
    world: Arc<World>,
    address: SocketAddr,
    random: Random,
    threads: Vec<JoinHandle<Tally>>,
    relays: Vec<Relay>,
}

impl Audience {
    fn new(world: &Arc<World>, address: SocketAddr) -> Self {
        let seed = std::env::var("TIDEGATE_SEED").map_or(1, |seed| seed.parse().expect("TIDEGATE_SEED is a number"));
        println!("TIDEGATE_SEED={seed}");
        Self { world: world.clone(), address, random: Random(seed), threads: Vec::new(), relays: Vec::new() }
    }

    /// A relay that cuts its first connections after the Welcome, at any byte.
    fn relay(&mut self) -> SocketAddr {
        let relay = Relay::start(self.address);
        for _ in 0..10 {
            relay.cut_after(400 + self.random.below(150_000));
        }
        let address = relay.address();
        self.relays.push(relay);
        address
    }

    /// A raw subscriber to names or patterns.
    fn raw(&mut self, progress: &Arc<Progress>, habit: Habit, part: Part, subscriptions: Vec<wire::Subscribe>) {
        let (world, progress) = (self.world.clone(), progress.clone());
        let wanted = matched(&world, subscriptions.iter().map(|it| it.topic.as_str()));
        let seed = self.random.between(0, u64::MAX - 1);
        let address = if habit == Habit::IsCutOff { self.relay() } else { self.address };
        self.threads.push(std::thread::spawn(move || {
            let (world, progress) = (&*world, &*progress);
            sockets::Subscriber { world, address, progress, habit, part, subscriptions, wanted, seed }.run()
        }));
    }

    /// A subscriber through the Rust client.
    fn client(&mut self, progress: &Arc<Progress>, topic: &str, credit_bytes: u64, is_slow: bool, is_cut_off: bool) {
        let subscriber = clients::Subscriber {
            world: self.world.clone(),
            address: if is_cut_off { self.relay() } else { self.address },
            progress: progress.clone(),
            credit_bytes,
            is_slow,
            topic: topic.to_owned(),
            wanted: matched(&self.world, [topic]),
            seed: self.random.between(0, u64::MAX - 1),
        };
        self.threads.push(std::thread::spawn(move || {
            block_on(async {
                tokio::time::timeout(2 * LIMIT, subscriber.run()).await.expect("it is brought to the end")
            })
        }));
    }

    /// Waits until everybody was brought to the end.
    fn tallies(&mut self) -> Vec<Tally> {
        self.threads.drain(..).map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    }
}

/// The topics of the world that names or patterns match.
fn matched<'a>(world: &World, patterns: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let patterns: Vec<Pattern> =
        patterns.into_iter().map(|it| Pattern::parse(it).expect("a pattern of this test")).collect();
    let is_matched = |name: &&String| {
        let name = TopicName::parse(name).expect("a name of this test");
        patterns.iter().any(|pattern| pattern.matches(&name))
    };
    world.inputs.iter().flat_map(|input| input.topics.keys()).filter(is_matched).cloned().collect()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("there are descriptors left").block_on(work)
}

fn to(topic: &str) -> wire::Subscribe {
    wire::Subscribe { topic: topic.to_owned(), ..wire::Subscribe::default() }
}

/// What the engine counted of the topics, all of one class.
fn ledger(engine: &Engine) -> (u64, Ledger) {
    let report = engine.report().expect("the shard answers");
    let class = report.counters.classes[0];
    let ledger = class.ledger;
    let accounted =
        ledger.delivered + ledger.conflated + ledger.filtered + ledger.expired + ledger.overrun + ledger.lost;
    assert_eq!(ledger.due, accounted, "the engine's ledger: {ledger:?}");
    (class.published, ledger)
}

/// A fresh snapshot of each topic is the state that was worked out, and the book that was made from the messages.
fn check_snapshots(engine: &Engine, world: &World) -> Tally {
    let mut follower = Follower::new(world, Part::Whole);
    let mut client = Client::hello(engine.local_addr());
    let names: Vec<_> = world.inputs.iter().flat_map(|input| input.topics.keys().cloned()).collect();
    for name in &names {
        client.send(wire::client_frame::Body::Subscribe(to(name)));
    }
    while !follower.is_at_end(&names) {
        follower.take(client.frame());
    }
    for input in &world.inputs {
        if let Some(book) = &input.book {
            let state = &input.topics[&format!("depth/{}", input.symbol)].state;
            let entries = state.iter().map(|(key, value)| (&key[..], &value[..]));
            assert!(Book::from_state(entries).expect("levels") == *book, "{}: another book", input.symbol);
        }
    }
    follower.finish(&names)
}

/// With so many shards on however many cores: the same books, the same checksums, every ledger closed.
const SHARDS: [u16; 4] = [1, 2, 4, 8];

fn sharded(shards: u16) -> Engine {
    println!("{shards} shards");
    engine(|config| config.shards = Shards::Count(shards))
}

#[test]
fn books_of_every_subscriber_are_right_at_every_head() {
    let mut world = World::default();
    world.inputs.push(Input::depth("depth/binance_spot_btcusdt_20240808.gz", "BTCUSDT", 11, 30));
    world.inputs.push(Input::depth("depth/binance_spot_ethusdt_20240808.gz", "ETHUSDT", 12, 30));
    let world = Arc::new(world);
    SHARDS.into_iter().for_each(|shards| books_are_right(&world, sharded(shards)));
}

fn books_are_right(world: &Arc<World>, engine: Engine) {
    let begun = Instant::now();
    let mut audience = Audience::new(world, engine.local_addr());
    let progress: Vec<_> = world.inputs.iter().map(|it| Arc::new(Progress::new(it.publications.len()))).collect();
    for (input, progress) in world.inputs.iter().zip(&progress) {
        follow(&mut audience, progress, &input.symbol);
    }
    for (habit, pattern) in [(Habit::Steady, "depth/*"), (Habit::Late(50), "depth/*"), (Habit::Stalls, "**")] {
        audience.raw(&progress[0], habit, Part::Whole, vec![to(pattern)]);
    }
    let count = audience.threads.len();
    block_on(async {
        let [btc, eth] =
            [0, 1].map(|at| clients::publish(world.clone(), at, engine.local_addr(), progress[at].clone()));
        tokio::join!(btc, eth);
    });
    println!("published after {:?}", begun.elapsed());
    let mut tally = Tally::default();
    audience.tallies().into_iter().for_each(|one| tally += one);
    println!("{count} subscribers, {:?}: {tally:?}", begun.elapsed());

    tally += check_snapshots(&engine, world);
    let (published, ledger) = ledger(&engine);
    assert_eq!(published, world.inputs.iter().flat_map(|it| it.topics.values()).map(|it| it.last).sum::<u64>());
    // What was under way on a connection that was cut was sent and did not arrive.
    assert!(ledger.due >= tally.due && ledger.delivered >= tally.records, "{ledger:?}");
    assert!(ledger.filtered >= tally.filtered && ledger.lost >= tally.lost, "{ledger:?}");
    assert_eq!((ledger.expired, ledger.overrun), (0, 0));
    // Nothing of what this test is about was missing from it.
    // How many heads there are between two publishes is up to the machine. A busy one had three for each subscriber.
    assert!(tally.judged > count as u64 && tally.checksums > tally.judged, "{tally:?}");
    assert!(tally.conflated > 0 && tally.filtered > 0 && tally.cuts > 0 && tally.resumed > 0, "{tally:?}");
    drop(audience);
    end(engine);
}

/// Subscribers of every kind to one capture's topics.
fn follow(audience: &mut Audience, progress: &Arc<Progress>, symbol: &str) {
    let [depth, ticker, trades] = ["depth", "ticker", "trades"].map(|kind| format!("{kind}/{symbol}"));
    let all = format!("*/{symbol}");
    for (habit, count) in KINDS {
        for at in 0..count {
            // Names can be resumed, patterns cannot.
            let topics = match at % 3 {
                0 => vec![to(&depth), to(&trades)],
                1 => vec![to(&trades), to(&ticker), to(&depth)],
                _ if habit == Habit::Steady || habit == Habit::Stalls => vec![to(&all)],
                _ => vec![to(&trades), to(&depth)],
            };
            audience.raw(progress, habit, Part::Whole, topics);
        }
    }
    let prefixed = wire::Subscribe { key_prefix: PREFIX.into(), ..to(&all) };
    let important = wire::Subscribe { min_priority: wire::Priority::High.into(), ..to(&all) };
    for habit in [Habit::Steady, Habit::Stalls] {
        audience.raw(progress, habit, Part::Prefixed, vec![prefixed.clone()]);
        audience.raw(progress, habit, Part::Important, vec![important.clone()]);
        audience.raw(progress, habit, Part::Whole, vec![wire::Subscribe { max_hz: 20, ..to(&all) }]);
    }
    for (credit_bytes, is_slow) in [(0, false), (0, true), (32 * 1024, false), (32 * 1024, true)] {
        audience.client(progress, &all, credit_bytes, is_slow, false);
        audience.client(progress, &depth, credit_bytes, is_slow, false);
    }
    audience.client(progress, &depth, 0, false, true);
    audience.client(progress, &trades, 16 * 1024, false, true);
}

#[test]
fn a_match_is_the_same_map_everywhere_after_every_frame() {
    let world = Arc::new(World { inputs: vec![Input::game()] });
    SHARDS.into_iter().for_each(|shards| match_is_the_same(&world, sharded(shards)));
}

fn match_is_the_same(world: &Arc<World>, engine: Engine) {
    let topic = world.inputs[0].topics.keys().next().expect("a match has a topic").clone();
    let begun = Instant::now();
    let mut audience = Audience::new(world, engine.local_addr());
    let progress = Arc::new(Progress::new(world.inputs[0].publications.len()));
    for (habit, count) in [(Habit::Steady, 24), (Habit::Stalls, 10), (Habit::Late(40), 4)] {
        (0..count).for_each(|_| audience.raw(&progress, habit, Part::Whole, vec![to(&topic)]));
    }
    audience.client(&progress, &topic, 0, true, false);
    audience.client(&progress, &topic, 16 * 1024, true, false);
    let count = audience.threads.len();
    block_on(clients::publish(world.clone(), 0, engine.local_addr(), progress));
    println!("published after {:?}", begun.elapsed());
    let mut tally = Tally::default();
    audience.tallies().into_iter().for_each(|one| tally += one);
    println!("{:?}: {tally:?}", begun.elapsed());
    tally += check_snapshots(&engine, world);

    // Nobody was cut off, so what the engine says it sent is what arrived.
    let (published, ledger) = ledger(&engine);
    assert_eq!(published, world.inputs[0].topics[&topic].last);
    assert_eq!(
        (ledger.due, ledger.delivered, ledger.conflated, ledger.expired, ledger.overrun, ledger.lost),
        (tally.due, tally.records, tally.conflated, 0, 0, 0)
    );
    // How often it was flushed is up to the machine, too.
    assert!(tally.heads > count as u64 && tally.conflated > 0, "{tally:?}");
    end(engine);
}
