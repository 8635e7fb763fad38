//! The publisher: numbered records to one topic, one at a time, each acknowledged.

use super::connection::Connection;
use super::dialect::{Observations, Outgoing};
use super::payload;

/// Publishes numbered records to one topic.
pub(super) struct Publisher {
    pub(super) connection: Connection,
    /// What its serials begin with.
    origin: u64,
    /// Bytes of each value.
    bytes: usize,
    /// How many keys take turns; 0: events.
    keys: u64,
    /// Records published; of what was recorded, publishes.
    pub(super) published: u64,
}

impl Publisher {
    pub(super) fn new(connection: Connection, origin: u64, bytes: usize, keys: u64) -> Self {
        Self { connection, origin, bytes, keys, published: 0 }
    }

    /// Publishes that have not been acknowledged.
    pub(super) fn outstanding(&self) -> u64 {
        self.published.saturating_sub(self.connection.seen.acknowledged)
    }

    /// Queues a record that was due at `stamp`.
    pub(super) fn publish(&mut self, stamp: u64) {
        self.published += 1;
        let key = if self.keys > 0 { format!("key-{:06}", self.published % self.keys) } else { String::new() };
        let serial = self.origin | self.published;
        let value = payload::value(stamp, serial, self.bytes);
        self.connection.publish(&Outgoing { serial, key: &key, value: &value });
    }

    /// Writes what waits and reads what came.
    ///
    /// # Errors
    /// If the connection breaks or a publish is refused.
    pub(super) fn pump(&mut self, scratch: &mut [u8], observations: &mut Observations) -> Result<(), String> {
        let publisher = |error| format!("the publisher: {error}");
        self.connection.flush().map_err(publisher)?;
        while !self.connection.read(scratch, usize::MAX, observations).map_err(publisher)? {}
        Ok(())
    }
}
