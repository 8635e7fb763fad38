//! How much has been published: what everybody waits for instead of the clock.

use tokio::sync::watch;

/// Publications that were handed over, of all that there are.
pub(super) struct Progress {
    total: usize,
    done: watch::Sender<usize>,
}

impl Progress {
    pub(super) fn new(total: usize) -> Self {
        Self { total, done: watch::Sender::new(0) }
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn now(&self) -> usize {
        *self.done.borrow()
    }

    pub(super) fn step(&self) {
        self.done.send_modify(|done| *done += 1);
    }

    /// Waits until so much has been published, or everything.
    pub(super) async fn reached(&self, much: usize) {
        let much = much.min(self.total);
        let _ = self.done.subscribe().wait_for(|done| *done >= much).await.expect("the sender is ours");
    }

    /// As [`Progress::reached`], for a thread.
    pub(super) fn wait(&self, much: usize) {
        if self.now() < much.min(self.total) {
            super::block_on(self.reached(much));
        }
    }
}
