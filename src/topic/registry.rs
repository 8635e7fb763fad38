//! The topics of a shard, by name and by index.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::{Log, LogSettings, TopicClass, TopicName};
use crate::clock::Moment;
use crate::ids::{ClassId, Epoch, ShardId, TopicId};
use crate::limits::Limits;

/// A topic.
#[derive(Debug)]
pub struct Topic {
    /// As clients know it.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// This life of its log.
    pub epoch: Epoch,
    /// The first class whose pattern matches its name.
    pub class: ClassId,
    /// When it came into being.
    pub created: Moment,
    /// Its records: at home the log itself, elsewhere a replica.
    pub log: Log,
    /// The attachment to another shard that it follows; `None`: this shard is its home.
    pub follows: Option<Attachment>,
}

/// A replica's tie to its topic's home. Messages of an earlier one are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Where the log lives.
    pub home: ShardId,
    /// Counts the shard's attachments.
    pub generation: u32,
}

/// Which shard is the home of which topic: a hash of the name, keyed so that clients cannot choose a shard by the names they make up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Homes {
    /// How many shards there are.
    pub shards: u16,
    /// The same for all of them.
    pub seed: u64,
}

impl Homes {
    /// One shard is the home of everything.
    pub const ONE: Self = Self { shards: 1, seed: 0 };

    /// The home of a topic.
    #[must_use]
    pub fn home_of(&self, name: &str) -> ShardId {
        if self.shards == 1 {
            return ShardId(0);
        }
        let mut hasher = DefaultHasher::new();
        (self.seed, name).hash(&mut hasher);
        ShardId((hasher.finish() % u64::from(self.shards)) as u16)
    }
}

impl Topic {
    /// Whether this shard gives its offsets.
    #[must_use]
    pub fn is_at_home(&self) -> bool {
        self.follows.is_none()
    }

    /// True if it holds neither keys nor events: without subscribers it may be forgotten after its class's `linger`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }
}

/// A topic's slot in the [`Registry`]; reused for another topic once it is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicIndex(pub u32);

impl TopicIndex {
    /// As an index into lists that run beside the registry's.
    #[must_use]
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

/// [`Limits::topics`] is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {limit} topics already")]
pub struct TopicsFull {
    /// The limit.
    pub limit: usize,
}

/// The topics of a shard.
#[derive(Debug)]
pub struct Registry {
    /// Ends with a class whose pattern matches every name.
    classes: Arc<[TopicClass]>,
    limits: Limits,
    slots: Vec<Option<Topic>>,
    free: Vec<TopicIndex>,
    names: HashMap<TopicName, TopicIndex>,
    ids: HashMap<TopicId, TopicIndex>,
    at_home: usize,
    /// Never used again, so it only counts up: by the number of shards, so that each home has ids of its own.
    next_id: u32,
    id_step: u32,
    epochs: SplitMix,
}

impl Registry {
    /// No topics. `seed` is random, and another one at each start: epochs follow from it.
    ///
    /// A catch-all class is appended if the last of `classes` is none.
    #[must_use]
    pub fn new(classes: Vec<TopicClass>, limits: &Limits, seed: u64) -> Self {
        Self::of_shard(classes, limits, seed, ShardId(0), 1)
    }

    /// As [`Registry::new`], for one shard of several: the ids of its topics differ from those of the others.
    #[must_use]
    pub fn of_shard(mut classes: Vec<TopicClass>, limits: &Limits, seed: u64, shard: ShardId, shards: u16) -> Self {
        if classes.last().is_none_or(|last| last.pattern != super::Pattern::everything()) {
            classes.push(TopicClass::catch_all());
        }
        Self {
            classes: classes.into(),
            limits: limits.clone(),
            slots: Vec::new(),
            free: Vec::new(),
            names: HashMap::new(),
            ids: HashMap::new(),
            at_home: 0,
            next_id: u32::from(shard.0) + 1,
            id_step: u32::from(shards),
            epochs: SplitMix(seed),
        }
    }

    /// The topic of that name, which comes into being if there is none.
    ///
    /// # Errors
    ///
    /// If it would be one too many.
    pub fn create(&mut self, name: &TopicName, now: Moment) -> Result<TopicIndex, TopicsFull> {
        if let Some(index) = self.find(name.as_str()) {
            return Ok(index);
        }
        let next_id = self.next_id.checked_add(self.id_step);
        let (true, Some(next_id)) = (self.at_home < self.limits.topics, next_id) else {
            return Err(TopicsFull { limit: self.limits.topics });
        };
        let topic = Topic {
            id: TopicId(self.next_id),
            name: name.clone(),
            epoch: Epoch(self.epochs.next()),
            class: self.class_of(name),
            created: now,
            log: self.empty_log(name),
            follows: None,
        };
        self.next_id = next_id;
        self.at_home += 1;
        Ok(self.insert(topic))
    }

    /// The log with which a topic of that name would begin.
    #[must_use]
    pub fn empty_log(&self, name: &TopicName) -> Log {
        Log::new(LogSettings::new(self.class(self.class_of(name)), &self.limits))
    }

