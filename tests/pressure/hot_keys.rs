//! Hot keys while catching up: a client that takes less than is written never reaches the head, and what is written most often
//! always lies just before it. Half of each chunk goes to the newest records, so that these stay fresh.
//!
//! The model of the design: 5,000 keys, 1,000 writes a second, a client that takes about 900 records a second, one key written 20
//! times a second. Without records `ahead` that key reaches the client three times in two minutes.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tidegate::clock::Moment;
use tidegate::kernel::Held;
use tidegate::protocol::wire::{self, client_frame, server_frame::Body};
use tidegate::shard::ShardCommand;

use super::link::Link;
use super::virtual_time::World;

const KEYS: u32 = 5_000;
/// The key that is written once in each batch of every fifth: 20 times a second.
const HOT: u32 = 17;
/// Ten writes every ten milliseconds.
const BATCH: u32 = 10;
const PAUSE: Duration = Duration::from_millis(10);
const DURATION: Duration = Duration::from_mins(2);
/// The client reads so much at a time, so often: about 900 records of some 45 bytes a second.
const READ_BYTES: usize = 720;
const READ_PAUSE: Duration = Duration::from_millis(20);

/// The client's side: what it holds, and how it came.
struct Reader {
    link: Link,
    has_credit: bool,
    keys: BTreeMap<Bytes, Bytes>,
    cursor: u64,
    records: u64,
    /// How often the hot key came, in its place and ahead of it.
    hot_in_place: u32,
    hot_ahead: u32,
}

impl Reader {
    fn new(world: &mut World, credit_bytes: u64) -> Self {
        let simulation = world.shard.kernel_mut();
        let link = Link::new(simulation, credit_bytes);
        link.say(
            simulation,
            client_frame::Body::Subscribe(wire::Subscribe { topic: "state".into(), ..wire::Subscribe::default() }),
        );
        let (keys, has_credit) = (BTreeMap::new(), credit_bytes > 0);
        Self { link, has_credit, keys, cursor: 0, records: 0, hot_in_place: 0, hot_ahead: 0 }
    }

    fn read(&mut self, world: &mut World, most: usize) {
        let mut consumed = 0;
        for (frame, len) in self.link.read(world.shard.kernel_mut(), most) {
            let Some(Body::Patch(patch)) = frame.body else { continue };
            consumed += len as u64;
            assert_eq!(patch.from, self.cursor, "the chain");
            self.cursor = patch.to;
            let is_hot = |record: &&wire::Record| record.key == key(HOT);
            self.hot_in_place += patch.records.iter().filter(is_hot).count() as u32;
            self.hot_ahead += patch.ahead.iter().filter(is_hot).count() as u32;
            for record in patch.records.into_iter().chain(patch.ahead) {
                self.records += 1;
                self.keys.insert(record.key, record.value);
            }
        }
        if consumed > 0 && self.has_credit {
            let credit = client_frame::Body::Credit(wire::Credit { bytes: consumed });
            self.link.say(world.shard.kernel_mut(), credit);
        }
    }

    /// When the value of the hot key that it holds was written.
    fn hot_written_at(&self) -> Moment {
        self.keys.get(&key(HOT)).map_or(Moment(0), written_at)
    }
}

fn key(number: u32) -> Bytes {
    Bytes::from(format!("key-{number:05}"))
}

/// A value is the moment at which it was written, and padding.
fn value(now: Moment) -> Bytes {
    Bytes::from([&now.0.to_be_bytes()[..], b"0123456789"].concat())
}

fn written_at(value: &Bytes) -> Moment {
    Moment(u64::from_be_bytes(*value.first_chunk().expect("it begins with the moment")))
}

fn write(world: &mut World, publisher: &Link, state: &mut BTreeMap<Bytes, Bytes>, keys: impl Iterator<Item = u32>) {
    let records: Vec<_> = keys
        .map(|number| wire::Record { key: key(number), value: value(world.now), ..wire::Record::default() })
        .collect();
    state.extend(records.iter().map(|record| (record.key.clone(), record.value.clone())));
    let publish = wire::Publish { topic: "state".into(), records, ..wire::Publish::default() };
    publisher.say(world.shard.kernel_mut(), client_frame::Body::Publish(publish));
}

