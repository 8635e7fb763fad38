//! A connection that subscribes again is sent only so much again: what it makes the server send stands in proportion to what it
//! says, and one that has a reason to is not hurt. In virtual time.

use std::time::Duration;

use tidegate::clock::Moment;
use tidegate::limits::{Limits, RESENT_PERIOD, UNSAID_ANSWERS};
use tidegate::protocol::wire::{Code, Error, Patch, Position, Publish, Subscribe, Unsubscribe};
use tidegate::protocol::wire::{client_frame::Body as Says, server_frame::Body};
use tidegate::shard::LimitHits;

use super::link::Link;
use super::support::keyed;
use super::virtual_time::World;

/// So much is sent for each byte that is received, at most.
const AMPLIFICATION: u64 = 100;

fn to(topic: &str) -> Says {
    Says::Subscribe(Subscribe { topic: topic.into(), ..Subscribe::default() })
}

fn no_more(topic: &str) -> Says {
    Says::Unsubscribe(Unsubscribe { topic: topic.into() })
}

/// A topic of so many keys of a kilobyte.
fn fill(world: &mut World, publisher: &mut Link, topic: &str, keys: usize) {
    for first in (0..keys).step_by(50) {
        let keys = first..keys.min(first + 50);
        let records = keys.map(|key| keyed(&key.to_string(), &"v".repeat(1_000))).collect();
        publisher
            .say(world.simulation(), Says::Publish(Publish { topic: topic.into(), records, ..Publish::default() }));
        let told = pass(world, publisher);
        assert!(matches!(told[..], [.., Body::Published(_)]), "{told:?}");
    }
}

/// Some milliseconds in which a client reads; what it is told.
fn pass(world: &mut World, client: &mut Link) -> Vec<Body> {
    let mut told = Vec::new();
    for _ in 0..5 {
        world.turn();
        told.extend(client.read(world.simulation(), usize::MAX).into_iter().filter_map(|(frame, _)| frame.body));
    }
    told
}

/// What a client is told until it is at the head of so many topics.
fn until_heads(world: &mut World, client: &mut Link, heads: usize) -> Vec<Body> {
    let (mut told, until) = (Vec::new(), world.now + Duration::from_secs(30));
    let is_head = |body: &Body| matches!(body, Body::Patch(patch) if !patch.more);
    while told.iter().filter(|body| is_head(body)).count() < heads {
        assert!(world.now < until, "the heads do not come: {:?}", errors(&told));
        told.extend(pass(world, client));
    }
    told
}

fn errors(told: &[Body]) -> Vec<&Error> {
    told.iter().filter_map(|body| if let Body::Error(error) = body { Some(error) } else { None }).collect()
}

fn patches(told: &[Body]) -> impl Iterator<Item = &Patch> {
    told.iter().filter_map(|body| if let Body::Patch(patch) = body { Some(patch) } else { None })
}

/// Bytes received and sent in ten seconds in which a client, which reads at once, says all of `says` in turn, one every so many
/// milliseconds.
fn ten_seconds(kilobytes: usize, first: &[Says], says: &[Says], every_ms: u64) -> (u64, u64, LimitHits) {
    let mut world = World::new(|_| {});
    let mut publisher = Link::new(world.simulation(), 0);
    fill(&mut world, &mut publisher, "t", kilobytes);
    let mut hostile = Link::new(world.simulation(), 0);
    pass(&mut world, &mut hostile);
    let before = world.report().counters;
    first.iter().for_each(|said| hostile.say(world.simulation(), said.clone()));
    until_heads(&mut world, &mut hostile, 1);
    let mut says = says.iter().cycle();
    for ms in 0..10_000 {
        if ms % every_ms == 0 {
            hostile.say(world.simulation(), says.next().expect("it never ends").clone());
        }
        world.turn();
        hostile.read(world.simulation(), usize::MAX);
    }
    let after = world.report().counters;
    world.end(&mut [publisher, hostile]);
    (after.bytes_received - before.bytes_received, after.bytes_sent - before.bytes_sent, after.limit_hits)
}