    /// A replica of a topic whose home is another shard.
    ///
    /// # Panics
    ///
    /// If there is a topic of that name.
    pub fn replicate(
        &mut self,
        name: &TopicName,
        id: TopicId,
        epoch: Epoch,
        attachment: Attachment,
        now: Moment,
    ) -> TopicIndex {
        assert!(self.find(name.as_str()).is_none(), "a shard has one replica of a topic");
        let class = self.class_of(name);
        let log = Log::replica(LogSettings::new(self.class(class), &self.limits));
        self.insert(Topic { id, name: name.clone(), epoch, class, created: now, log, follows: Some(attachment) })
    }

    fn insert(&mut self, topic: Topic) -> TopicIndex {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            TopicIndex(u32::try_from(self.slots.len() - 1).expect("there are no more slots than ids"))
        });
        self.names.insert(topic.name.clone(), index);
        self.ids.insert(topic.id, index);
        self.slots[index.at()] = Some(topic);
        index
    }

    /// The topic of that id.
    #[must_use]
    pub fn find_id(&self, id: TopicId) -> Option<TopicIndex> {
        self.ids.get(&id).copied()
    }

    /// The topic of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<TopicIndex> {
        self.names.get(name).copied()
    }

    /// Whether the slot holds a topic.
    #[must_use]
    pub fn contains(&self, index: TopicIndex) -> bool {
        self.slots.get(index.at()).is_some_and(Option::is_some)
    }

    /// The topic in that slot.
    ///
    /// # Panics
    ///
    /// If it was forgotten.
    #[must_use]
    pub fn topic(&self, index: TopicIndex) -> &Topic {
        self.slots[index.0 as usize].as_ref().expect("who keeps an index keeps the topic")
    }

    /// The topic in that slot, to change it.
    ///
    /// # Panics
    ///
    /// If it was forgotten.
    #[must_use]
    pub fn topic_mut(&mut self, index: TopicIndex) -> &mut Topic {
        self.slots[index.0 as usize].as_mut().expect("who keeps an index keeps the topic")
    }

    /// Takes the topic out; its slot is free for another. A new one of its name has another id and epoch.
    ///
    /// # Panics
    ///
    /// If it was forgotten already.
    pub fn forget(&mut self, index: TopicIndex) -> Topic {
        let topic = self.slots[index.0 as usize].take().expect("a topic is forgotten once");
        self.names.remove(&topic.name);
        self.ids.remove(&topic.id);
        self.at_home -= usize::from(topic.is_at_home());
        self.free.push(index);
        topic
    }

    /// All topics, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (TopicIndex, &Topic)> {
        (0..).zip(&self.slots).filter_map(|(index, slot)| Some((TopicIndex(index), slot.as_ref()?)))
    }

    /// How many there are, replicas left out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.at_home
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at_home == 0
    }

    /// The class of topics of that name: the first whose pattern matches.
    #[must_use]
    pub fn class_of(&self, name: &TopicName) -> ClassId {
        let index = self.classes.iter().position(|class| class.pattern.matches(name));
        let index = index.expect("the last class matches every name");
        ClassId(u16::try_from(index).expect("there are far fewer classes"))
    }

    /// A class.
    #[must_use]
    pub fn class(&self, id: ClassId) -> &TopicClass {
        &self.classes[usize::from(id.0)]
    }

    /// All classes, in the order in which they are matched.
    #[must_use]
    pub fn classes(&self) -> &Arc<[TopicClass]> {
        &self.classes
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): distinct numbers from one seed, the same ones in every replay of it.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pattern;
    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::parse(text).expect("the test's name is valid")
    }

    fn registry(topics: usize) -> Registry {
        let depth = TopicClass {
            name: "depth".to_owned(),
            pattern: Pattern::parse("market/*/depth").expect("valid"),
            ..TopicClass::catch_all()
        };
        Registry::new(vec![depth], &Limits { topics, ..Limits::default() }, 7)
    }

    #[test]
    fn a_forgotten_name_comes_back_as_another_topic_in_the_old_slot() {
        let mut registry = registry(10);
        let first = registry.create(&name("a"), Moment(1)).expect("room");
        assert_eq!(registry.create(&name("a"), Moment(2)), Ok(first), "it is there already");
        assert_eq!(registry.topic(first).id, TopicId(1), "ids start at 1");
        let gone = registry.forget(first);
        assert_eq!(registry.find("a"), None);
        let second = registry.create(&name("a"), Moment(3)).expect("room");
        assert_eq!(second, first);
        assert_ne!(registry.topic(second).id, gone.id);
        assert_ne!(registry.topic(second).epoch, gone.epoch);
        assert_eq!(registry.iter().count(), 1);
    }

    #[test]
    fn one_topic_too_many_is_refused() {
        let mut registry = registry(1);
        registry.create(&name("a"), Moment(0)).expect("room");
        assert_eq!(registry.create(&name("b"), Moment(0)), Err(TopicsFull { limit: 1 }));
        assert!(registry.create(&name("a"), Moment(0)).is_ok());
        assert_eq!(registry.len(), 1);
    }

    #[test]
    fn the_first_matching_class_is_the_topics_class() {
        let registry = registry(1);
        assert_eq!(registry.class(registry.class_of(&name("market/x/depth"))).name, "depth");
        assert_eq!(registry.class(registry.class_of(&name("market/x/trades"))).name, "default");
    }
}