fn play(credit_bytes: u64) {
    let (mut world, mut random) = (World::new(), SmallRng::seed_from_u64(1));
    let mut publisher = Link::new(world.shard.kernel_mut(), 0);
    let mut state = BTreeMap::new();
    for first in (0..KEYS).step_by(1_000) {
        write(&mut world, &publisher, &mut state, first..first + 1_000);
    }
    let mut reader = Reader::new(&mut world, credit_bytes);
    let (mut next_write, mut next_read) = (Moment(0) + Duration::from_secs(1), Moment(0));
    let end = next_write + DURATION;
    let (mut hot_at, mut batches) = (Moment(0), 0);
    let mut ages = Vec::new();
    while world.now < end {
        if world.now >= next_write {
            let is_hot = batches % 5 == 0;
            let others = (0..BATCH - u32::from(is_hot)).map(|_| random.random_range(0..KEYS));
            let keys: Vec<u32> = others.filter(|number| *number != HOT).chain(is_hot.then_some(HOT)).collect();
            if is_hot {
                hot_at = world.now;
            }
            write(&mut world, &publisher, &mut state, keys.into_iter());
            (next_write, batches) = (next_write + PAUSE, batches + 1);
        }
        if world.now >= next_read {
            reader.read(&mut world, READ_BYTES);
            next_read = world.now + READ_PAUSE;
            if world.now > Moment(0) + Duration::from_secs(5) {
                ages.push(hot_at.since(reader.hot_written_at()));
            }
        }
        publisher.read(world.shard.kernel_mut(), usize::MAX);
        world.turn(next_read.min(next_write));
    }
    ages.sort_unstable();
    let (median, p99, oldest) = (ages[ages.len() / 2], ages[ages.len() * 99 / 100], ages[ages.len() - 1]);
    let a_second = reader.records / DURATION.as_secs();
    let (in_place, ahead) = (reader.hot_in_place, reader.hot_ahead);
    println!(
        "credit {credit_bytes}: {a_second} records a second; the hot key came {in_place} times in its place and {ahead} \
         ahead, behind its newest value by {median:?}, p99 {p99:?}, at most {oldest:?}"
    );
    assert!((800..1_000).contains(&a_second), "the model: {a_second} records a second, of a thousand written");
    assert!(reader.cursor < world.shard.topics().iter().next().expect("one topic").1.log.head().0, "it is catching up");
    assert!(p99 < Duration::from_millis(1_500) && oldest < Duration::from_secs(2), "it stays fresh");

    // When nothing is written any more, it comes to the head and holds everything.
    let give_up = world.now + Duration::from_mins(1);
    let head = world.shard.topics().iter().next().expect("one topic").1.log.head().0;
    while reader.cursor < head || reader.keys != state {
        assert!(world.now < give_up, "at {} of {head}", reader.cursor);
        reader.read(&mut world, READ_BYTES);
        publisher.read(world.shard.kernel_mut(), usize::MAX);
        let next = world.now + READ_PAUSE;
        while world.now < next {
            world.turn(next);
        }
    }
    world.commands.send(ShardCommand::Drain(Duration::from_secs(1))).expect("there is room");
    while !world.shard.is_drained() {
        assert!(world.now < give_up, "shutting down");
        publisher.read(world.shard.kernel_mut(), usize::MAX);
        reader.read(&mut world, usize::MAX);
        world.turn(world.now + Duration::from_millis(10));
    }
    assert_eq!(world.shard.held(), Held::default(), "nothing is left over");
}

#[test]
fn a_hot_key_stays_fresh_at_a_plain_client_that_never_catches_up() {
    play(0);
}

#[test]
fn a_hot_key_stays_fresh_with_credit_too() {
    play(64_000);
}
