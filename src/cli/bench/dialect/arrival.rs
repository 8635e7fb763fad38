//! What came, counted: the same for every server.

use hdrhistogram::Histogram;

use crate::cli::bench::payload::{self, Stopwatch};
use crate::shard::Ledger;

/// What all connections observe together.
pub(in crate::cli::bench) struct Observations {
    /// From the moment that a message's oldest record was due to be published to the moment that it was read, in
    /// nanoseconds: one value for each message (of Tidegate, each patch), the worst in it.
    pub(in crate::cli::bench) latency: Histogram<u64>,
    /// Not during warm-up and drain.
    pub(in crate::cli::bench) is_measuring: bool,
    pub(in crate::cli::bench) clock: Stopwatch,
}

/// What one connection has been sent so far.
#[derive(Debug, Default)]
pub(in crate::cli::bench) struct Seen {
    /// A publisher may publish; a subscriber's subscription is in force.
    pub(in crate::cli::bench) is_ready: bool,
    /// Publishes acknowledged.
    pub(in crate::cli::bench) acknowledged: u64,
    /// The serial (of Tidegate: the offset, which is the same) that it has been brought to.
    pub(in crate::cli::bench) cursor: u64,
    /// Stamp of the newest record that it holds.
    pub(in crate::cli::bench) newest: u64,
    /// What became of the records up to the cursor. Of peers those that were passed over are `lost`.
    pub(in crate::cli::bench) ledger: Ledger,
    /// Records of peers that came again, or behind later ones.
    pub(in crate::cli::bench) misplaced: u64,
    /// Messages with records in them.
    pub(in crate::cli::bench) messages: u64,
    /// Records whose every byte was compared.
    pub(in crate::cli::bench) verified: u64,
    /// Checksums of the state that were compared.
    pub(in crate::cli::bench) checksums: u64,
    /// It was away, so that its latencies say nothing.
    pub(in crate::cli::bench) is_late: bool,
    /// Compares every record.
    pub(in crate::cli::bench) is_verifying: bool,
}

/// Bytes that came on one connection, and where to count what is in them.
pub(in crate::cli::bench) struct Arrival<'a> {
    /// When they were read, by the [`Stopwatch`].
    pub(super) now: u64,
    pub(super) seen: &'a mut Seen,
    pub(super) observations: &'a mut Observations,
    /// What is to be answered.
    pub(super) out: &'a mut Vec<u8>,
}

impl<'a> Arrival<'a> {
    pub(in crate::cli::bench) fn now(
        seen: &'a mut Seen,
        observations: &'a mut Observations,
        out: &'a mut Vec<u8>,
    ) -> Self {
        Self { now: observations.clock.now(), seen, observations, out }
    }

    /// Whether [`Arrival::ready`] was said.
    pub(super) fn is_ready(&self) -> bool {
        self.seen.is_ready
    }

    /// The publisher may publish; the subscriber is subscribed.
    pub(super) fn ready(&mut self) {
        self.seen.is_ready = true;
    }

    /// So many publishes were acknowledged.
    pub(super) fn acknowledged(&mut self, count: u64) {
        self.seen.acknowledged += count;
    }

    /// A record of a peer: its value as it was published.
    ///
    /// # Errors
    /// If it is none of ours, or, on a verifying subscriber, not byte by byte what was published.
    pub(super) fn record(&mut self, value: &[u8]) -> Result<(), String> {
        let (Some(stamp), Some(serial)) = (payload::stamp(value), payload::serial(value)) else {
            return Err(format!("a record of {} bytes is none that was published", value.len()));
        };
        let seen = &mut *self.seen;
        if seen.is_verifying {
            if payload::verified_serial(value).is_none() {
                return Err(format!("record {serial} is not as it was published"));
            }
            seen.verified += 1;
        }
        seen.messages += 1;
        if serial <= seen.cursor {
            seen.misplaced += 1;
            return Ok(());
        }
        seen.ledger.due += serial - seen.cursor;
        seen.ledger.lost += serial - seen.cursor - 1;
        seen.ledger.delivered += 1;
        seen.cursor = serial;
        seen.newest = seen.newest.max(stamp);
        self.latency(stamp);
        Ok(())
    }

    /// A message came whose oldest record has this stamp.
    pub(super) fn latency(&mut self, stamp: u64) {
        if self.observations.is_measuring && !self.seen.is_late {
            let latency = self.now.saturating_sub(stamp);
            self.observations.latency.record(latency).expect("a histogram that grows takes every value");
        }
    }
}
