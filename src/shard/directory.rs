//! The topics whose home is another shard: every home tells everyone of what it creates and forgets.

use std::collections::{BTreeMap, HashMap};

use crate::ids::{Epoch, ShardId, TopicId};
use crate::topic::{Pattern, TopicName};

/// A topic elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) name: TopicName,
    pub(super) epoch: Epoch,
    pub(super) home: ShardId,
}

/// All topics elsewhere.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// In an order of their own, so that whoever walks them does the same in each run.
    topics: BTreeMap<TopicId, Remote>,
    names: HashMap<TopicName, TopicId>,
}

impl Directory {
    /// A home's `Created`.
    pub(super) fn add(&mut self, id: TopicId, remote: Remote) {
        // The home forgets a topic before it makes another of that name, and says so in this order.
        let before = self.names.insert(remote.name.clone(), id);
        assert!(before.is_none(), "a home has one topic of a name");
        self.topics.insert(id, remote);
    }

    /// A home's `Forgotten`.
    pub(super) fn remove(&mut self, id: TopicId) -> Option<Remote> {
        let remote = self.topics.remove(&id)?;
        self.names.remove(&remote.name);
        Some(remote)
    }

    pub(super) fn find(&self, name: &str) -> Option<TopicId> {
        self.names.get(name).copied()
    }

    pub(super) fn topic(&self, id: TopicId) -> Option<&Remote> {
        self.topics.get(&id)
    }

    pub(super) fn matching(&self, pattern: &Pattern) -> impl Iterator<Item = TopicId> {
        self.topics.iter().filter(|(_, remote)| pattern.matches(&remote.name)).map(|(id, _)| *id)
    }

    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }
}
