//! What is kept aside while a frame or a message is incomplete.

use super::head::{HEAD_BYTES, Head};
use super::{ReceiverLimits, Violation};
use crate::clock::Moment;
use crate::protocol::frame::Opcode;

/// A message that a step completed.
pub(super) enum Arrived {
    /// Its payload is the last `len` bytes that the step read.
    InPlace { opcode: Opcode, len: usize },
    /// Its payload was put together aside.
    Aside { opcode: Opcode, bytes: Vec<u8> },
}

/// Invariant between steps: the bytes of at most one head or of one frame are here, beside those of one open message.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// Bytes that were fed and not read, from `unread_at` on. Only between feeds.
    pub(super) unread: Vec<u8>,
    pub(super) unread_at: usize,
    head_bytes: [u8; HEAD_BYTES],
    head_len: u8,
    /// The frame whose payload is arriving.
    pub(super) frame: Option<OpenFrame>,
    /// The data message that is open. A control frame may arrive within it.
    pub(super) message: Option<OpenMessage>,
    /// Payload of a control frame that is arriving.
    control: Vec<u8>,
    /// When what is incomplete must be complete. Set exactly while something is.
    pub(super) deadline: Option<Moment>,
}

#[derive(Debug)]
pub(super) struct OpenFrame {
    head: Head,
    /// Of `head.len`.
    received: u64,
}

#[derive(Debug)]
pub(super) struct OpenMessage {
    opcode: Opcode,
    /// Unmasked. Its capacity stays within the limit of a message's bytes.
    bytes: Vec<u8>,
    fragments: usize,
    /// Of a text: everything before is known to be UTF-8, and at most three bytes stand behind it.
    checked: usize,
}

impl Partial {
    pub(super) fn has_head_bytes(&self) -> bool {
        self.head_len > 0
    }

    /// A head of which the first bytes are here and more at the start of `chunk`: with how many of `chunk` it takes.
    pub(super) fn gather_head(&mut self, chunk: &[u8]) -> Result<Option<(Head, usize)>, Violation> {
        let kept = usize::from(self.head_len);
        let mut bytes = self.head_bytes;
        let more = chunk.len().min(HEAD_BYTES - kept);
        bytes[kept..kept + more].copy_from_slice(&chunk[..more]);
        let head = Head::parse(&bytes[..kept + more])?;
        Ok(head.map(|(head, used)| {
            self.head_len = 0;
            (head, used - kept)
        }))
    }

    /// `chunk` ends within a head.
    #[allow(clippy::cast_possible_truncation)] // at most HEAD_BYTES
    pub(super) fn keep_head_bytes(&mut self, chunk: &[u8]) {
        let kept = usize::from(self.head_len);
        self.head_bytes[kept..kept + chunk.len()].copy_from_slice(chunk);
        self.head_len += chunk.len() as u8;
    }

    /// A frame begins whose payload is not all there, or that is not a message by itself.
    pub(super) fn begin_frame(&mut self, head: Head, limits: &ReceiverLimits) -> Result<(), Violation> {
        if !head.opcode.is_control() {
            let message = self.message.get_or_insert_with(|| OpenMessage {
                opcode: head.opcode,
                bytes: Vec::new(),
                fragments: 0,
                checked: 0,
            });
            message.fragments += 1;
            if message.fragments > limits.fragments {
                return Err(Violation::FRAGMENTS);
            }
            // `check` has bounded `head.len` itself, so the sum cannot overflow.
            if message.bytes.len() as u64 + head.len > limits.bytes as u64 {
                return Err(Violation::BYTES);
            }
        }
        self.frame = Some(OpenFrame { head, received: 0 });
        Ok(())
    }

    /// Takes what `chunk` has of the open frame's payload.
    pub(super) fn take_payload(
        &mut self,
        chunk: &mut [u8],
        limits: &ReceiverLimits,
    ) -> Result<(usize, Option<Arrived>), Violation> {
        let frame = self.frame.as_mut().expect("the caller saw or opened a frame");
        let missing = usize::try_from(frame.head.len - frame.received).expect("`check` bounded it by a usize");
        let available = missing.min(chunk.len());
        let piece = &mut chunk[..available];
        // RFC 6455 §5.3: byte i of the payload goes with byte i mod 4 of the mask.
        let mut mask = frame.head.mask;
        mask.rotate_left((frame.received % 4) as usize);
        fastwebsockets::unmask(piece, mask);
        frame.received += piece.len() as u64;
        let is_whole = piece.len() == missing;
        let Head { opcode, is_final, .. } = frame.head;

        if is_whole {
            self.frame = None;
        }
        if opcode.is_control() {
            self.control.extend_from_slice(piece);
            let arrived = is_whole.then(|| Arrived::Aside { opcode, bytes: std::mem::take(&mut self.control) });
            if is_whole && self.message.is_none() {
                self.deadline = None;
            }
            return Ok((piece.len(), arrived));
        }

        let message = self.message.as_mut().expect("a data frame belongs to the open message");
        message.append(piece, limits);
        let is_last = is_whole && is_final;
        if message.opcode == Opcode::Text {
            message.check_text(is_last)?;
        }
        let arrived = if is_last {
            self.deadline = None;
            self.message.take().map(|message| Arrived::Aside { opcode: message.opcode, bytes: message.bytes })
        } else {
            None
        };
        Ok((piece.len(), arrived))
    }

    /// Something is incomplete since now, or since earlier.
    pub(super) fn start_clock(&mut self, now: Moment, limits: &ReceiverLimits) {
        self.deadline.get_or_insert(now + limits.time);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.frame.is_none() && self.message.is_none() && self.head_len == 0 && self.unread_at == self.unread.len()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let message = self.message.as_ref().map_or(0, |message| message.bytes.capacity());
        self.unread.capacity() + self.control.capacity() + message
    }
}

impl OpenMessage {
    fn append(&mut self, piece: &[u8], limits: &ReceiverLimits) {
        let needed = self.bytes.len() + piece.len();
        if needed > self.bytes.capacity() {
            // Doubles as `Vec` would, so that dripped bytes stay linear, but not beyond what a message may have.
            let capacity = needed.max((2 * self.bytes.capacity()).min(limits.bytes));
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
    }

    /// RFC 6455 §8.1, as early as it can be known: within a fragment and before it is complete.
    fn check_text(&mut self, is_last: bool) -> Result<(), Violation> {
        match std::str::from_utf8(&self.bytes[self.checked..]) {
            Ok(_) => self.checked = self.bytes.len(),
            // Cut within a character that more bytes may complete.
            Err(error) if error.error_len().is_none() && !is_last => self.checked += error.valid_up_to(),
            Err(_) => return Err(Violation::NOT_UTF8),
        }
        Ok(())
    }
}