#[test]
fn who_subscribes_again_and_again_is_sent_in_proportion() {
    let allowance = Limits::default().resent_bytes as u64;
    let ways: [(&str, &[Says], &[Says]); 4] = [
        ("the same", &[to("t")], &[to("t")]),
        ("given up and taken again", &[to("t")], &[no_more("t"), to("t")]),
        ("under two names", &[to("t"), to("*")], &[no_more("t"), to("t"), no_more("*"), to("*")]),
        ("a pattern", &[to("**")], &[to("**")]),
    ];
    for (way, first, says) in ways {
        for (kilobytes, every_ms) in [(100, 1), (2_000, 1), (2_000, 100)] {
            let (received, sent, hits) = ten_seconds(kilobytes, first, says, every_ms);
            let what = format!("{way}, {kilobytes} kB every {every_ms} ms: {received} bytes in, {sent} bytes out");
            assert!(hits.resent_bytes > 0, "{what}");
            // It was sent once, then the allowance twice (at once, and over the time), and once what overdraws it. Each request
            // is answered.
            let state = kilobytes as u64 * 1_100;
            let answers = 10_000 / every_ms * 200;
            assert!(sent < 2 * state + 2 * allowance + answers, "{what}");
            if every_ms == 1 {
                assert!(sent < AMPLIFICATION * received, "{what}");
            }
        }
    }
}

#[test]
fn subscribes_that_come_together_are_sent_in_proportion() {
    const TOPICS: usize = 100;
    let mut world = World::new(|_| {});
    let mut publisher = Link::new(world.simulation(), 0);
    (0..TOPICS).for_each(|topic| fill(&mut world, &mut publisher, &format!("t/{topic}"), 100));
    let mut hostile = Link::new(world.simulation(), 0);
    (0..TOPICS).for_each(|topic| hostile.say(world.simulation(), to(&format!("t/{topic}"))));
    until_heads(&mut world, &mut hostile, TOPICS);
    let before = world.report().counters.bytes_sent;
    // None has been sent anything when the last of them is looked at.
    (0..TOPICS).for_each(|topic| hostile.say(world.simulation(), to(&format!("t/{topic}"))));
    let until = world.now + Duration::from_secs(1);
    while world.now < until {
        pass(&mut world, &mut hostile);
    }
    let (sent, allowance) = (world.report().counters.bytes_sent - before, Limits::default().resent_bytes as u64);
    // What a state of more than one patch is sent ahead comes twice.
    assert!(sent < allowance * 5 / 4, "{sent} bytes were sent again");
    assert!(sent > allowance / 2, "{sent} bytes were sent again, though more may be");
    world.end(&mut [publisher, hostile]);
}

#[test]
fn who_has_a_reason_to_subscribe_again_is_served_at_once() {
    const TOPICS: usize = 200;
    let mut world = World::new(|_| {});
    let mut publisher = Link::new(world.simulation(), 0);
    fill(&mut world, &mut publisher, "large", 4_000);
    (0..TOPICS).for_each(|topic| fill(&mut world, &mut publisher, &format!("t/{topic}"), 8));
    let mut client = Link::new(world.simulation(), 0);
    client.say(world.simulation(), to("large"));
    (0..TOPICS).for_each(|topic| client.say(world.simulation(), to(&format!("t/{topic}"))));
    until_heads(&mut world, &mut client, TOPICS + 1);

    // Other options for all of them at once.
    for topic in 0..TOPICS {
        let subscribe = Subscribe { topic: format!("t/{topic}"), max_hz: 5, ..Subscribe::default() };
        client.say(world.simulation(), Says::Subscribe(subscribe));
    }
    let told = until_heads(&mut world, &mut client, TOPICS);
    assert_eq!(patches(&told).map(|patch| patch.records.len()).sum::<usize>(), TOPICS * 8);
    // What it holds of one does not add up, whatever its size.
    client.say(world.simulation(), to("large"));
    let told = until_heads(&mut world, &mut client, 1);
    assert_eq!(patches(&told).map(|patch| patch.records.len()).sum::<usize>(), 4_000);
    assert_eq!(world.report().counters.limit_hits, LimitHits::default());
    world.end(&mut [publisher, client]);
}

#[test]
fn positions_cost_what_is_new_and_first_subscriptions_nothing() {
    const TOPICS: usize = 40;
    let mut world = World::new(|limits| limits.resent_bytes = 50_000);
    let mut publisher = Link::new(world.simulation(), 0);
    (0..TOPICS).for_each(|topic| fill(&mut world, &mut publisher, &format!("t/{topic}"), 100));
    let mut client = Link::new(world.simulation(), 0);
    let mut positions = Vec::new();
    for topic in 0..TOPICS {
        client.say(world.simulation(), to(&format!("t/{topic}")));
        let told = until_heads(&mut world, &mut client, 1);
        let epoch =
            told.iter().find_map(|body| if let Body::Subscribed(told) = body { Some(told.epoch) } else { None });
        positions.push(Position { epoch: epoch.expect("it is told"), offset: 100 });
    }
    // Away from all of them and back, as a page that is hidden for a while.
    (0..TOPICS).for_each(|topic| client.say(world.simulation(), no_more(&format!("t/{topic}"))));
    pass(&mut world, &mut client);
    for (topic, position) in positions.into_iter().enumerate() {
        let subscribe = Subscribe { topic: format!("t/{topic}"), resume: Some(position), ..Subscribe::default() };
        client.say(world.simulation(), Says::Subscribe(subscribe));
    }
    let told = until_heads(&mut world, &mut client, TOPICS);
    assert_eq!(patches(&told).map(|patch| patch.records.len()).sum::<usize>(), 0);
    assert_eq!(world.report().counters.limit_hits, LimitHits::default());
    world.end(&mut [publisher, client]);
}

