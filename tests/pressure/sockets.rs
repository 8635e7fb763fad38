//! The same on real sockets. How fast a machine is decides how much is lost, so only the outcome is insisted on.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tidegate::engine::Engine;
use tidegate::protocol::wire::{self, client_frame, server_frame::Body};
use tidegate::shard::Ledger;
use tidegate::topic::TopicClass;

use super::account::{Account, PRIORITIES, event, plus};
use super::link::{Incoming, Said};
use super::support::raw::Raw;
use super::support::{Client, LIMIT, end, engine};

/// Five seconds of them.
const ROUNDS: u32 = 250;
const PAUSE: Duration = Duration::from_millis(20);
/// The slow reader reads so much in each round, however long that takes: 20 kB/s at best. As in virtual time it is more than
/// high and critical together, and less than these and normal.
const SLOW_BYTES: usize = 400;
const VALUE_BYTES: usize = 150;

/// Reads so many bytes at a time, and answers pings when it reads them.
struct SlowReader {
    raw: Raw,
    incoming: Incoming,
    /// Pongs that are on their way out.
    unwritten: VecDeque<u8>,
    account: Account,
}

impl SlowReader {
    fn subscribe(address: SocketAddr, topic: &str) -> Self {
        let mut raw = Raw::hello(address);
        raw.send(2, to(topic));
        raw.stream.set_nonblocking(true).expect("TCP");
        Self { raw, incoming: Incoming::default(), unwritten: VecDeque::new(), account: Account::default() }
    }

    /// Reads at most so many bytes of what is there.
    fn read(&mut self, most: usize) {
        let mut buffer = vec![0; most];
        let mut read = 0;
        while read < most {
            match self.raw.stream.read(&mut buffer[read..]) {
                Ok(0) => panic!("the engine closed the connection"),
                Ok(count) => read += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        for said in self.incoming.read(&buffer[..read]) {
            match said {
                Said::Frame(wire::ServerFrame { body: Some(Body::Patch(patch)), .. }, _) => {
                    self.account.take(&patch, |_, _| {});
                }
                Said::Frame(wire::ServerFrame { body: Some(Body::Subscribed(_)), .. }, _) => {}
                Said::Frame(other, _) => panic!("{other:?}"),
                Said::Ping(pong) => self.unwritten.extend(pong),
                Said::Close(..) => panic!("the engine says goodbye"),
            }
        }
        let bytes = self.unwritten.make_contiguous();
        match self.raw.stream.write(bytes) {
            Ok(count) => drop(self.unwritten.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn to(topic: &str) -> client_frame::Body {
    client_frame::Body::Subscribe(wire::Subscribe { topic: topic.to_owned(), ..wire::Subscribe::default() })
}

fn ledger(engine: &Engine) -> Ledger {
    let classes = engine.report().expect("the shard answers").counters.classes;
    classes.iter().fold(Ledger::default(), |sum, class| plus(&sum, &class.ledger))
}

#[test]
fn a_slow_reader_loses_low_before_normal_and_nothing_else_and_a_prompt_one_loses_nothing() {
    let engine = engine(|config| {
        // Sooner than by default, so that normal events get old within the test. None is dropped because there are many.
        let pressure_normal = Duration::from_millis(700);
        config.classes = vec![TopicClass { pressure_normal, events: 100_000, ..TopicClass::catch_all() }];
    });
    let address = engine.local_addr();
    let mut publisher = Client::hello(address);
    let mut slow = SlowReader::subscribe(address, "mixed");
    let mut prompt = Client::hello(address);
    prompt.send(to("mixed"));
    let mut prompt_account = Account::default();

    let mut next = Instant::now();
    for round in 0..ROUNDS {
        publisher.publish_records("mixed", PRIORITIES.map(|priority| event(round, priority, VALUE_BYTES)).to_vec());
        // It keeps up by definition: the next round waits for it.
        while prompt_account.position() < 4 * u64::from(round + 1) {
            match prompt.body() {
                Body::Patch(patch) => prompt_account.take(&patch, |_, _| {}),
                // Once for the name, and once for the topic that the first publish makes.
                Body::Subscribed(_) => {}
                other => panic!("{other:?}"),
            }
        }
        slow.read(SLOW_BYTES);
        // The rate of the load, not a wait for anything.
        next = (next + PAUSE).max(Instant::now());
        std::thread::sleep(next - Instant::now());
    }
    let begun = Instant::now();
    while slow.account.position() < 4 * u64::from(ROUNDS) {
        assert!(begun.elapsed() < LIMIT, "it is at {}", slow.account.position());
        slow.read(usize::MAX >> 40);
        std::thread::yield_now();
    }

    let rounds = u64::from(ROUNDS);
    prompt_account.close(rounds);
    slow.account.close(rounds);
    assert_eq!(prompt_account.missing(rounds), [0; 4], "a reader that keeps up loses nothing");
    let [low, normal, high, critical] = slow.account.missing(rounds);
    println!("of {rounds} of each priority {:?} did not come", [low, normal, high, critical]);
    assert!(low > normal && normal > 0, "low loses most, normal less: {low} and {normal}");
    assert_eq!((high, critical), (0, 0), "they have no window");
    let told = plus(&prompt_account.told, &slow.account.told);
    while ledger(&engine) != told {
        assert!(begun.elapsed() < LIMIT, "{:?} but the clients were told {told:?}", ledger(&engine));
        std::thread::yield_now();
    }
    drop((publisher, slow, prompt));
    end(engine);
}
