//! The subscriber that believes nothing: every record is decoded and compared with what was published (where the values are
//! ours), the keyed state is kept, and its checksum compared with the server's wherever there is one.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;

use super::Values;
use crate::cli::bench::payload;
use crate::protocol::wire;

/// What one verifying subscriber holds of a topic.
#[derive(Debug)]
pub(super) struct Verifier {
    values: Values,
    /// By publisher: the last serial of an event.
    origins: Vec<u64>,
    /// By key: the record's offset, and its term of the checksum.
    state: HashMap<Bytes, (u64, u32)>,
    checksum: u32,
    /// Records that were compared.
    pub(super) verified: u64,
    /// Checksums that were compared.
    pub(super) checksums: u64,
}

impl Verifier {
    pub(super) fn new(values: Values) -> Self {
        Self { values, origins: Vec::new(), state: HashMap::new(), checksum: 0, verified: 0, checksums: 0 }
    }

    /// Applies a patch.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn apply(&mut self, patch: &[u8]) -> Result<(), String> {
        let patch = wire::Patch::decode(patch).map_err(|error| format!("a patch does not decode: {error}"))?;
        if patch.reset {
            self.state.clear();
            self.checksum = 0;
        }
        let mut last = patch.from;
        for record in &patch.records {
            let offset = if record.offset == 0 { patch.to } else { record.offset };
            if offset <= last || offset > patch.to {
                return Err(format!("offset {offset} behind {last} in a patch to {}", patch.to));
            }
            last = offset;
            self.record(record, offset)?;
        }
        for record in &patch.ahead {
            if record.key.is_empty() || record.offset <= patch.to || !patch.more {
                return Err(format!("a record ahead at {} in a patch to {}", record.offset, patch.to));
            }
            self.record(record, record.offset)?;
        }
        match patch.checksum {
            Some(checksum) if checksum != self.checksum => {
                Err(format!("at {} the checksum is {checksum:08x}, the state's is {:08x}", patch.to, self.checksum))
            }
            Some(_) => {
                self.checksums += 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn record(&mut self, record: &wire::Record, offset: u64) -> Result<(), String> {
        self.value(record, offset)?;
        self.verified += 1;
        if record.key.is_empty() {
            return Ok(());
        }
        if record.delete {
            let (held, old) = self.state.remove(&record.key).unwrap_or_default();
            self.checksum = self.checksum.wrapping_sub(old);
            let is_later = held < offset;
            return is_later.then_some(()).ok_or_else(|| format!("a key of offset {held} was deleted at {offset}"));
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&(record.key.len() as u32).to_le_bytes());
        crc.update(&record.key);
        crc.update(&record.value);
        let term = crc.finalize();
        let (held, old) = self.state.insert(record.key.clone(), (offset, term)).unwrap_or_default();
        if held > offset {
            return Err(format!("a key went back from offset {held} to {offset}"));
        }
        self.checksum = self.checksum.wrapping_sub(old).wrapping_add(term);
        Ok(())
    }

    /// Whether the value is one that was published, and in its place.
    fn value(&mut self, record: &wire::Record, offset: u64) -> Result<(), String> {
        let serial = payload::verified_serial(&record.value);
        let is_right = match self.values {
            Values::Recorded => true,
            // Records were given offsets in the order of their serial numbers.
            Values::Numbered => serial == Some(offset),
            Values::ByOrigin => serial.map(payload::origin).is_some_and(|(origin, count)| {
                if self.origins.len() <= origin {
                    self.origins.resize(origin + 1, 0);
                }
                // Of keys, one sent ahead comes again.
                std::mem::replace(&mut self.origins[origin], count) < count || !record.key.is_empty()
            }),
        };
        is_right.then_some(()).ok_or_else(|| format!("the record at offset {offset} is not the one that was published"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(offset: u64, serial: u64) -> wire::Patch {
        let value = payload::value(0, serial, 20).into();
        let record = wire::Record { key: "k".into(), value, ..Default::default() };
        wire::Patch { from: offset - 1, to: offset, records: vec![record], ..Default::default() }
    }

    #[test]
    fn a_record_in_the_wrong_place_is_seen() {
        let mut verifier = Verifier::new(Values::Numbered);
        verifier.apply(&patch(3, 3).encode_to_vec()).expect("as published");
        verifier.apply(&patch(4, 3).encode_to_vec()).expect_err("an old record at a new offset");
    }

    #[test]
    fn a_wrong_checksum_is_seen() {
        let mut verifier = Verifier::new(Values::Numbered);
        let mut made = patch(1, 1);
        made.checksum = Some(crc32fast::hash(&[&[1, 0, 0, 0, b'k'], &made.records[0].value[..]].concat()));
        verifier.apply(&made.encode_to_vec()).expect("the right checksum");
        let mut made = patch(2, 2);
        made.checksum = Some(1);
        verifier.apply(&made.encode_to_vec()).expect_err("a wrong checksum");
    }

    #[test]
    fn of_several_publishers_each_ones_order_is_looked_at() {
        let mut verifier = Verifier::new(Values::ByOrigin);
        let event = |offset, origin, count| {
            let mut made = patch(offset, payload::serial_of(origin, count));
            made.records[0].key = Bytes::new();
            made.encode_to_vec()
        };
        verifier.apply(&event(1, 0, 1)).expect("the first of one");
        verifier.apply(&event(2, 7, 1)).expect("the first of another");
        verifier.apply(&event(3, 0, 2)).expect("the second of one");
        verifier.apply(&event(4, 7, 1)).expect_err("the first again");
    }
}
