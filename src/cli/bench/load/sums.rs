//! What all subscribers were sent, added up.

use std::ops::Range;

use super::Load;
use crate::cli::CliError;
use crate::cli::bench::connection::Connection;
use crate::cli::bench::ledger::{Balance, Sums};
use crate::cli::bench::server::Server;
use crate::cli::bench::shape::Reading;
use crate::shard::Ledger;

/// Sums over all subscribers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cli::bench) struct Totals {
    pub(in crate::cli::bench) delivered: u64,
    /// Messages with records in them; of Tidegate, patches.
    pub(in crate::cli::bench) messages: u64,
    pub(in crate::cli::bench) bytes: u64,
}

impl std::ops::Sub for Totals {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            delivered: self.delivered - earlier.delivered,
            messages: self.messages - earlier.messages,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

impl Load {
    /// What all subscribers received so far.
    pub(in crate::cli::bench) fn totals(&self) -> Totals {
        self.subscribers.iter().fold(Totals::default(), |totals, one| Totals {
            delivered: totals.delivered + one.seen.ledger.delivered,
            messages: totals.messages + one.seen.messages,
            bytes: totals.bytes + one.bytes,
        })
    }

    /// Both ends' sums, after [`Load::drain`].
    pub(in crate::cli::bench) fn balance(&self, server: &Server) -> Result<Balance, CliError> {
        let published = self.published();
        let mut clients = Ledger::default();
        for Connection { seen, .. } in &self.subscribers {
            let ledger = &seen.ledger;
            clients.due += ledger.due;
            clients.delivered += ledger.delivered;
            clients.conflated += ledger.conflated;
            clients.filtered += ledger.filtered;
            clients.expired += ledger.expired;
            clients.overrun += ledger.overrun;
            clients.lost += ledger.lost;
            if self.peer.is_some() {
                clients.lost += published - seen.cursor;
            }
        }
        let of_server = match self.peer {
            Some(_) => None,
            None => Some(Sums::of_server(&self.before, &server.metrics()?)),
        };
        Ok(Balance {
            published,
            subscribers: self.subscribers.len() as u64,
            due: self.begun_at.iter().map(|begun| published - begun).sum(),
            clients: clients.into(),
            server: of_server,
            misplaced: self.subscribers.iter().map(|one| one.seen.misplaced).sum(),
        })
    }

    /// How many are at `head` or beyond.
    pub(in crate::cli::bench) fn current(&self, among: Range<usize>, head: u64) -> usize {
        self.subscribers[among].iter().filter(|one| one.seen.cursor >= head).count()
    }

    /// Bytes that slow subscribers read so far.
    pub(in crate::cli::bench) fn slow_bytes(&self) -> u64 {
        let slow = self.subscribers.iter().zip(&self.reading).filter(|(_, reading)| **reading == Reading::Slow);
        slow.map(|(one, _)| one.bytes).sum()
    }

    /// How many subscribers verified, how many records, and how many checksums.
    pub(in crate::cli::bench) fn verified(&self) -> (usize, u64, u64) {
        let verifiers = self.subscribers.iter().map(|one| &one.seen).filter(|seen| seen.is_verifying);
        verifiers.fold((0, 0, 0), |(count, records, checksums), seen| {
            (count + 1, records + seen.verified, checksums + seen.checksums)
        })
    }
}
