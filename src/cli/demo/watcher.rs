//! A subscriber that believes nothing: it holds every book against the market's own best prices.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::oracle::Oracle;
use crate::cli::failure::Failure;
use crate::client::{Client, ClientError, Counts, Options, PatchUpdate, SubscribeOptions, Subscription, Update};
use crate::feed::book::{Book, Verdict};

/// What one subscriber has seen so far. It writes, the command's own thread reads.
#[derive(Debug, Default)]
pub(super) struct Seen {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    totals: Totals,
    /// When the newest record of each topic arrived at the engine, Unix time in microseconds.
    newest_us: HashMap<Arc<str>, u64>,
    /// The greatest age that any of them reached since somebody asked.
    oldest: Duration,
}

/// Sums since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    /// Offsets that patches moved it over.
    pub(super) due: u64,
    /// What became of them.
    pub(super) counts: Counts,
    /// Bytes of patches.
    pub(super) bytes: u64,
    /// Patches whose checksum was there and right. A wrong one is a mismatch.
    pub(super) verified: u64,
    /// Books whose best prices were the market's ...
    pub(super) books_right: u64,
    /// ... or others ...
    pub(super) books_wrong: u64,
    /// Times that the client had to begin anew, because its state was not the server's.
    pub(super) mismatches: u64,
}

impl Totals {
    /// These and those.
    pub(super) fn plus(self, other: Self) -> Self {
        let (a, b) = (self.counts, other.counts);
        Self {
            due: self.due + other.due,
            counts: Counts {
                records: a.records + b.records,
                conflated: a.conflated + b.conflated,
                filtered: a.filtered + b.filtered,
                expired: a.expired + b.expired,
                overrun: a.overrun + b.overrun,
                lost: a.lost + b.lost,
            },
            bytes: self.bytes + other.bytes,
            verified: self.verified + other.verified,
            books_right: self.books_right + other.books_right,
            books_wrong: self.books_wrong + other.books_wrong,
            mismatches: self.mismatches + other.mismatches,
        }
    }
}

impl Seen {
    pub(super) fn totals(&self) -> Totals {
        self.inner().totals
    }

    /// The greatest age that the newest record of any book or match reached since this was asked last.
    pub(super) fn oldest(&self) -> Duration {
        let now_us = unix_us();
        let mut inner = self.inner();
        let present = inner.newest_us.values().map(|us| Duration::from_micros(now_us.saturating_sub(*us))).max();
        std::mem::take(&mut inner.oldest).max(present.unwrap_or_default())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked while holding it left whole numbers behind.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, patch: &PatchUpdate, verdict: Option<&Verdict>) {
        let now_us = unix_us();
        let mut inner = self.inner();
        let Inner { totals, newest_us, oldest } = &mut *inner;
        totals.due += patch.to - patch.from;
        let counts = patch.counts;
        let added = Totals { counts, bytes: patch.frame_bytes as u64, ..Totals::default() };
        *totals = totals.plus(added);
        totals.verified += u64::from(patch.is_verified);
        match verdict {
            Some(Verdict::Right) => totals.books_right += 1,
            Some(Verdict::Wrong { .. }) => totals.books_wrong += 1,
            Some(Verdict::Unknown) | None => {}
        }
        // Trades come when they come, and best prices stay where they are for a while: that says nothing of the engine.
        if patch.topic.starts_with("depth/") || patch.topic.starts_with("match/") {
            let newest = newest_us.entry(patch.topic.clone()).or_insert(patch.time_us);
            *oldest = (*oldest).max(Duration::from_micros(now_us.saturating_sub(*newest)));
            *newest = (*newest).max(patch.time_us);
        }
    }
}

fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A subscriber of everything.
pub(super) struct Watcher {
    client: Client,
    subscription: Subscription,
    seen: Arc<Seen>,
    books: HashMap<Arc<str>, Book>,
}

impl Watcher {
    /// Connects and subscribes to `**`.
    ///
    /// # Errors
    ///
    /// What the client says.
    pub(super) async fn subscribe(url: &str, seen: Arc<Seen>) -> Result<Self, Failure> {
        let agent = concat!("tidegate-demo/", env!("CARGO_PKG_VERSION")).into();
        let client = Client::connect(Options { agent, ..Options::new(url) }).await?;
        let subscription = client.subscribe(SubscribeOptions::new("**")).await?;
        Ok(Self { client, subscription, seen, books: HashMap::new() })
    }

    /// Watches until `stop` becomes true.
    ///
    /// # Errors
    ///
    /// Why nothing more comes.
    pub(super) async fn watch(mut self, oracle: Arc<Oracle>, mut stop: watch::Receiver<bool>) -> Result<(), Failure> {
        let watched = loop {
            tokio::select! {
                // Its sender gone is as good as a stop.
                _ = stop.wait_for(|is_due| *is_due) => break Ok(()),
                update = self.subscription.next() => match update {
                    Ok(Update::Patch(patch)) => {
                        let verdict = self.judge(&patch, &oracle);
                        if let Some(wrong @ Verdict::Wrong { .. }) = &verdict {
                            tracing::error!(topic = &*patch.topic, %wrong, "a wrong book");
                        }
                        self.seen.take(&patch, verdict.as_ref());
                    }
                    Ok(Update::Unsubscribed { topic, .. }) => drop(self.books.remove(&topic)),
                    Ok(Update::Subscribed { .. } | Update::Unmatched { .. } | Update::Notice { .. }) => {}
                    Err(error) => break Err(error),
                },
            }
        };
        self.seen.inner().totals.mismatches = self.client.stats().mismatches;
        self.client.close().await;
        watched.map_err(|error: ClientError| error.into())
    }

    /// Brings the book of a `depth/` topic up to date, and judges it if it is that of a moment.
    fn judge(&mut self, patch: &PatchUpdate, oracle: &Oracle) -> Option<Verdict> {
        let symbol = patch.topic.strip_prefix("depth/")?;
        let book = self.books.entry(patch.topic.clone()).or_default();
        if patch.is_reset {
            *book = Book::default();
        }
        for change in &patch.changes {
            match &change.value {
                // What is no level was published by somebody else, who may.
                Some(value) => drop(book.set(&change.key, value)),
                None => book.remove(&change.key),
            }
        }
        patch.is_current.then(|| oracle.judge(symbol, book))
    }
}
