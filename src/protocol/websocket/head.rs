//! The head of a client's frame (RFC 6455 §5.2): two bytes, a longer length if it needs one, the mask.

use super::{ReceiverLimits, Violation};
use crate::protocol::frame::{CONTROL_BYTES, Opcode};

/// The longest head.
pub(super) const HEAD_BYTES: usize = 14;

#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) opcode: Opcode,
    pub(super) is_final: bool,
    /// As claimed: nothing is allocated by it.
    pub(super) len: u64,
    pub(super) mask: [u8; 4],
}

impl Head {
    /// The head at the start of `bytes` and how many of them it takes; `None` if it is incomplete.
    ///
    /// Each rule is checked as soon as its byte is there, so a peer that breaks one is told at once.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Violation> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        // §5.2: the reserved bits are 0, since no extension was negotiated.
        if first & 0x70 != 0 {
            return Err(Violation::protocol("a reserved bit is set"));
        }
        // §5.2: reserved opcodes fail the connection.
        let Some(opcode) = Opcode::from_bits(first & 0x0F) else {
            return Err(Violation::protocol("a reserved opcode"));
        };
        let is_final = first & 0x80 != 0;
        // §5.5: control frames are not fragmented.
        if opcode.is_control() && !is_final {
            return Err(Violation::protocol("a fragmented control frame"));
        }

        let Some(&second) = bytes.get(1) else { return Ok(None) };
        // §5.1: a client masks every frame.
        if second & 0x80 == 0 {
            return Err(Violation::protocol("a frame without a mask"));
        }
        let short = second & 0x7F;
        // §5.5: control frames are short.
        if opcode.is_control() && usize::from(short) > CONTROL_BYTES {
            return Err(Violation::protocol("a control frame above 125 bytes"));
        }

        let (len, mask_at) = match short {
            126 => match bytes.get(2..).and_then(|rest| rest.first_chunk()) {
                Some(len) => (u64::from(u16::from_be_bytes(*len)), 4),
                None => return Ok(None),
            },
            127 => match bytes.get(2..).and_then(|rest| rest.first_chunk()) {
                Some(len) => (u64::from_be_bytes(*len), 10),
                None => return Ok(None),
            },
            short => (u64::from(short), 2),
        };
        // §5.2: the shortest form must be used, and the highest bit of the longest is 0.
        if (mask_at == 4 && len < 126) || (mask_at == 10 && len <= 0xFFFF) {
            return Err(Violation::protocol("a length that is not in its shortest form"));
        }
        if len > i64::MAX as u64 {
            return Err(Violation::protocol("a length with its highest bit set"));
        }

        let Some(&mask) = bytes[mask_at..].first_chunk() else { return Ok(None) };
        Ok(Some((Self { opcode, is_final, len, mask }, mask_at + mask.len())))
    }

    /// What a head may be depends on whether a message is open. (Its other frames' bytes are counted in `begin_frame`.)
    pub(super) fn check(&self, has_message: bool, limits: &ReceiverLimits) -> Result<(), Violation> {
        match self.opcode {
            // §5.4: the fragments of a message are not interrupted by another message.
            Opcode::Text | Opcode::Binary if has_message => {
                Err(Violation::protocol("a new message within a fragmented one"))
            }
            // §5.4: a continuation has something to continue.
            Opcode::Continuation if !has_message => Err(Violation::protocol("a continuation of nothing")),
            _ if self.len > limits.bytes as u64 && !self.opcode.is_control() => Err(Violation::BYTES),
            _ => Ok(()),
        }
    }

    /// The payload's length if it is all there and is a message (or control frame) by itself.
    pub(super) fn arrived_whole(&self, has_message: bool, available: usize) -> Option<usize> {
        let stands_alone = self.opcode.is_control() || (self.is_final && !has_message);
        usize::try_from(self.len).ok().filter(|&len| stands_alone && len <= available)
    }
}
