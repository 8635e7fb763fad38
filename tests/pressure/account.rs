//! What one subscriber was told of the events, offset by offset.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate::protocol::wire::{self, Priority};
use tidegate::shard::Ledger;

pub(super) const PRIORITIES: [Priority; 4] = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];

/// The event of a round: its value says which it is.
pub(super) fn event(round: u32, priority: Priority, value_bytes: usize) -> wire::Record {
    let mut value = vec![b'.'; value_bytes];
    value[..4].copy_from_slice(&round.to_be_bytes());
    wire::Record { value: Bytes::from(value), priority: priority.into(), ..wire::Record::default() }
}

/// Insists on the chain, the order and the sums of every patch, and counts what came.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Topic by topic: where the subscriber is.
    cursors: BTreeMap<u32, u64>,
    /// Delivered events by priority, low first.
    pub(super) delivered: [u64; 4],
    /// The last round that came, by priority.
    last_round: [Option<u32>; 4],
    /// What the patches said, summed up. Events are never superseded, so nothing is conflated.
    pub(super) told: Ledger,
}

impl Account {
    /// Takes a patch; `arrived` is told the round and priority (0: low) of each event in it.
    pub(super) fn take(&mut self, patch: &wire::Patch, mut arrived: impl FnMut(u32, usize)) {
        let cursor = self.cursors.entry(patch.topic_id).or_default();
        assert_eq!(patch.from, *cursor, "the chain of topic {}", patch.topic_id);
        *cursor = patch.to;
        assert!(patch.ahead.is_empty(), "only keys are sent ahead");
        let named = Ledger {
            due: patch.to - patch.from,
            delivered: patch.records.len() as u64,
            conflated: 0,
            filtered: patch.filtered,
            expired: patch.expired,
            overrun: patch.overrun,
            lost: patch.lost,
        };
        assert_eq!(named.due, sum(&named), "every offset is accounted for: {patch:?}");
        self.told = plus(&self.told, &named);
        for record in &patch.records {
            let at = usize::try_from(record.priority).expect("a priority") - 1;
            let round = u32::from_be_bytes(*record.value.first_chunk().expect("the round comes first"));
            assert!(self.last_round[at].is_none_or(|last| last < round), "order within a topic, and nothing twice");
            self.last_round[at] = Some(round);
            self.delivered[at] += 1;
            arrived(round, at);
        }
    }

    /// Offsets passed, all topics together.
    pub(super) fn position(&self) -> u64 {
        self.cursors.values().sum()
    }

    /// How many of `published` events of each priority did not come.
    pub(super) fn missing(&self, published: u64) -> [u64; 4] {
        self.delivered.map(|delivered| published - delivered)
    }

    /// Insists that what did not come is what the patches said of it.
    pub(super) fn close(&self, published: u64) {
        let missing = self.missing(published);
        assert_eq!(self.told.due, 4 * published, "it is at the head");
        assert_eq!(self.told.delivered, self.delivered.iter().sum::<u64>());
        assert_eq!(missing.iter().sum::<u64>(), self.told.expired + self.told.overrun + self.told.lost);
        assert_eq!((self.told.lost, self.told.filtered), (missing[3], 0), "critical events are lost or delivered");
    }
}

fn sum(ledger: &Ledger) -> u64 {
    ledger.delivered + ledger.conflated + ledger.filtered + ledger.expired + ledger.overrun + ledger.lost
}

/// Two ledgers together.
pub(super) fn plus(one: &Ledger, other: &Ledger) -> Ledger {
    Ledger {
        due: one.due + other.due,
        delivered: one.delivered + other.delivered,
        conflated: one.conflated + other.conflated,
        filtered: one.filtered + other.filtered,
        expired: one.expired + other.expired,
        overrun: one.overrun + other.overrun,
        lost: one.lost + other.lost,
    }
}