#[test]
fn a_refused_subscribe_says_when_and_changes_nothing() {
    let mut world = World::new(|limits| limits.resent_bytes = 10_000);
    let mut publisher = Link::new(world.simulation(), 0);
    fill(&mut world, &mut publisher, "t", 20);
    let mut client = Link::new(world.simulation(), 0);
    for _ in 0..2 {
        client.say(world.simulation(), to("t"));
        until_heads(&mut world, &mut client, 1);
    }
    assert_eq!(world.report().counters.limit_hits, LimitHits::default());
    client.say(world.simulation(), Says::Subscribe(Subscribe { topic: "t".into(), max_hz: 1, ..Subscribe::default() }));
    let told = pass(&mut world, &mut client);
    let [Body::Error(error)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(error.code(), Code::RateLimited);
    assert_eq!(error.message, "subscribed again too often: at most 10000 bytes in 10 s are sent again");
    assert_eq!(world.report().counters.limit_hits, LimitHits { resent_bytes: 1, ..LimitHits::default() });
    // A little more than twice the allowance was sent again, so that half of the time passes twice and a bit.
    let retry = Duration::from_millis(error.retry_after_ms.into());
    assert!((RESENT_PERIOD..RESENT_PERIOD * 13 / 10).contains(&retry), "{retry:?}");

    // It goes on as it was, without the option: three patches within a second.
    for value in ["a", "b", "c"] {
        let records = vec![keyed("k", value)];
        publisher.say(world.simulation(), Says::Publish(Publish { topic: "t".into(), records, ..Publish::default() }));
        pass(&mut world, &mut publisher);
        assert_eq!(
            patches(&pass(&mut world, &mut client)).next().map(|patch| &patch.records[0].value[..]),
            Some(value.as_bytes())
        );
    }
    let at = world.now + retry;
    for (until, is_served) in [(at - Duration::from_millis(50), false), (at, true)] {
        while world.now < until {
            pass(&mut world, &mut client);
        }
        client.say(world.simulation(), to("t"));
        let told = pass(&mut world, &mut client);
        assert_eq!((errors(&told).is_empty(), patches(&told).any(|patch| patch.reset)), (is_served, is_served));
    }
    assert!(world.now > Moment(0) + RESENT_PERIOD);
    world.end(&mut [publisher, client]);
}

#[test]
fn answers_that_are_not_read_are_not_piled_up() {
    const TOPICS: usize = 100;
    let mut world = World::new(|_| {});
    let mut publisher = Link::new(world.simulation(), 0);
    (0..TOPICS).for_each(|topic| fill(&mut world, &mut publisher, &format!("t/{topic}"), 1));
    let mut client = Link::new(world.simulation(), 0);
    client.say(world.simulation(), to("t/*"));
    until_heads(&mut world, &mut client, TOPICS);
    client.set_capacity(world.simulation(), 0);
    let most = UNSAID_ANSWERS / TOPICS + 1;
    for _ in 0..most {
        client.say(world.simulation(), to("*/*"));
        world.turn();
        world.turn();
    }
    assert_eq!(world.report().counters.limit_hits, LimitHits::default());
    for _ in 0..3 {
        client.say(world.simulation(), to("*/*"));
        world.turn();
        world.turn();
    }
    assert_eq!(world.report().counters.limit_hits, LimitHits { resent_bytes: 3, ..LimitHits::default() });
    client.set_capacity(world.simulation(), 10_000_000);
    let mut answers = 0;
    while answers < most * TOPICS + 3 {
        assert!(world.now < Moment(0) + Duration::from_mins(2), "{answers} answers came");
        let told = pass(&mut world, &mut client);
        answers += told.iter().filter(|body| matches!(body, Body::Subscribed(_) | Body::Error(_))).count();
    }
    assert_eq!(answers, most * TOPICS + 3, "each Subscribe is answered");
    world.end(&mut [publisher, client]);
}
