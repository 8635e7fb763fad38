//! How other threads speak to a shard: bounded channels of commands and of records, and its waker.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::kernel::Waker;
use crate::limits::{PROGRAM_PUBLISHES, SHARD_COMMANDS};
use crate::shard::{Publish, Report};

/// What other threads may ask of a shard.
#[derive(Debug)]
pub enum ShardCommand {
    /// Send a copy of the counters.
    Report(tokio::sync::oneshot::Sender<Report>),
    /// Say goodbye to everyone (`GoAway`, close 1001), accept nobody, and end the loop when all are gone, or after this time.
    Drain(Duration),
}

/// The shard's ends of its channels.
#[derive(Debug)]
pub struct Inlets {
    /// What is asked of it.
    pub commands: Receiver<ShardCommand>,
    /// Records of the program that the engine runs in.
    pub publishes: Receiver<Publish>,
}

/// The other ends, until the shard's ring is there to be woken.
#[derive(Clone, Debug)]
pub struct Outlets {
    commands: Sender<ShardCommand>,
    publishes: Sender<Publish>,
}

/// One shard, as others see it.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    outlets: Outlets,
    waker: Arc<dyn Waker>,
}

/// The channels of a shard.
#[must_use]
pub fn inlets() -> (Outlets, Inlets) {
    inlets_of(SHARD_COMMANDS, PROGRAM_PUBLISHES)
}

/// ... with room for so many commands and publishes.
#[must_use]
pub fn inlets_of(commands: usize, publishes: usize) -> (Outlets, Inlets) {
    let (commands, commands_in) = bounded(commands);
    let (publishes, publishes_in) = bounded(publishes);
    (Outlets { commands, publishes }, Inlets { commands: commands_in, publishes: publishes_in })
}

impl ShardHandle {
    /// A handle on the shard that has the other ends of `outlets`.
    #[must_use]
    pub fn new(outlets: Outlets, waker: Arc<dyn Waker>) -> Self {
        Self { outlets, waker }
    }

    /// Asks. False if the shard has ended or its channel is full.
    #[must_use]
    pub fn ask(&self, command: ShardCommand) -> bool {
        let is_sent = self.outlets.commands.try_send(command).is_ok();
        self.waker.wake();
        is_sent
    }

    /// Hands over records for a topic whose home the shard is.
    ///
    /// # Errors
    /// The records back, if the shard has as many as it may keep waiting, or has ended.
    #[allow(clippy::result_large_err, reason = "what found no room is handed back, as the channel does")]
    pub(crate) fn publish(&self, publish: Publish) -> Result<(), TrySendError<Publish>> {
        self.outlets.publishes.try_send(publish)?;
        self.waker.wake();
        Ok(())
    }

    /// As [`ShardHandle::publish`], but waits for room; false if the shard has ended.
    pub(crate) fn publish_when_there_is_room(&self, publish: Publish) -> bool {
        self.waker.wake();
        let is_sent = self.outlets.publishes.send(publish).is_ok();
        self.waker.wake();
        is_sent
    }
}
