//! The publishers' side: who publishes, when it is due, and how far it has come.

use std::time::{Duration, Instant};

use mio::{Interest, Token};

use super::{FIRST_PUBLISHER, Load};
use crate::cli::CliError;
use crate::cli::bench::connection::Connection;
use crate::cli::bench::failed;
use crate::cli::bench::payload::serial_of;
use crate::cli::bench::publisher::Publisher;
use crate::cli::bench::shape::{Drive, Shape};

impl Load {
    /// Makes a publisher of a connection, which greeted as one.
    pub(in crate::cli::bench) fn make_publisher(
        &mut self,
        mut connection: Connection,
        shape: &Shape,
    ) -> Result<(), CliError> {
        let origin = self.publishers.len();
        let interests = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        registry.register(&mut connection.stream, Token(FIRST_PUBLISHER - origin), interests).map_err(failed)?;
        let serials = serial_of(origin as u32, 0);
        self.publishers.push(Publisher::new(connection, serials, shape.bytes, shape.keys));
        Ok(())
    }

    /// Records published, as far as it is known: of what was recorded, as far as it was acknowledged.
    pub(in crate::cli::bench) fn published(&self) -> u64 {
        match self.feed {
            Some(_) => self.publishers.iter().map(|one| one.connection.seen.cursor).sum(),
            None => self.publishers.iter().map(|one| one.published).sum(),
        }
    }

    /// Publishes acknowledged.
    pub(in crate::cli::bench) fn acknowledged(&self) -> u64 {
        self.publishers.iter().map(|one| one.connection.seen.acknowledged).sum()
    }

    /// Publishes that have not been acknowledged.
    pub(super) fn outstanding(&self) -> u64 {
        self.publishers.iter().map(Publisher::outstanding).sum()
    }

    /// Has a publisher queue a record that was due at `stamp`.
    pub(super) fn publish(&mut self, at: usize, stamp: u64) {
        self.publishers[at].publish(stamp);
        if let Some(history) = &mut self.history {
            history.note(stamp);
        }
    }

    /// Publishes what is due by now; says when something is due next, if that is a matter of time.
    pub(super) fn publish_due(
        &mut self,
        drive: Drive,
        start: Instant,
        sent: &mut u64,
    ) -> Result<Option<Instant>, CliError> {
        let next = match drive {
            Drive::Rest => return Ok(None),
            Drive::Feed => {
                let feed = self.feed.as_mut().expect("it was connected with one");
                let Publisher { connection, published, .. } = &mut self.publishers[0];
                let (publishes, next) = feed.publish_due(connection.queue())?;
                *published += publishes;
                next
            }
            Drive::Rate(rate) => {
                // Stamped with the moment that it was due, so that being late counts.
                let (elapsed, now) = (start.elapsed(), self.observations.clock.now());
                let begun = now.saturating_sub(elapsed.as_nanos() as u64);
                let due_at = |serial: u64| serial * 1_000_000_000 / rate;
                let count = self.publishers.len() as u64;
                while due_at(*sent) <= elapsed.as_nanos() as u64 {
                    self.publish((*sent % count) as usize, begun + due_at(*sent));
                    *sent += 1;
                }
                Some(start + Duration::from_nanos(due_at(*sent)))
            }
            Drive::Outstanding(limit) => {
                let now = self.observations.clock.now();
                for at in 0..self.publishers.len() {
                    while self.publishers[at].outstanding() < limit {
                        self.publish(at, now);
                    }
                }
                None
            }
        };
        for publisher in self.publishers.iter_mut().filter(|one| one.connection.has_to_write()) {
            publisher.pump(&mut self.scratch, &mut self.observations).map_err(failed)?;
        }
        Ok(next)
    }
}
