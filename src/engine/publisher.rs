//! Publishing from the program that the engine runs in, without a socket.

use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, TrySendError, bounded};

use crate::clock::Clock;
use crate::ids::Offset;
use crate::limits::Limits;
use crate::protocol::wire;
use crate::shard::{Origin, Publish, Refused, ShardHandle};
use crate::topic::{Homes, NameError, NewRecord, RecordError, TopicClass, TopicName};

/// Publishes records of the program that the engine runs in. Cheap to clone, and usable from any thread.
///
/// Records of one publish get consecutive offsets and are applied together, as those of a client are. Publishes of one handle to
/// one topic are applied in their order.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tidegate::config::Config;
/// use tidegate::engine::{Engine, PublishError, Update};
///
/// let engine = Engine::embed(Config::default())?;
/// let publisher = engine.publisher();
/// match publisher.publish("match/1", [Update::state("ball", "12.5 3.0 0.4")]) {
///     Err(PublishError::Full) => { /* send the whole state with `replace` at the next tick */ }
///     other => other?,
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) homes: Homes,
    pub(super) classes: Vec<TopicClass>,
    pub(super) limits: Limits,
    pub(super) clock: Clock,
    pub(super) shards: Vec<ShardHandle>,
}

/// One update: a key's new value, an event, or a delete.
#[derive(Clone, Debug, PartialEq)]
pub struct Update(wire::Record);

/// Why records were not taken. With [`PublishError::Full`] they may be offered again; the others last.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The shard has as many publishes waiting as it may: slow down, or publish whole states less often.
    #[error("the engine does not keep up: publish less, or wait for room")]
    Full,
    /// The topic's name is none.
    #[error("the topic's name is wrong: {0}")]
    Name(#[from] NameError),
    /// A record is beyond a limit, or makes no sense.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// There is nothing to publish.
    #[error("a publish without records")]
    Empty,
    /// The engine refused it at the topic's home.
    #[error("{0}")]
    Refused(String),
    /// The engine has shut down.
    #[error("the engine has shut down")]
    Ended,
}

/// What a publish will come to.
#[derive(Debug)]
pub struct Receipt(Receiver<Result<wire::Published, Refused>>);

impl Publisher {
    pub(super) fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared) }
    }

    /// Publishes without waiting for anything.
    ///
    /// # Errors
    /// [`PublishError::Full`] if the program is faster than the engine; nothing was published then, or in any other case of an error.
    pub fn publish(&self, topic: &str, updates: impl IntoIterator<Item = Update>) -> Result<(), PublishError> {
        let publish = self.parse(topic, updates, false, Origin::Program(None))?;
        self.hand_over(publish)
    }

    /// Publishes the whole keyed state of a topic: the engine works out what changed.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub fn replace(&self, topic: &str, state: impl IntoIterator<Item = Update>) -> Result<(), PublishError> {
        let publish = self.parse(topic, state, true, Origin::Program(None))?;
        self.hand_over(publish)
    }

    /// Publishes when there is room, blocking until then.
    ///
    /// # Errors
    /// As [`Publisher::publish`], never [`PublishError::Full`].
    pub fn publish_blocking(&self, topic: &str, updates: impl IntoIterator<Item = Update>) -> Result<(), PublishError> {
        let publish = self.parse(topic, updates, false, Origin::Program(None))?;
        let is_taken = self.home_of(&publish).publish_when_there_is_room(publish);
        is_taken.then_some(()).ok_or(PublishError::Ended)
    }

    /// As [`Publisher::publish`]; the receipt tells what came of it.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub fn publish_with_receipt(
        &self,
        topic: &str,
        updates: impl IntoIterator<Item = Update>,
    ) -> Result<Receipt, PublishError> {
        let (sender, receiver) = bounded(1);
        let publish = self.parse(topic, updates, false, Origin::Program(Some(sender)))?;
        self.hand_over(publish)?;
        Ok(Receipt(receiver))
    }

    fn parse(
        &self,
        topic: &str,
        updates: impl IntoIterator<Item = Update>,
        replace: bool,
        origin: Origin,
    ) -> Result<Publish, PublishError> {
        let Shared { classes, limits, clock, .. } = &*self.shared;
        let topic = TopicName::parse(topic)?;
        let class =
            classes.iter().find(|class| class.pattern.matches(&topic)).expect("the last one matches everything");
        let records: Result<Vec<_>, _> =
            updates.into_iter().map(|update| NewRecord::parse(update.0, class, limits)).collect();
        let records = records?;
        if records.is_empty() && !replace {
            return Err(PublishError::Empty);
        }
        Ok(Publish { origin, topic, records: Ok(records), replace, at: clock.now() })
    }

    fn home_of(&self, publish: &Publish) -> &ShardHandle {
        let home = self.shared.homes.home_of(publish.topic.as_str());
        &self.shared.shards[usize::from(home.0)]
    }

    fn hand_over(&self, publish: Publish) -> Result<(), PublishError> {
        self.home_of(&publish).publish(publish).map_err(|error| match error {
            TrySendError::Full(_) => PublishError::Full,
            TrySendError::Disconnected(_) => PublishError::Ended,
        })
    }
}

impl Receipt {
    /// Waits for the home: the offset of the last record.
    ///
    /// # Errors
    /// [`PublishError::Refused`], or [`PublishError::Ended`] if the engine shut down first.
    pub fn wait(self) -> Result<Offset, PublishError> {
        match self.0.recv() {
            Ok(Ok(published)) => Ok(Offset(published.offset)),
            Ok(Err(refused)) => Err(PublishError::Refused(refused.message)),
            Err(_) => Err(PublishError::Ended),
        }
    }
}

impl Update {
    /// State: the key's value from now on.
    #[must_use]
    pub fn state(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self(wire::Record { key: key.into(), value: value.into(), ..wire::Record::default() })
    }

    /// An event, which has no key.
    #[must_use]
    pub fn event(value: impl Into<Bytes>) -> Self {
        Self(wire::Record { value: value.into(), ..wire::Record::default() })
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self(wire::Record { key: key.into(), delete: true, ..wire::Record::default() })
    }

    /// With another priority than the topic's.
    #[must_use]
    pub fn with_priority(mut self, priority: wire::Priority) -> Self {
        self.0.set_priority(priority);
        self
    }

    /// With another relevance window than the topic's.
    #[must_use]
    pub fn with_window_ms(mut self, window_ms: u32) -> Self {
        self.0.window_ms = window_ms;
        self
    }
}

impl From<wire::Record> for Update {
    fn from(record: wire::Record) -> Self {
        Self(record)
    }
}
