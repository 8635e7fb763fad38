//! The ledger: every record that was due to a subscriber is accounted for, and both ends say the same.

use serde::{Deserialize, Serialize};

use super::server::Metrics;
use crate::shard::Ledger;

/// Both ends' sums.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Balance {
    pub(super) published: u64,
    pub(super) subscribers: u64,
    /// Records that subscribers are to account for: published x subscribers, less what peers had sent before one came.
    pub(super) due: u64,
    /// The sum over what subscribers received. Of peers, `lost` are gaps, and what had not come in the end.
    pub(super) clients: Sums,
    /// The server's counters; peers have none.
    pub(super) server: Option<Sums>,
    /// Records of peers that came twice, or behind later ones.
    pub(super) misplaced: u64,
}

/// What became of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Sums {
    pub(super) delivered: u64,
    pub(super) conflated: u64,
    pub(super) filtered: u64,
    pub(super) expired: u64,
    pub(super) overrun: u64,
    pub(super) lost: u64,
}

impl Sums {
    fn total(&self) -> u64 {
        self.delivered + self.conflated + self.filtered + self.expired + self.overrun + self.lost
    }

    /// What the server counted between two looks.
    pub(super) fn of_server(before: &Metrics, after: &Metrics) -> Self {
        let of = |outcome| after.records(outcome) - before.records(outcome);
        Self {
            delivered: of("delivered"),
            conflated: of("conflated"),
            filtered: of("filtered"),
            expired: of("expired"),
            overrun: of("overrun"),
            lost: of("lost"),
        }
    }
}

impl From<Ledger> for Sums {
    fn from(ledger: Ledger) -> Self {
        let Ledger { due: _, delivered, conflated, filtered, expired, overrun, lost } = ledger;
        Self { delivered, conflated, filtered, expired, overrun, lost }
    }
}

impl Balance {
    /// Whether it closes to the last record, on both ends.
    pub(super) fn closes(&self) -> bool {
        let agrees = self.server.is_none_or(|server| server == self.clients);
        self.clients.total() == self.due && agrees && self.misplaced == 0
    }
}

impl std::fmt::Display for Balance {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { published, subscribers, due, clients, server, misplaced } = self;
        writeln!(out, "ledger: {published} published x {subscribers} subscribers: {due} due")?;
        for (end, sums) in [("clients", Some(clients)), ("server", server.as_ref())] {
            let Some(sums) = sums else { continue };
            let Sums { delivered, conflated, filtered, expired, overrun, lost } = sums;
            writeln!(
                out,
                "  {end:8}{delivered} delivered + {conflated} conflated + {filtered} filtered + {expired} expired + \
                 {overrun} overrun + {lost} lost = {}",
                sums.total()
            )?;
        }
        if *misplaced > 0 {
            writeln!(out, "  {misplaced} came twice, or behind later ones")?;
        }
        write!(out, "  {}", if self.closes() { "closes" } else { "DOES NOT CLOSE" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_closes_only_if_both_ends_account_for_everything() {
        let sums = Sums { delivered: 90, conflated: 8, overrun: 2, ..Sums::default() };
        let balance =
            Balance { published: 50, subscribers: 2, due: 100, clients: sums, server: Some(sums), misplaced: 0 };
        assert!(balance.closes());
        assert!(!Balance { due: 101, ..balance }.closes());
        assert!(!Balance { misplaced: 1, ..balance }.closes());
        assert!(Balance { server: None, ..balance }.closes(), "a peer counts nothing itself");
        let other = Sums { delivered: 91, conflated: 7, ..sums };
        assert!(!Balance { server: Some(other), ..balance }.closes());
    }
}
