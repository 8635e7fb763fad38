//! What the published values say: when the record was due, and its number. The rest follows from the number.

use std::time::Instant;

/// Bytes that every value has at least: the stamp and the serial number.
pub(super) const MIN_BYTES: usize = 16;

/// Where there are several publishers, the serial says which, above this bit.
const ORIGIN_SHIFT: u32 = 40;
/// Publishers that serials can tell apart.
pub(super) const MAX_ORIGINS: u32 = 1 << 16;

/// The serial of a publisher's record; the first publisher's is the number alone.
pub(super) fn serial_of(origin: u32, count: u64) -> u64 {
    u64::from(origin) << ORIGIN_SHIFT | count
}

/// The publisher and the number that a serial says.
pub(super) fn origin(serial: u64) -> (usize, u64) {
    let origin = serial >> ORIGIN_SHIFT;
    // Beyond what was published by anyone: the number is then as good as none.
    if origin >= u64::from(MAX_ORIGINS) { (0, 0) } else { (origin as usize, serial & ((1 << ORIGIN_SHIFT) - 1)) }
}

/// The generator's clock (`CLOCK_MONOTONIC`): publisher and subscribers share it, so stamps need no agreement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).expect("a run is shorter than five centuries")
    }
}

/// Writes a value of `len` bytes.
pub(super) fn value(stamp: u64, serial: u64, len: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(len.max(MIN_BYTES));
    value.extend_from_slice(&stamp.to_le_bytes());
    value.extend_from_slice(&serial.to_le_bytes());
    let rest = len.saturating_sub(MIN_BYTES);
    value.extend((0..rest).map(|at| filler(serial, at)));
    value
}

/// The stamp of a value, if it is one of ours.
pub(super) fn stamp(value: &[u8]) -> Option<u64> {
    value.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// The serial number that a value says.
pub(super) fn serial(value: &[u8]) -> Option<u64> {
    value.get(8..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// The serial number of a value whose every byte is as it was published.
pub(super) fn verified_serial(value: &[u8]) -> Option<u64> {
    let serial = serial(value)?;
    let is_intact = value[MIN_BYTES..].iter().enumerate().all(|(at, byte)| *byte == filler(serial, at));
    is_intact.then_some(serial)
}

fn filler(serial: u64, at: usize) -> u8 {
    (serial as u8).wrapping_mul(31).wrapping_add(at as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_says_what_was_written_and_any_changed_byte_is_seen() {
        let written = value(77, 12_345, 40);
        assert_eq!((stamp(&written), verified_serial(&written), written.len()), (Some(77), Some(12_345), 40));
        for at in 8..40 {
            let mut changed = written.clone();
            changed[at] ^= 1;
            assert_ne!(verified_serial(&changed), Some(12_345), "byte {at}");
        }
        assert_eq!(verified_serial(&written[..15]), None);
    }
}
