//! One seed: some seconds of chaos, then calm, and everything must be right.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tidegate::clock::Moment;
use tidegate::kernel::Faults;

use crate::client::Pace;
use crate::model::Past;
use crate::runner::every_seed;
use crate::scenario;
use crate::world::World;

/// How long clients do random things.
const CHAOS: Duration = Duration::from_millis(2_500);
/// How long everyone has to come to rest.
const CALM: Duration = Duration::from_secs(8);
/// Behind that, within so long some client gets a frame: on the thinnest link a window full takes half of it.
const PATIENCE: Duration = Duration::from_secs(5);
/// By then even the thinnest link has carried everything that could be published.
const LAST: Moment = Moment(60_000_000_000);

#[test]
fn every_seed_adds_up_and_converges() {
    every_seed("simulation", 200, run);
}

fn run(seed: u64, traces: bool) {
    let mut random = SmallRng::seed_from_u64(seed);
    let config = scenario::kernel(seed, &mut random);
    let settings = scenario::settings(&mut random);
    if traces {
        eprintln!("{config:?}\n{settings:?}");
    }
    let mut world = World::new(config, settings, traces);
    let publishers = random.random_range(1..4);
    let clients = publishers + random.random_range(1..9);
    world.clients = (0..clients).map(|at| scenario::client(&mut random, at < publishers)).collect();
    let end_of_chaos = Moment::default() + CHAOS;
    while world.now < end_of_chaos {
        let mut next = world.read_all();
        for client in 0..world.clients.len() {
            if world.clients[client].next_act <= world.now {
                world.act(client);
            }
            next = next.min(world.clients[client].next_act);
        }
        world.turn(next, end_of_chaos);
    }
    calm(&mut world);
    check_rest(&mut world);
    world.drain(|world| {
        let next = world.read_all();
        let until = world.now + Duration::from_secs(1);
        world.turn(next, until);
    });
}

/// Nothing goes wrong any more, everyone reads, and whoever is away comes back.
fn calm(world: &mut World) {
    world.say(|| "calm".to_owned());
    world.simulation().set_faults(Faults::default());
    for link in 0..world.links.len() {
        let peer = world.links[link].peer;
        world.simulation().peer_tcp_dead(peer, false);
        world.links[link].pace = Pace::Prompt;
        world.links[link].next_read = world.now;
    }
    world.clients.iter_mut().for_each(|client| client.slowness = None);
    let end = world.now + CALM;
    while world.now < end {
        let next = world.read_all();
        for client in 0..world.clients.len() {
            if world.clients[client].link.is_none() {
                world.connect(client);
            }
        }
        world.turn(next, end);
    }
}

/// Whoever is connected holds what the topics hold, or comes nearer to it: some links carry a few kilobytes a second.
fn check_rest(world: &mut World) {
    let (mut progress, mut since) = (0, world.now);
    while let Some(difference) = difference(world) {
        let seen = world.clients.iter().flat_map(|client| client.held.values()).map(|held| held.cursor).sum::<u64>();
        if seen != progress {
            (progress, since) = (seen, world.now);
        }
        assert!(world.now.since(since) < PATIENCE && world.now < LAST, "no rest: {difference}");
        let until = world.now + Duration::from_millis(75);
        while world.now < until {
            let next = world.read_all();
            world.turn(next, until);
        }
    }
}

fn difference(world: &World) -> Option<String> {
    for (number, client) in world.clients.iter().enumerate() {
        let Some(link) = client.link.map(|link| &world.links[link]) else {
            return Some(format!("client {number} is not connected"));
        };
        if !link.is_welcome || !client.pending.is_empty() {
            return Some(format!("client {number} waits: welcome {} {:?}", link.is_welcome, client.pending));
        }
        for (id, topic) in world.shard.topics().iter().map(|(_, topic)| (topic.id.0, topic)) {
            let wanted = client
                .wanted
                .iter()
                .any(|wanted| tidegate::topic::Pattern::parse(&wanted.topic).expect("valid").matches(&topic.name));
            if !wanted {
                continue;
            }
            let Some(held) = client.held.get(topic.name.as_str()) else {
                return Some(format!("client {number} was never told of {}", topic.name.as_str()));
            };
            let standing = link.stream.standings.get(&id).and_then(|standings| standings.first());
            let Some(standing) = standing else { return Some(format!("client {number} does not follow {id}")) };
            let head = topic.log.head().0;
            if held.cursor != head || held.epoch != topic.epoch.0 {
                return Some(format!("client {number} is at {} of {head} in {}", held.cursor, topic.name.as_str()));
            }
            let passes = |past: &&Past| {
                past.key.starts_with(&standing.options.key_prefix)
                    && past.priority as i32 >= standing.options.min_priority
            };
            let model = &world.models.topics[&id];
            let differs = model.state().filter(passes).find(|past| held.keys.get(&past.key) != Some(&past.value));
            if let Some(past) = differs {
                return Some(format!("client {number} lacks {past:?} in {}", model.name));
            }
            let live: Vec<&[u8]> = model.state().map(|past| &past.key[..]).collect();
            if let Some(key) = held.keys.keys().find(|key| !live.contains(&&key[..])) {
                return Some(format!("client {number} still holds {key:?} in {}", model.name));
            }
        }
    }
    None
}
