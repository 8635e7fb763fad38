//! How other threads speak to a shard: a bounded channel of commands, and its waker.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::kernel::Waker;
use crate::shard::Report;

/// What other threads may ask of a shard.
#[derive(Debug)]
pub enum ShardCommand {
    /// Send a copy of the counters.
    Report(tokio::sync::oneshot::Sender<Report>),
    /// Say goodbye to everyone (`GoAway`, close 1001), accept nobody, and end the loop when all are gone, or after this time.
    Drain(Duration),
}

/// One shard, as others see it.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    commands: Sender<ShardCommand>,
    waker: Arc<dyn Waker>,
}

impl ShardHandle {
    /// A handle on the shard that reads from the other end of `commands`.
    #[must_use]
    pub fn new(commands: Sender<ShardCommand>, waker: Arc<dyn Waker>) -> Self {
        Self { commands, waker }
    }

    /// Asks. False if the shard has ended or its channel is full.
    #[must_use]
    pub fn ask(&self, command: ShardCommand) -> bool {
        let is_sent = self.commands.try_send(command).is_ok();
        self.waker.wake();
        is_sent
    }
}
