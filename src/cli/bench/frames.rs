//! WebSocket frames (RFC 6455 section 5.2): those of a server, whole, and those of a client, masked.

/// FIN and the opcode of a text message.
pub(super) const FIN_TEXT: u8 = 0x81;
/// FIN and the opcode of a binary message.
pub(super) const FIN_BINARY: u8 = 0x82;
pub(super) const FIN_CLOSE: u8 = 0x88;
pub(super) const FIN_PING: u8 = 0x89;
pub(super) const FIN_PONG: u8 = 0x8a;

/// RFC 6455 section 5.3 wants masks that cannot be foretold, for the sake of proxies; there are none here.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x19, 0x77];

/// The head of a server's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The first byte: FIN and opcode.
    pub(super) first: u8,
    /// Bytes of the head itself.
    pub(super) len: usize,
    pub(super) payload_len: usize,
}

/// The head that `bytes` begin with; `None` if it is not all there.
pub(super) fn head(bytes: &[u8]) -> Option<Head> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (len, payload_len) = match second {
        126 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?),
        // A mask bit, which a server must not set, makes it longer than anything that comes: the run ends in a time-out.
        len => (2, usize::from(len)),
    };
    Some(Head { first, len, payload_len })
}

/// One frame of a server, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// The first byte: FIN and opcode.
    pub(super) first: u8,
    pub(super) payload: &'a [u8],
    /// Bytes with the header.
    pub(super) len: usize,
}

/// The frame that `bytes` begin with; `None` if it is not all there.
pub(super) fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let head = head(bytes)?;
    let len = head.len.checked_add(head.payload_len)?;
    Some(Frame { first: head.first, payload: bytes.get(head.len..len)?, len })
}

/// Appends a masked frame.
pub(super) fn put_frame(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    out.push(first);
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    let start = out.len();
    out.extend_from_slice(payload);
    for (byte, mask) in out[start..].iter_mut().zip(MASK.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_there_when_its_last_byte_is() {
        for (head, len) in
            [(vec![0x82, 5], 5), (vec![0x82, 126, 1, 0], 256), (vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0], 65_536)]
        {
            let mut bytes = head.clone();
            bytes.resize(head.len() + len, 7);
            assert_eq!(frame(&bytes[..bytes.len() - 1]), None);
            assert_eq!(frame(&bytes).map(|frame| (frame.payload.len(), frame.len)), Some((len, bytes.len())));
        }
    }
}
