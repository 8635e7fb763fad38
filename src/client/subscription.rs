//! The application's end of a subscription: takes deliveries, keeps the states, and by taking says what was consumed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::driver::Command;
use super::session::SubscriptionId;
use super::state::TopicState;
use super::view::{Accepted, Delivery, Update, View};
use super::{ClientError, Shared};

/// Topics that are being kept up to date. Dropping it unsubscribes.
///
/// What is not taken with [`Subscription::next`] is not confirmed to the server, which then sends less and merges
/// more. So a slow application is behind by what is under way, not by everything that ever happened.
#[derive(Debug)]
pub struct Subscription {
    id: SubscriptionId,
    queue: mpsc::UnboundedReceiver<Queued>,
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    view: View,
    restart_due: Option<Instant>,
    /// Mismatches since the last verified patch: each doubles the wait before the next restart.
    mismatch_count: u32,
    end: Option<ClientError>,
}

impl Subscription {
    pub(crate) fn new(
        id: SubscriptionId,
        queue: mpsc::UnboundedReceiver<Queued>,
        commands: mpsc::Sender<Command>,
        shared: Arc<Shared>,
        view: View,
    ) -> Self {
        Self { id, queue, commands, shared, view, restart_due: None, mismatch_count: 0, end: None }
    }

    /// The next update; waits for it. Patches have been applied to the state, and verified, when they arrive here. It
    /// may be dropped while it waits (as in `select!`): nothing is lost.
    ///
    /// # Errors
    ///
    /// Why nothing will come any more: the client was closed or sent away, or this subscription was refused. Lost
    /// connections are no error; the client resumes by itself.
    pub async fn next(&mut self) -> Result<Update, ClientError> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        loop {
            let queued = if let Some(due) = self.restart_due {
                tokio::select! {
                    queued = self.queue.recv() => queued,
                    () = tokio::time::sleep_until(due) => {
                        // A full channel is tried again: the driver empties it without waiting for anybody.
                        match self.commands.try_send(Command::Restart(self.id)) {
                            Err(mpsc::error::TrySendError::Full(_)) => {
                                self.restart_due = Some(Instant::now() + Duration::from_millis(1));
                            }
                            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => self.restart_due = None,
                        }
                        continue;
                    }
                }
            } else {
                self.queue.recv().await
            };
            let delivery = match queued {
                Some((delivery, _taken)) => *delivery,
                None => Delivery::Ended(self.shared.end()),
            };
            if let Some(result) = self.accept(delivery) {
                return result;
            }
        }
    }

    fn accept(&mut self, delivery: Delivery) -> Option<Result<Update, ClientError>> {
        match self.view.accept(delivery) {
            Accepted::Update(update) => {
                if let Update::Patch(patch) = &update {
                    if patch.is_verified {
                        self.mismatch_count = 0;
                    }
                    self.shared.counters.patches.fetch_add(1, Ordering::Relaxed);
                    self.shared.counters.records.fetch_add(patch.counts.records, Ordering::Relaxed);
                }
                Some(Ok(update))
            }
            Accepted::Nothing => None,
            Accepted::Mismatch(topic, mismatch) => {
                self.shared.counters.mismatches.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(topic = &*topic, %mismatch, "the state is not the server's, subscribing anew");
                // The first at once, the following ones ever later: a snapshot is dear to the server.
                let wait = if self.mismatch_count == 0 { 0 } else { 1 << self.mismatch_count.min(5) };
                self.mismatch_count += 1;
                self.restart_due.get_or_insert_with(|| Instant::now() + Duration::from_secs(wait));
                None
            }
            Accepted::Ended(error) => {
                self.end = Some(error.clone());
                Some(Err(error))
            }
        }
    }

    /// The state of a topic, as of the last update that was taken.
    #[must_use]
    pub fn state(&self, topic: &str) -> Option<&TopicState> {
        self.view.state(topic)
    }

    /// All topics with their states, in order of their names.
    pub fn topics(&self) -> impl Iterator<Item = (&str, &TopicState)> {
        self.view.topics()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // If there is no room, the driver sees the closed queue with the next delivery.
        let _ = self.commands.try_send(Command::Unsubscribe(self.id));
    }
}

/// An entry of a subscription's queue. The queue itself has no bound; [`Intake`] bounds the bytes in all of them
/// together, and the driver stops reading from the server when they are reached.
pub(crate) type Queued = (Box<Delivery>, Taken);

/// What lies between the connection and the application, all subscriptions together.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    pub(crate) queued_bytes: AtomicUsize,
    /// Something was taken.
    pub(crate) taken: Notify,
}

/// Dropped when its item was taken, or will never be because the subscription is gone.
#[derive(Debug)]
pub(crate) struct Taken {
    intake: Arc<Intake>,
    bytes: usize,
    /// Of the connection that the item came by: credit is owed there and nowhere else.
    patch_bytes: u64,
    taken_patch_bytes: Arc<AtomicU64>,
    /// Items of this subscription that were taken, ever.
    taken_items: Arc<AtomicU64>,
}

impl Taken {
    pub(crate) fn new(
        intake: &Arc<Intake>,
        bytes: usize,
        patch_bytes: u64,
        taken_patch_bytes: &Arc<AtomicU64>,
        taken_items: &Arc<AtomicU64>,
    ) -> Self {
        intake.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        Self {
            intake: intake.clone(),
            bytes,
            patch_bytes,
            taken_patch_bytes: taken_patch_bytes.clone(),
            taken_items: taken_items.clone(),
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.taken_items.fetch_add(1, Ordering::AcqRel);
        self.taken_patch_bytes.fetch_add(self.patch_bytes, Ordering::AcqRel);
        self.intake.queued_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.intake.taken.notify_one();
    }
}
