//! WebSocket frames as a server sends them: one head, unmasked (RFC 6455 §5.1, §5.2), never fragmented.
//!
//! Because they are not masked, the bytes of a frame are the same for every receiver.

use bytes::{BufMut, Bytes, BytesMut};

use super::CloseCode;

/// The most bytes that a control frame may carry (RFC 6455 §5.5).
pub const CONTROL_BYTES: usize = 125;

/// What a frame is (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// More of the message that an earlier frame began.
    Continuation = 0x0,
    /// The first, or only, frame of a text message.
    Text = 0x1,
    /// The first, or only, frame of a binary message.
    Binary = 0x2,
    /// The last frame of its sender.
    Close = 0x8,
    /// Asks for a pong with the same payload.
    Ping = 0x9,
    /// Answers a ping.
    Pong = 0xA,
}

impl Opcode {
    /// Whether it may come between the fragments of a message (RFC 6455 §5.5).
    #[must_use]
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    /// The opcode of the low four bits of a frame's first byte; `None` if it is reserved.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }
}

/// How many bytes the head of an unmasked frame with `len` bytes of payload has: 2, 4 or 10.
#[must_use]
pub fn head_len(len: usize) -> usize {
    match len {
        0..=125 => 2,
        126..=0xFFFF => 4,
        _ => 10,
    }
}

/// Writes the head of an unmasked frame that is a whole message, with the shortest form of its length.
#[allow(clippy::cast_possible_truncation)] // each arm's range fits
pub fn put_head(buffer: &mut impl BufMut, opcode: Opcode, len: usize) {
    const FIN: u8 = 0x80;
    buffer.put_u8(FIN | opcode as u8);
    match len {
        0..=125 => buffer.put_u8(len as u8),
        126..=0xFFFF => {
            buffer.put_u8(126);
            buffer.put_u16(len as u16);
        }
        _ => {
            buffer.put_u8(127);
            buffer.put_u64(len as u64);
        }
    }
}

/// A whole frame.
///
/// # Panics
/// If a control frame is given more than [`CONTROL_BYTES`].
#[must_use]
pub fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    assert!(!opcode.is_control() || payload.len() <= CONTROL_BYTES, "control frames are short");
    let mut buffer = BytesMut::with_capacity(head_len(payload.len()) + payload.len());
    put_head(&mut buffer, opcode, payload.len());
    buffer.put_slice(payload);
    buffer.freeze()
}

/// A close frame. A reason that is too long is cut at a character's boundary (RFC 6455 §5.5.1: it must stay UTF-8).
///
/// # Panics
/// If `code` must not be sent.
#[must_use]
pub fn close_frame(code: CloseCode, reason: &str) -> Bytes {
    assert!(code.is_sendable(), "{code} must not be sent");
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES - 2)];
    let mut payload = Vec::with_capacity(CONTROL_BYTES);
    payload.put_u16(code.0);
    payload.put_slice(reason.as_bytes());
    frame(Opcode::Close, &payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_their_shortest_form() {
        for (len, head) in [
            (0, vec![0x82, 0]),
            (125, vec![0x82, 125]),
            (126, vec![0x82, 126, 0, 126]),
            (0xFFFF, vec![0x82, 126, 0xFF, 0xFF]),
            (0x1_0000, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut buffer = Vec::new();
            put_head(&mut buffer, Opcode::Binary, len);
            assert_eq!(buffer, head);
            assert_eq!(head_len(len), head.len());
        }
    }

    #[test]
    fn close_frame_cuts_its_reason_between_characters() {
        assert_eq!(close_frame(CloseCode::NORMAL, "bye")[..], [0x88, 5, 0x03, 0xE8, b'b', b'y', b'e']);
        let cut = close_frame(CloseCode::POLICY, &"é".repeat(100));
        assert_eq!(cut.len(), 2 + 2 + 122, "123 bytes are left for the reason, and é takes two");
        assert!(std::str::from_utf8(&cut[4..]).is_ok());
    }

    #[test]
    #[should_panic(expected = "must not be sent")]
    fn close_codes_for_local_use_are_never_sent() {
        let _ = close_frame(CloseCode::LOST, "");
    }
}
