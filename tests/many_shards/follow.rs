//! Models keep up with the shards: at a topic's home by what was appended there, elsewhere by how far the replica is.

use std::time::Duration;

use tidegate::clock::Moment;
use tidegate::topic::Log;

use crate::model::{Gone, Topic, bytes_of};
use crate::world::World;

/// What a home did to a topic's records.
#[derive(Clone, Copy, Debug)]
pub struct Deed {
    /// Which publish; `None`: keys ran out.
    publish: Option<usize>,
    /// When it arrived.
    at: Moment,
    /// The head after it, and when it was done.
    head: u64,
    done_at: Moment,
}

impl World {
    /// The home of a topic: each shard gives ids of its own.
    pub fn home_of(&self, id: u32) -> usize {
        (id as usize - 1) % self.stations.len()
    }

    /// Brings the models of a shard to where it is.
    pub fn follow(&mut self, at: usize, is_flush: bool) {
        self.make_models(at);
        self.append(at);
        let station = &self.stations[at];
        let found: Vec<(u32, bool)> =
            station.shard.topics().iter().map(|(_, topic)| (topic.id.0, topic.is_at_home())).collect();
        for (id, is_at_home) in found {
            if is_at_home {
                self.follow_home(at, id, is_flush);
            } else {
                self.follow_replica(at, id);
            }
        }
        self.note_living(at);
    }

    fn make_models(&mut self, at: usize) {
        let station = &mut self.stations[at];
        for (_, topic) in station.shard.topics().iter() {
            let classes = &station.models.classes;
            let known = station.models.topics.entry(topic.id.0);
            let made = known.or_insert_with(|| Topic::new(topic.name.as_str(), classes));
            made.is_replica = !topic.is_at_home();
        }
    }

    /// What was appended at home.
    fn append(&mut self, at: usize) {
        let station = &mut self.stations[at];
        for appended in station.shard.journal() {
            let id = appended.topic.0;
            let topic = station.models.topics.get_mut(&id).expect("made above");
            let class = &station.models.classes[topic.class];
            let publish = (appended.request > 0).then(|| self.requests[&appended.request]);
            let count = match publish {
                None => topic.expire_keys(appended.at),
                Some(number) => {
                    let publish = &mut self.publishes[number];
                    // A topic that was forgotten in between is another one, of the same name.
                    let is_repeated = publish.applied_to == id && publish.body.sequence > 0;
                    (publish.applied_to, publish.offset) = (id, appended.last.0);
                    assert!(!is_repeated, "publish {number} was applied twice: {:?}", publish.body);
                    topic.apply(&publish.body, class, appended.at)
                }
            };
            assert_eq!((count, topic.head()), (appended.count, appended.last.0), "{}: {appended:?}", topic.name);
            if self.traces {
                let (name, head) = (&topic.name, topic.head());
                eprintln!("                 home of {id}, {name}, on shard {at}: publish {publish:?}, head {head}");
            }
            let deed = Deed { publish, at: appended.at, head: topic.head(), done_at: self.now };
            self.deeds.entry(id).or_default().push(deed);
        }
    }

    fn follow_home(&mut self, at: usize, id: u32, is_flush: bool) {
        let station = &mut self.stations[at];
        // When its turn began.
        let now = station.models.now;
        let index = station.shard.topics().find_id(tidegate::ids::TopicId(id)).expect("just seen");
        let topic = station.shard.topics().topic(index);
        let model = station.models.topics.get_mut(&id).expect("made above");
        let class = &station.models.classes[model.class];
        assert_eq!(topic.log.head().0, model.head(), "{}: head", model.name);
        model.evict_as(&topic.log, class, station.models.turn, now);
        if is_flush {
            // The wheel's ticks are a millisecond.
            let late = now.since(model.next_key_deadline());
            assert!(late <= Duration::from_millis(5), "{}: a key is {late:?} past its window", model.name);
        }
    }

    fn follow_replica(&mut self, at: usize, id: u32) {
        let home = self.home_of(id);
        assert_ne!(home, at, "a replica at home");
        let [station, home] = self.stations.get_disjoint_mut([at, home]).expect("two shards");
        let index = station.shard.topics().find_id(tidegate::ids::TopicId(id)).expect("just seen");
        let log = &station.shard.topics().topic(index).log;
        if !log.is_current() {
            return;
        }
        let model = station.models.topics.get_mut(&id).expect("made above");
        let class = &station.models.classes[model.class];
        let (head, head_at) = (log.head().0, model.head_at);
        let deeds = self.deeds.get(&id).map_or(&[][..], Vec::as_slice);
        for deed in &deeds[model.deeds..] {
            if deed.head > head {
                break;
            }
            match deed.publish {
                None => _ = model.expire_keys(deed.at),
                Some(number) => _ = model.apply(&self.publishes[number].body, class, deed.at),
            }
            assert_eq!(model.head(), deed.head, "{}: the same deeds, the same heads", model.name);
            model.head_at = deed.done_at;
            model.deeds += 1;
        }
        assert_eq!(model.head(), head, "{}: the replica's head is a moment of its home's", model.name);
        assert_eq!(model.checksum(), log.checksum(), "{}: the replica's state", model.name);
        let gone = model.evicted_to;
        evict_like(model, log, &home.models.topics[&id], station.models.turn);
        if self.traces && (model.head_at, model.evicted_to) != (head_at, gone) {
            let (name, evicted) = (&model.name, model.evicted_to);
            eprintln!("                 replica of {id}, {name}, on shard {at}: head {head}, evicted to {evicted}");
        }
    }

    /// What exists at its home, as far as this shard's clients may count on it.
    fn note_living(&mut self, at: usize) {
        let mut living = std::collections::BTreeMap::new();
        for station in &self.stations {
            for (_, topic) in station.shard.topics().iter().filter(|(_, topic)| topic.is_at_home()) {
                living.insert(topic.id.0, (topic.epoch.0, topic.log.floor().0));
            }
        }
        let station = &mut self.stations[at];
        // A replica remembers no longer than it must, whoever is behind at home.
        for (_, topic) in station.shard.topics().iter().filter(|(_, topic)| !topic.is_at_home()) {
            if let Some((_, floor)) = living.get_mut(&topic.id.0) {
                *floor = topic.log.floor().0.max(*floor);
            }
        }
        station.models.living = living;
    }
}

/// Lets go of the events that a replica has let go of: their home decided what became of them.
fn evict_like(model: &mut Topic, log: &Log, home: &Topic, turn: u64) {
    while model.events.len() > log.event_count() {
        let at = model.events.pop_front().expect("there are some");
        let Some(Gone::Evicted(fate, _)) = home.past[at].gone else {
            panic!("{}: event {} was let go, and its home has it", model.name, at + 1)
        };
        model.event_bytes -= bytes_of(&model.past[at], at);
        model.past[at].gone = Some(Gone::Evicted(fate, turn));
        model.evicted_to = at as u64 + 1;
    }
    assert_eq!(model.events.len(), log.event_count(), "{}: events of a replica", model.name);
}
