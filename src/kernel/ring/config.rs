//! The sizes of a ring, and what they must obey.

use crate::kernel::buffers;
use crate::kernel::operation::MAX_SOCKETS;
use crate::kernel::probe::BootError;

/// The sizes of a [`Ring`](super::Ring).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Operations that one system call submits; more take several. A power of two.
    pub entries: u32,
    /// Completions that wait without costing more calls: the worst turn. A power of two, not below `entries`.
    pub completion_entries: u32,
    /// Receive buffers, shared by all sockets. A power of two, at most 32,768.
    pub buffers: u16,
    /// Bytes of each.
    pub buffer_bytes: u32,
    /// Connections; beyond them accepting pauses.
    pub max_sockets: usize,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            entries: 1_024,
            completion_entries: 16 * 1_024,
            buffers: 4_096,
            buffer_bytes: 4_096,
            max_sockets: 1_000_000,
        }
    }
}

impl RingConfig {
    pub(super) fn check(&self) -> Result<(), BootError> {
        let rules = [
            (self.entries.is_power_of_two(), "entries must be a power of two"),
            (self.completion_entries.is_power_of_two(), "completion_entries must be a power of two"),
            (self.completion_entries >= self.entries, "completion_entries must not be below entries"),
            (self.buffers.is_power_of_two(), "buffers must be a power of two"),
            (self.buffers <= buffers::MAX_BUFFERS, "buffers must be at most 32768"),
            (self.buffer_bytes > 0 && self.buffer_bytes <= 1 << 20, "buffer_bytes must be between 1 and 1 MiB"),
            (self.max_sockets > 0, "max_sockets must not be 0"),
            (self.max_sockets < MAX_SOCKETS as usize, "max_sockets must be below 67108864"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some(&(_, reason)) => Err(BootError::Configuration { reason }),
            None => Ok(()),
        }
    }
}
