//! How old what a slow reader holds is: 20 keys written 1,000 times a second, of which its connection takes a seventh.

use std::time::Duration;

use bytes::Bytes;
use tidegate::clock::Moment;
use tidegate::protocol::wire::{self, client_frame, server_frame::Body};

use super::link::Link;
use super::virtual_time::World;

const KEYS: u64 = 20;
const VALUE_BYTES: usize = 128;
/// Two records at a time, so that the publisher stays below its message rate.
const WRITE_PAUSE: Duration = Duration::from_millis(2);
/// 200 bytes every 10 ms are 20 kB/s.
const READ_BYTES: usize = 200;
const READ_PAUSE: Duration = Duration::from_millis(10);
/// A client gives credit back in steps of this many bytes.
const CREDIT_STEP: u64 = 1_024;
/// While the window is being found.
const WARM_UP: Duration = Duration::from_secs(5);

/// The reader: of `seconds`, its credit, the steps in which it gives that back, and what it reads at a time.
#[derive(Clone, Copy)]
struct Habit {
    seconds: u64,
    credit_bytes: u64,
    step: u64,
    read_bytes: usize,
}

/// The age of the newest record that the reader holds, in milliseconds, at every write behind the warm-up.
fn ages(Habit { seconds, credit_bytes, step, read_bytes }: Habit) -> Vec<u64> {
    let mut world = World::new();
    let mut publisher = Link::new(world.shard.kernel_mut(), 0);
    let mut reader = Link::new(world.shard.kernel_mut(), credit_bytes);
    let subscribe = wire::Subscribe { topic: "keys".into(), ..wire::Subscribe::default() };
    reader.say(world.shard.kernel_mut(), client_frame::Body::Subscribe(subscribe));
    let (mut serial, mut newest, mut consumed) = (0_u64, Moment(0), 0_u64);
    let (mut next_write, mut next_read) = (Moment(0) + Duration::from_millis(100), Moment(0));
    let mut ages = Vec::new();
    while world.now < Moment(0) + Duration::from_secs(seconds) {
        if next_write <= world.now {
            let mut value = vec![b'.'; VALUE_BYTES];
            value[..8].copy_from_slice(&world.now.0.to_be_bytes());
            let value = Bytes::from(value);
            let record = |serial: u64| wire::Record {
                key: Bytes::from(format!("key-{}", serial % KEYS)),
                value: value.clone(),
                ..wire::Record::default()
            };
            let records = vec![record(serial), record(serial + 1)];
            let publish = wire::Publish { topic: "keys".into(), records, ..wire::Publish::default() };
            publisher.say(world.shard.kernel_mut(), client_frame::Body::Publish(publish));
            serial += 2;
            next_write = next_write + WRITE_PAUSE;
            if world.now > Moment(0) + WARM_UP {
                ages.push(world.now.since(newest).as_millis() as u64);
            }
        }
        if next_read <= world.now {
            for (frame, len) in reader.read(world.shard.kernel_mut(), read_bytes) {
                if let Some(Body::Patch(patch)) = frame.body {
                    consumed += len as u64;
                    let stamps =
                        patch.records.iter().chain(&patch.ahead).filter_map(|record| record.value.first_chunk());
                    newest = stamps.map(|stamp| Moment(u64::from_be_bytes(*stamp))).chain([newest]).max().expect("one");
                }
            }
            if credit_bytes > 0 && consumed >= step {
                let credit = wire::Credit { bytes: std::mem::take(&mut consumed) };
                reader.say(world.shard.kernel_mut(), client_frame::Body::Credit(credit));
            }
            publisher.read(world.shard.kernel_mut(), usize::MAX);
            next_read = world.now + READ_PAUSE;
        }
        world.turn(next_write.min(next_read));
    }
    ages.sort_unstable();
    ages
}

#[test]
fn what_a_slow_reader_holds_is_under_a_second_old() {
    for credit_bytes in [0, 16 * 1_024, 64 * 1_024] {
        let ages = ages(Habit { seconds: 65, credit_bytes, step: CREDIT_STEP, read_bytes: READ_BYTES });
        let at = |permille: usize| ages[ages.len() * permille / 1_000];
        println!(
            "credit {credit_bytes}: p50 {} p90 {} p99 {} p99.9 {} max {}",
            at(500),
            at(900),
            at(990),
            at(999),
            ages[ages.len() - 1]
        );
        assert!(at(990) < 1_000, "p99 with {credit_bytes} bytes of credit: {} ms", at(990));
    }
}

#[test]
fn a_reader_that_gives_credit_in_large_steps_is_not_left_waiting_for_more() {
    // Half of what it allows: eight times what the window is at first.
    let ages = ages(Habit { seconds: 20, credit_bytes: 256 * 1_024, step: 128 * 1_024, read_bytes: usize::MAX });
    let oldest = ages[ages.len() - 1];
    assert!(oldest < 100, "what it holds is {oldest} ms old");
}
