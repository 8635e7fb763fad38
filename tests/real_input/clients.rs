//! The Rust client at both ends: the publisher, and subscribers that the same expectations are held against.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate::client::{
    Acknowledgement, Client, Options, PatchUpdate, Priority, ReconnectPolicy, Record, SubscribeOptions, Subscription,
    Update,
};
use tidegate::feed::book::Book;
use tidegate::protocol::wire;

use super::follower::{Events, Tally, is_right};
use super::input::World;
use super::progress::Progress;
use super::sockets::Random;

/// Acknowledgements that are looked at so much later.
const UNREAD_ACKNOWLEDGEMENTS: usize = 1_024;
/// Publishes under way: the more, the more of them the engine merges into one turn.
const PUBLISHES_OUTSTANDING: usize = 512;

fn options(address: SocketAddr) -> Options {
    let (first, most) = (Duration::from_millis(1), Duration::from_millis(20));
    let reconnect = ReconnectPolicy { first, most, ..ReconnectPolicy::default() };
    Options { reconnect, ..Options::new(format!("ws://{address}")) }
}

/// Publishes an input as fast as the engine takes it, and checks that every acknowledgement says the offset that it must.
pub(super) async fn publish(world: Arc<World>, input: usize, address: SocketAddr, progress: Arc<Progress>) {
    let options = Options { publishes_outstanding: PUBLISHES_OUTSTANDING, ..options(address) };
    let client = Client::connect(options).await.expect("the engine listens");
    let mut offsets = BTreeMap::<&str, u64>::new();
    let mut under_way = VecDeque::<(u64, Acknowledgement)>::new();
    for publication in &world.inputs[input].publications {
        let offset = offsets.entry(&publication.topic).or_default();
        *offset += publication.records.len() as u64;
        let records: Vec<Record> = publication.records.iter().map(record).collect();
        if publication.replace {
            let published = client.replace(&publication.topic, records).await.expect("the engine takes it");
            assert_eq!(published.offset, *offset);
        } else {
            let acknowledgement =
                client.publish_nowait(&publication.topic, records).await.expect("the engine is there");
            under_way.push_back((*offset, acknowledgement));
        }
        if under_way.len() > UNREAD_ACKNOWLEDGEMENTS {
            check(under_way.pop_front().expect("it has some")).await;
        }
        progress.step();
    }
    for acknowledgement in under_way {
        check(acknowledgement).await;
    }
    client.close().await;
}

async fn check((offset, acknowledgement): (u64, Acknowledgement)) {
    let published = acknowledgement.await.expect("the engine takes it");
    assert_eq!((published.offset, published.is_duplicate, published.may_be_repeated), (offset, false, false));
}

fn record(record: &wire::Record) -> Record {
    let made = match (record.key.is_empty(), record.delete) {
        (true, _) => Record::event(record.value.clone()),
        (false, true) => Record::delete(record.key.clone()),
        (false, false) => Record::state(record.key.clone(), record.value.clone()),
    };
    match record.priority() {
        Priority::Unspecified => made,
        priority => made.with_priority(priority),
    }
}

/// A client with one subscription.
pub(super) struct Subscriber {
    pub(super) world: Arc<World>,
    pub(super) address: SocketAddr,
    pub(super) progress: Arc<Progress>,
    pub(super) credit_bytes: u64,
    /// It lets time pass before it takes the next update, now and then.
    pub(super) is_slow: bool,
    /// A name or a pattern, and the topics that it matches.
    pub(super) topic: String,
    pub(super) wanted: Vec<String>,
    pub(super) seed: u64,
}

#[derive(Default)]
struct Watched {
    book: Book,
    events: Events,
    is_snapshot: bool,
}

impl Subscriber {
    /// Lives until it was brought to the end of its topics.
    pub(super) async fn run(self) -> Tally {
        let options = Options { credit_bytes: self.credit_bytes, ..options(self.address) };
        let client = Client::connect(options).await.expect("the engine listens");
        let mut subscription = client.subscribe(SubscribeOptions::new(&self.topic)).await.expect("the engine takes it");
        let (mut random, mut tally) = (Random(self.seed), Tally::default());
        let mut watched = BTreeMap::<String, Watched>::new();
        while !self.is_at_end(&subscription) {
            match subscription.next().await.expect("the client lives") {
                Update::Patch(patch) => {
                    let watched = watched.entry(patch.topic.to_string()).or_default();
                    self.patch(&patch, &subscription, watched, &mut tally);
                }
                Update::Subscribed { is_resumed, .. } => tally.resumed += u64::from(is_resumed),
                // Its publisher is not there yet.
                Update::Unmatched { .. } => {}
                other => panic!("a subscriber is not told {other:?}"),
            }
            if self.is_slow && random.below(50) == 0 {
                let wait = random.below(self.progress.total() / 16);
                self.progress.reached(self.progress.now() + wait).await;
            }
        }
        for name in &self.wanted {
            let (_, expected) = self.world.topic(name);
            let state = subscription.state(name).expect("it was brought to the end");
            assert_eq!(state.key_count(), expected.state.digest().keys, "{name} ends in another state");
            assert!(state.iter().all(|(key, value)| expected.state.get(key) == Some(value)), "{name}: another state");
            watched[name].events.check(expected);
        }
        let stats = client.stats();
        assert_eq!(stats.mismatches, 0, "what the engine says adds up");
        tally.cuts = stats.reconnects;
        drop(subscription);
        client.close().await;
        tally
    }

    fn is_at_end(&self, subscription: &Subscription) -> bool {
        self.wanted.iter().all(|name| {
            let last = self.world.topic(name).1.last;
            subscription.state(name).is_some_and(|state| state.is_current() && state.offset() == last)
        })
    }

    fn patch(&self, patch: &PatchUpdate, subscription: &Subscription, watched: &mut Watched, tally: &mut Tally) {
        let name = &*patch.topic;
        let (input, expected) = self.world.topic(name);
        if patch.is_reset {
            watched.book = Book::default();
            watched.is_snapshot = true;
        }
        if name.starts_with("depth/") {
            for change in &patch.changes {
                match &change.value {
                    Some(value) => watched.book.set(&change.key, value).expect("a level of the book"),
                    None => watched.book.remove(&change.key),
                }
            }
        }
        for event in &patch.events {
            watched.events.take(expected, event.offset, &event.value);
        }
        let counts = patch.counts;
        assert_eq!(patch.to - patch.from, counts.records + counts.conflated + counts.lost, "{name}: {counts:?}");
        watched.events.lost += counts.lost;
        if !expected.events.is_empty() {
            assert!(counts.conflated == 0 || watched.is_snapshot, "{name}: {} events were conflated", counts.conflated);
            watched.events.not_due += counts.conflated;
        }
        if patch.is_current {
            watched.is_snapshot = false;
            let state = subscription.state(name).expect("it has a patch");
            let moment = expected.moment(patch.to);
            assert_eq!((state.key_count(), state.checksum()), (moment.whole.keys, moment.whole.checksum), "{name}");
            assert!(patch.is_verified);
            tally.heads += 1;
            tally.checksums += 1;
            tally.judged += u64::from(name.starts_with("depth/") && is_right(&input.tickers, &watched.book));
        }
        *tally += Tally {
            patches: 1,
            due: patch.to - patch.from,
            records: counts.records,
            conflated: counts.conflated,
            lost: counts.lost,
            ..Tally::default()
        };
    }
}
