//! Sequences of operations on a topic's log, against the model that its random tests have.

use std::time::Duration;

use bytes::Bytes;

use crate::topic::tests::world::{CLIENTS, Options, Step, World};
use crate::topic::{Filter, LogSettings, NewRecord, Priority};

/// So many operations at most, since the model is slow.
const STEPS: usize = 160;

/// The bytes choose settings, subscriptions and operations, one after the other.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let settings = choices.settings();
    let mut world = World::new(settings, (0..CLIENTS).map(|_| choices.options()).collect());
    for _ in 0..STEPS {
        if choices.0.is_empty() {
            break;
        }
        world.step(choices.step());
    }
    (0..CLIENTS).for_each(|client| world.step(Step::ReadToHead { client, room: 150 }));
}

/// Zeroes when the bytes are used up.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, limit: u8) -> u8 {
        self.byte() % limit
    }

    fn number(&mut self, limit: u16) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()]) % limit
    }

    /// One in so many.
    fn one_in(&mut self, count: u8) -> bool {
        self.below(count) == 0
    }

    fn settings(&mut self) -> LogSettings {
        LogSettings {
            keys: usize::from(3 + self.below(5)),
            events: usize::from(self.below(8)),
            event_bytes: usize::from(20 + self.number(380)),
            event_age: Duration::from_millis(u64::from(20 + self.number(380))),
            kind_runs: if self.one_in(4) { 1_000 } else { usize::from(self.below(6)) },
            tombstones_beyond_keys: if self.one_in(4) { 1_000 } else { usize::from(self.below(3)) },
        }
    }

    fn options(&mut self) -> Options {
        let filter = self.one_in(3).then(|| Filter {
            min_priority: self.one_in(2).then(|| self.priority()),
            key_prefix: ["", "a", "b1"][usize::from(self.below(3))].into(),
        });
        let window = self.one_in(3).then(|| Duration::from_millis(u64::from(1 + self.below(99))));
        Options { window, filter, only_new_events: self.one_in(3) }
    }

    fn priority(&mut self) -> Priority {
        Priority::ALL[usize::from(self.below(4))]
    }

    fn step(&mut self) -> Step {
        match self.below(16) {
            0..=4 => Step::Publish(self.records(false)),
            5 => Step::Replace(self.records(true)),
            6 | 7 => Step::Wait(u64::from(1 + self.below(79))),
            8 => Step::ExpireKeys,
            9 | 10 => Step::Retain,
            11..=13 => Step::Read { client: self.client(), room: self.room(), is_pressed: self.one_in(2) },
            14 => Step::ReadToHead { client: self.client(), room: self.room() },
            _ => {
                let earlier = (!self.one_in(5)).then(|| usize::from(self.below(20)));
                Step::Resume { client: self.client(), earlier }
            }
        }
    }

    fn client(&mut self) -> usize {
        usize::from(self.byte()) % CLIENTS
    }

    fn room(&mut self) -> usize {
        match self.below(3) {
            0 => 0,
            1 => 60 + usize::from(self.below(200)),
            _ => usize::from(200 + self.number(1_800)),
        }
    }

    fn records(&mut self, is_keyed_only: bool) -> Vec<NewRecord> {
        (0..=self.below(5)).map(|_| self.record(is_keyed_only)).collect()
    }

    fn record(&mut self, is_keyed_only: bool) -> NewRecord {
        let kind = self.below(10);
        let is_delete = kind >= 8;
        let is_event = kind < 4 && !is_keyed_only;
        let key = ["a1", "a2", "a3", "b1", "b2", "b3", "b4"][usize::from(self.below(7))];
        let value = match self.below(8) {
            len @ 0..=6 => vec![b'x' + len % 2; usize::from(len / 2)],
            _ => vec![b'z'; 130],
        };
        let window = self.one_in(3).then(|| Duration::from_millis(u64::from(1 + self.below(119))));
        NewRecord {
            key: if is_event { Bytes::new() } else { key.into() },
            value: if is_delete { Bytes::new() } else { value.into() },
            is_delete,
            priority: self.priority(),
            window: window.filter(|_| !is_delete),
        }
    }
}
