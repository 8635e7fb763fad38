//! Publishes the steps of a source at the pace of their times, for `replay` and `demo`.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::failure::{Failure, FailureKind};
use super::text::shown;
use crate::client::{Acknowledgement, Client, Record};
use crate::clock::Clock;
use crate::feed::lines::FeedError;
use crate::feed::pace::Pace;
use crate::feed::records::Publication;
use crate::feed::source::Step;
use crate::protocol::wire;

/// Publishes under way while more are made.
pub(super) const OUTSTANDING: usize = 256;
/// At the end, acknowledgements are waited for so long.
const SETTLE: Duration = Duration::from_secs(5);

/// How far it has come. Written by the one who plays, read by whoever wants to know.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Recorded time since the first step, in nanoseconds.
    played_ns: AtomicU64,
    records: AtomicU64,
    publishes: AtomicU64,
    acknowledged: AtomicU64,
}

impl Progress {
    pub(super) fn played(&self) -> Duration {
        Duration::from_nanos(self.played_ns.load(Ordering::Relaxed))
    }

    pub(super) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    pub(super) fn publishes(&self) -> u64 {
        self.publishes.load(Ordering::Relaxed)
    }

    /// Publishes that were not acknowledged yet.
    pub(super) fn outstanding(&self) -> u64 {
        // The acknowledged first: the other way round it could come out negative.
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        self.publishes().saturating_sub(acknowledged)
    }
}

/// Publishes `steps` when they are due, until their end or `stop`, and waits for the acknowledgements.
///
/// # Errors
///
/// What is wrong with the recording, or what the client says. What came before it was published all the same.
pub(super) async fn play(
    steps: impl Iterator<Item = Result<Step, FeedError>>,
    client: &Client,
    pace: Pace,
    progress: &Progress,
    stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let mut player = Player { client, progress, under_way: VecDeque::new() };
    let result = tokio::select! {
        biased;
        () = stop => Ok(()),
        result = player.publish_all(steps, pace) => result,
    };
    let settled = tokio::time::timeout(SETTLE, player.settle()).await.unwrap_or(Ok(()));
    result.and(settled)
}

struct Player<'a> {
    client: &'a Client,
    progress: &'a Progress,
    /// With the topic, for the sentence if it fails. At most [`OUTSTANDING`]: the client waits for room.
    under_way: VecDeque<(String, Acknowledgement)>,
}

impl Player<'_> {
    async fn publish_all(
        &mut self,
        steps: impl Iterator<Item = Result<Step, FeedError>>,
        mut pace: Pace,
    ) -> Result<(), Failure> {
        let clock = Clock::start();
        let mut first_ns = None;
        for step in steps {
            let Step { at_ns, publications, .. } = step?;
            let wait = pace.wait(at_ns, clock.now());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let played_ns = at_ns.saturating_sub(*first_ns.get_or_insert(at_ns));
            self.progress.played_ns.store(played_ns, Ordering::Relaxed);
            for publication in publications {
                self.publish(publication).await?;
            }
            self.reap()?;
        }
        Ok(())
    }

    async fn publish(&mut self, publication: Publication) -> Result<(), Failure> {
        let Publication { topic, records, replace } = publication;
        let count = records.len() as u64;
        let records = records.into_iter().map(record);
        // Counted before it is under way, so that nothing is acknowledged before it was counted.
        self.progress.records.fetch_add(count, Ordering::Relaxed);
        self.progress.publishes.fetch_add(1, Ordering::Relaxed);
        if replace {
            // Rare: a book's beginning.
            let replaced = self.client.replace(&topic, records).await;
            return self.acknowledged(&topic, replaced.map(drop));
        }
        match self.client.publish_nowait(&topic, records).await {
            Ok(acknowledgement) => self.under_way.push_back((topic, acknowledgement)),
            Err(error) => self.acknowledged(&topic, Err(error))?,
        }
        Ok(())
    }

    /// Takes the acknowledgements that are there, in order.
    fn reap(&mut self) -> Result<(), Failure> {
        let mut nobody = Context::from_waker(Waker::noop());
        while let Some((_, acknowledgement)) = self.under_way.front_mut() {
            let Poll::Ready(result) = Pin::new(acknowledgement).poll(&mut nobody) else { break };
            let (topic, _) = self.under_way.pop_front().expect("it was just there");
            self.acknowledged(&topic, result.map(drop))?;
        }
        Ok(())
    }

    /// Waits for all of them.
    async fn settle(&mut self) -> Result<(), Failure> {
        while let Some((topic, acknowledgement)) = self.under_way.pop_front() {
            let result = acknowledgement.await;
            self.acknowledged(&topic, result.map(drop))?;
        }
        Ok(())
    }

    fn acknowledged(&self, topic: &str, result: Result<(), crate::client::ClientError>) -> Result<(), Failure> {
        result.map_err(|error| {
            let failure = Failure::from(error);
            Failure::new(failure.kind, format!("{}: {}", shown(topic.as_bytes()), failure.sentence))
        })?;
        self.progress.acknowledged.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A record of the feed as one of the client.
fn record(record: wire::Record) -> Record {
    let (priority, window_ms) = (record.priority(), record.window_ms);
    let made = if record.delete {
        Record::delete(record.key)
    } else if record.key.is_empty() {
        Record::event(record.value)
    } else {
        Record::state(record.key, record.value)
    };
    let made = if priority == wire::Priority::Unspecified { made } else { made.with_priority(priority) };
    made.with_window_ms(window_ms)
}

impl From<FeedError> for Failure {
    fn from(error: FeedError) -> Self {
        let sentence = if error.line == 0 { format!("{}: {}", error.file, error.problem) } else { error.to_string() };
        // What stands in a file must not steer a terminal.
        Self::new(FailureKind::BadInput { line: error.line }, shown(sentence.as_bytes()).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_what_they_say() {
        let state = wire::Record {
            key: "k".into(),
            value: "v".into(),
            priority: wire::Priority::High.into(),
            window_ms: 7,
            ..wire::Record::default()
        };
        let event = wire::Record { value: "e".into(), ..wire::Record::default() };
        let delete = wire::Record { key: "k".into(), delete: true, ..wire::Record::default() };
        for given in [state, event, delete] {
            assert_eq!(wire::Record::from(record(given.clone())), given);
        }
    }
}
