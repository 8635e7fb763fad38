//! What must be true once everything has come to rest.

use std::time::Duration;

use tidegate::shard::Unfinished;
use tidegate::topic::{Pattern, Topic};

use crate::client::Pace;
use crate::model::Past;
use crate::station::Station;
use crate::world::World;
use tidegate::kernel::Faults;

/// How long everyone has to come to rest.
const CALM: Duration = Duration::from_secs(8);
/// How long it takes until everyone holds what was published then.
const NEWS: Duration = Duration::from_secs(10);

impl World {
    /// Nothing goes wrong any more, everyone reads, and whoever is away comes back.
    pub fn calm(&mut self) {
        self.say(|| "calm".to_owned());
        (self.weather.stalls_per_mille, self.weather.late_bells_per_mille) = (0, 0);
        self.weather.interruptions_per_mille = 0;
        self.stations.iter_mut().for_each(|station| station.simulation().set_faults(Faults::default()));
        for link in 0..self.links.len() {
            let (peer, client) = (self.links[link].peer, self.links[link].client);
            if self.is_deadly && !self.links[link].is_welcome {
                // Its Hello may have lain in a dead path, and arrives now.
                let others = self.links.iter_mut().filter(|other| other.client == client);
                others.for_each(|other| other.was_taken_over = true);
            }
            self.simulation_of(link).peer_tcp_dead(peer, false);
            self.links[link].pace = Pace::Prompt;
            self.links[link].next_read = self.now;
        }
        self.clients.iter_mut().for_each(|client| (client.slowness, client.flits) = (None, false));
        let end = self.now + CALM;
        while self.now < end {
            let next = self.read_all();
            for client in 0..self.clients.len() {
                if self.clients[client].link.is_none() {
                    self.connect(client);
                }
            }
            self.step(next, end);
        }
    }

    /// Whoever is connected holds what the topics hold, and soon holds what is published now.
    pub fn check_rest(&mut self) {
        self.await_rest(NEWS, "after the calm");
        for _ in 0..6 {
            let client = self.below(self.clients.len());
            let link = self.clients[client].link.expect("everyone is connected");
            self.publish_something(client, link);
            self.await_acknowledgements(client);
            self.await_rest(NEWS, "after a publish");
        }
        self.await_idleness();
        self.check_sessions();
    }

    /// What clients hold is not all: a replica may still be told of what its home has let go.
    fn await_idleness(&mut self) {
        let end = self.now + NEWS;
        loop {
            let next = self.read_all();
            let unfinished = self.stations.iter().map(|station| station.shard.unfinished());
            let Some(at) = unfinished.clone().position(|shard| shard != Unfinished::default()) else { return };
            let found = unfinished.collect::<Vec<_>>();
            assert!(self.now < end, "shard {at} does not come to rest: {found:?}");
            self.step(next, end);
        }
    }

    fn await_acknowledgements(&mut self, client: usize) {
        let end = self.now + self.prompt;
        while !self.clients[client].pending.is_empty() {
            let next = self.read_all();
            assert!(self.now < end, "client {client} waits for {:?}", self.clients[client].pending);
            self.step(next, end);
        }
    }

    fn await_rest(&mut self, limit: Duration, when: &str) {
        let end = self.now + limit;
        loop {
            let next = self.read_all();
            let Some(difference) = self.difference() else { return };
            assert!(self.now < end, "no rest {when}: {difference}");
            self.step(next, end);
        }
    }

    /// Of a session one connection is left, however many showed it.
    fn check_sessions(&self) {
        for (at, link) in self.links.iter().enumerate() {
            let is_shown = |other: &&crate::client::Link| {
                other.client == link.client && other.is_welcome && other.shown == link.session
            };
            let taken_by = self.links.iter().skip(at + 1).find(is_shown);
            let is_left = link.is_over || link.was_left;
            assert!(is_left || !link.is_welcome || taken_by.is_none(), "link {at} was taken over and stands");
        }
    }

    fn difference(&self) -> Option<String> {
        for (number, client) in self.clients.iter().enumerate() {
            let Some(link) = client.link else { return Some(format!("client {number} is not connected")) };
            if !self.links[link].is_welcome || !client.pending.is_empty() {
                let is_welcome = self.links[link].is_welcome;
                return Some(format!("client {number} waits: welcome {is_welcome} {:?}", client.pending));
            }
            for station in &self.stations {
                for (_, topic) in station.shard.topics().iter().filter(|(_, topic)| topic.is_at_home()) {
                    if let Some(difference) = self.difference_in(number, link, station, topic) {
                        return Some(difference);
                    }
                }
            }
        }
        None
    }

    fn difference_in(&self, number: usize, link: usize, home: &Station, topic: &Topic) -> Option<String> {
        let (client, id, name) = (&self.clients[number], topic.id.0, topic.name.as_str());
        let is_wanted =
            |wanted: &crate::client::Wanted| Pattern::parse(&wanted.topic).expect("valid").matches(&topic.name);
        if !client.wanted.iter().any(is_wanted) {
            return None;
        }
        let at = format!("client {number} on shard {}", self.shard_of[link]);
        let Some(held) = client.held.get(name) else { return Some(format!("{at} was never told of {name}")) };
        let standing = self.links[link].stream.standings.get(&id).and_then(|standings| standings.first());
        let Some(standing) = standing else { return Some(format!("{at} does not follow {id}, {name}")) };
        let head = topic.log.head().0;
        if held.cursor != head || held.epoch != topic.epoch.0 {
            return Some(format!("{at} is at {} of {head} in {id}, {name}", held.cursor));
        }
        let passes = |past: &&Past| {
            past.key.starts_with(&standing.options.key_prefix) && past.priority as i32 >= standing.options.min_priority
        };
        let model = &home.models.topics[&id];
        let mut passed = model.state().filter(passes);
        if let Some(past) = passed.find(|past| held.keys.get(&past.key) != Some(&past.value)) {
            return Some(format!("{at} lacks {past:?} in {name}"));
        }
        let live: Vec<&[u8]> = model.state().map(|past| &past.key[..]).collect();
        let left = held.keys.keys().find(|key| !live.contains(&&key[..]));
        left.map(|key| format!("{at} still holds {key:?} in {name}"))
    }
}
