//! The subscriber that believes nothing: every record is decoded and compared with what was published, the keyed state is
//! kept, and its checksum compared with the server's wherever there is one.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;

use crate::cli::bench::payload;
use crate::protocol::wire;

/// What one verifying subscriber holds.
#[derive(Debug, Default)]
pub(super) struct Verifier {
    /// By key: the record's offset, and its term of the checksum.
    state: HashMap<Bytes, (u64, u32)>,
    checksum: u32,
    /// Records that were compared.
    pub(super) verified: u64,
    /// Checksums that were compared.
    pub(super) checksums: u64,
}

impl Verifier {
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
        // There is one publisher, so records were given offsets in the order of their serial numbers.
        if payload::verified_serial(&record.value) != Some(offset) {
            return Err(format!("the record at offset {offset} is not the one that was published"));
        }
        self.verified += 1;
        if record.key.is_empty() {
            return Ok(());
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
        let mut verifier = Verifier::default();
        verifier.apply(&patch(3, 3).encode_to_vec()).expect("as published");
        verifier.apply(&patch(4, 3).encode_to_vec()).expect_err("an old record at a new offset");
    }

    #[test]
    fn a_wrong_checksum_is_seen() {
        let mut verifier = Verifier::default();
        let mut made = patch(1, 1);
        made.checksum = Some(crc32fast::hash(&[&[1, 0, 0, 0, b'k'], &made.records[0].value[..]].concat()));
        verifier.apply(&made.encode_to_vec()).expect("the right checksum");
        let mut made = patch(2, 2);
        made.checksum = Some(1);
        verifier.apply(&made.encode_to_vec()).expect_err("a wrong checksum");
    }
}
