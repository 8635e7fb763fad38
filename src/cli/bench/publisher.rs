//! The publisher: numbered records to one topic, one at a time, each acknowledged.

use super::connection::Connection;
use super::dialect::{Observations, Outgoing};
use super::payload;

/// Publishes numbered records to one topic.
pub(super) struct Publisher {
    pub(super) connection: Connection,
    /// Bytes of each value.
    bytes: usize,
    /// How many keys take turns; 0: events.
    keys: u64,
    /// Records published.
    pub(super) published: u64,
    /// Stamp of the newest record.
    pub(super) newest: u64,
}

impl Publisher {
    pub(super) fn new(connection: Connection, bytes: usize, keys: u64) -> Self {
        Self { connection, bytes, keys, published: 0, newest: 0 }
    }

    /// Publishes that have not been acknowledged.
    pub(super) fn outstanding(&self) -> u64 {
        self.published.saturating_sub(self.connection.seen.acknowledged)
    }

    /// Queues a record that was due at `stamp`.
    pub(super) fn publish(&mut self, stamp: u64) {
        self.published += 1;
        self.newest = stamp;
        let key = if self.keys > 0 { format!("key-{:06}", self.published % self.keys) } else { String::new() };
        let value = payload::value(stamp, self.published, self.bytes);
        self.connection.publish(&Outgoing { serial: self.published, key: &key, value: &value });
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
