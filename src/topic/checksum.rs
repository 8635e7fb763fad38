//! The checksum of a topic's keyed state.

/// One key's term: CRC-32 (the zlib one) of the key's length as a 32-bit little-endian number, the key, the value. The
/// checksum of a state is the sum of its keys' terms modulo 2^32, so it can be kept up key by key, in any order.
#[must_use]
pub(super) fn term(key: &[u8], value: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    let key_len = u32::try_from(key.len()).expect("keys are shorter than a message");
    crc.update(&key_len.to_le_bytes());
    crc.update(key);
    crc.update(value);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_is_the_crc_of_length_key_and_value() {
        // `python3 -c "import zlib; print(hex(zlib.crc32(b'\x03\0\0\0bid100.5')))"`
        assert_eq!(term(b"bid", b"100.5"), 0x067b_b62b);
        assert_ne!(term(b"ab", b"c"), term(b"a", b"bc"), "the length says where the key ends");
    }
}
