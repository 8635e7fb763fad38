//! What a client sends after the upgrade: bytes in, messages out, by RFC 6455 to the letter.
//!
//! The [`Receiver`] of a connection holds nothing on the heap while no frame or message is incomplete. A frame that
//! arrived whole is unmasked in the buffer it arrived in and lent from there; only what is incomplete is copied aside,
//! once, as it arrives. So memory follows what a peer sent, never what it claims to send, and bytes that are dripped in
//! one at a time cost no more than linear time.
//!
//! ```
//! # use tidegate::clock::Moment;
//! # use tidegate::protocol::websocket::{Message, Receiver, ReceiverLimits};
//! let limits = ReceiverLimits::default();
//! let mut receiver = Receiver::default();
//! let mut buffer = [0x82, 0x82, 1, 1, 1, 1, b'h' ^ 1, b'i' ^ 1, 0x89]; // a message, and the first byte of a ping
//! let mut feed = receiver.feed(&limits, &mut buffer);
//! assert_eq!(feed.next(Moment(0)), Ok(Some(Message::Binary(b"hi"))));
//! assert_eq!(feed.next(Moment(0)), Ok(None));
//! ```

mod assembly;
#[cfg(test)]
mod differential_tests;
mod head;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::CloseCode;
use super::frame::Opcode;
use crate::clock::Moment;
use crate::limits::Limits;
use assembly::{Arrived, Partial};
use head::Head;

/// What a peer may send at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiverLimits {
    /// Bytes of one message, its fragments together.
    pub bytes: usize,
    /// Fragments of one message.
    pub fragments: usize,
    /// From the first byte of a message or frame that did not arrive whole to its last.
    pub time: Duration,
}

impl From<&Limits> for ReceiverLimits {
    fn from(limits: &Limits) -> Self {
        Self { bytes: limits.message_bytes, fragments: limits.message_fragments, time: limits.message_time }
    }
}

impl Default for ReceiverLimits {
    fn default() -> Self {
        Self::from(&Limits::default())
    }
}

/// A message or control frame, unmasked. Lent until the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Known to be UTF-8.
    Text(&'a [u8]),
    /// Any bytes.
    Binary(&'a [u8]),
    /// To be answered by a pong with the same payload (RFC 6455 §5.5.3).
    Ping(&'a [u8]),
    /// Of a ping, or unasked for.
    Pong(&'a [u8]),
    /// The last thing a peer says, with its code and reason if it gave any. What follows it is not read.
    Close(Option<(CloseCode, &'a str)>),
}

/// Which of the [`ReceiverLimits`] was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiverLimit {
    /// [`ReceiverLimits::bytes`].
    Bytes,
    /// [`ReceiverLimits::fragments`].
    Fragments,
    /// [`ReceiverLimits::time`].
    Time,
}

/// The peer's fault: fail the connection with this code (RFC 6455 §7.1.7). Nothing after it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({code})")]
pub struct Violation {
    /// What the close frame says.
    pub code: CloseCode,
    /// One clause for people, fit for the close frame.
    pub reason: &'static str,
    /// Which limit was exceeded, if it was one.
    pub limit: Option<ReceiverLimit>,
}

impl Violation {
    /// A message did not arrive in time. For the caller's timer at [`Receiver::deadline`].
    pub const TIME: Self = Self {
        code: CloseCode::PROTOCOL_ERROR,
        reason: "a message took too long to arrive",
        limit: Some(ReceiverLimit::Time),
    };
    const BYTES: Self =
        Self { code: CloseCode::TOO_BIG, reason: "the message is too big", limit: Some(ReceiverLimit::Bytes) };
    const FRAGMENTS: Self = Self {
        code: CloseCode::TOO_BIG,
        reason: "the message has too many fragments",
        limit: Some(ReceiverLimit::Fragments),
    };
    const NOT_UTF8: Self = Self { code: CloseCode::INVALID_TEXT, reason: "text is not UTF-8", limit: None };

    const fn protocol(reason: &'static str) -> Self {
        Self { code: CloseCode::PROTOCOL_ERROR, reason, limit: None }
    }
}

/// The receiving half of one connection.
#[derive(Debug, Default)]
pub struct Receiver {
    /// `None` while nothing is incomplete and nothing unread: the state of every idle connection.
    partial: Option<Box<Partial>>,
    /// After a close frame or a violation nothing is read any more (RFC 6455 §1.4, §7.1.7).
    is_ended: bool,
}

const _: () = assert!(size_of::<Receiver>() <= 16, "one sits in every idle connection");

impl Receiver {
    /// Takes bytes that arrived; [`Feed::next`] gives what they complete. An empty `input` goes on with what is unread.
    ///
    /// Dropping the [`Feed`] keeps aside what was not read. Pass the same limits for the connection's whole life.
    pub fn feed<'a>(&'a mut self, limits: &'a ReceiverLimits, input: &'a mut [u8]) -> Feed<'a> {
        let (unread, unread_at) = match &mut self.partial {
            Some(partial) => (std::mem::take(&mut partial.unread), std::mem::take(&mut partial.unread_at)),
            None => (Vec::new(), 0),
        };
        Feed { receiver: self, limits, unread, unread_at, input, input_at: 0, lent: Vec::new() }
    }

    /// When what is incomplete must be complete; `None` if nothing is. Past it [`Feed::next`] answers
    /// [`Violation::TIME`], and so may whoever has a timer.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        self.partial.as_ref().and_then(|partial| partial.deadline)
    }

    /// Gives an incomplete message more time: for so long nothing was read from the connection, which is no fault of the peer.
    pub fn extend_deadline(&mut self, by: Duration) {
        if let Some(deadline) = self.partial.as_mut().and_then(|partial| partial.deadline.as_mut()) {
            *deadline = *deadline + by;
        }
    }

    /// Whether bytes wait that [`Receiver::feed`] was given and nobody read.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| partial.unread_at < partial.unread.len())
    }

    /// Bytes held on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| size_of::<Partial>() + partial.heap_bytes())
    }

    fn end(&mut self) {
        self.is_ended = true;
        self.partial = None;
    }
}

/// Bytes being read. See [`Receiver::feed`].
#[derive(Debug)]
#[must_use = "nothing is read before `next`"]
pub struct Feed<'a> {
    receiver: &'a mut Receiver,
    limits: &'a ReceiverLimits,
    /// What earlier feeds left unread, from `unread_at` on; read before `input`.
    unread: Vec<u8>,
    unread_at: usize,
    input: &'a mut [u8],
    /// Everything before it has been read.
    input_at: usize,
    /// A message that was put together aside, until the next call.
    lent: Vec<u8>,
}

impl Feed<'_> {
    /// The next message; `None` when the bytes are used up.
    ///
    /// # Errors
    /// The first [`Violation`]; from then on, as after a close frame, only `None`.
    #[allow(clippy::should_implement_trait)] // it lends
    pub fn next(&mut self, now: Moment) -> Result<Option<Message<'_>>, Violation> {
        self.lent = Vec::new();
        let arrived = self.advance(now).inspect_err(|_| self.end())?;
        let Some((opcode, place)) = arrived else { return Ok(None) };
        let payload = match place {
            Place::Unread { at, len } => &self.unread[at..at + len],
            Place::Input { at, len } => &self.input[at..at + len],
            Place::Aside(bytes) => {
                self.lent = bytes;
                &self.lent[..]
            }
        };
        Ok(Some(match opcode {
            Opcode::Text => Message::Text(payload),
            Opcode::Binary => Message::Binary(payload),
            Opcode::Ping => Message::Ping(payload),
            Opcode::Pong => Message::Pong(payload),
            Opcode::Close => {
                self.receiver.end();
                Message::Close(close_reason(payload)?)
            }
            Opcode::Continuation => unreachable!("a message is named after its first frame"),
        }))
    }

    /// Reads up to the end of the next message, or of the bytes.
    fn advance(&mut self, now: Moment) -> Result<Option<(Opcode, Place)>, Violation> {
        if self.receiver.is_ended {
            self.end();
            return Ok(None);
        }
        if self.receiver.deadline().is_some_and(|deadline| now > deadline) {
            return Err(Violation::TIME);
        }
        loop {
            let is_unread = self.unread_at < self.unread.len();
            let (chunk, at) = if is_unread {
                (&mut self.unread[self.unread_at..], &mut self.unread_at)
            } else {
                (&mut self.input[self.input_at..], &mut self.input_at)
            };
            if chunk.is_empty() {
                return Ok(None);
            }
            let chunk_at = *at;
            let (used, arrived) = step(&mut self.receiver.partial, self.limits, now, chunk)?;
            debug_assert!(0 < used && used <= chunk.len(), "every step reads something");
            *at += used;
            match arrived {
                None => {}
                Some(Arrived::InPlace { opcode, len }) => {
                    let at = chunk_at + used - len;
                    return Ok(Some((
                        opcode,
                        if is_unread { Place::Unread { at, len } } else { Place::Input { at, len } },
                    )));
                }
                Some(Arrived::Aside { opcode, bytes }) => return Ok(Some((opcode, Place::Aside(bytes)))),
            }
        }
    }

    fn end(&mut self) {
        self.receiver.end();
        self.unread_at = self.unread.len();
        self.input_at = self.input.len();
    }
}

impl Drop for Feed<'_> {
    fn drop(&mut self) {
        let rest = &self.input[self.input_at..];
        if self.receiver.is_ended || (self.unread_at == self.unread.len() && rest.is_empty()) {
            return;
        }
        let mut unread = std::mem::take(&mut self.unread);
        // Moved down only when at least as much was read as is moved, so that reading one message a time stays linear.
        if self.unread_at * 2 >= unread.len() {
            unread.drain(..std::mem::take(&mut self.unread_at));
        }
        unread.extend_from_slice(rest);
        let partial = self.receiver.partial.get_or_insert_default();
        partial.unread = unread;
        partial.unread_at = self.unread_at;
    }
}

/// Where a message's payload lies.
enum Place {
    Unread { at: usize, len: usize },
    Input { at: usize, len: usize },
    Aside(Vec<u8>),
}

/// Reads from `chunk`, at most to the end of one frame: how many bytes, and the message that they complete.
fn step(
    slot: &mut Option<Box<Partial>>,
    limits: &ReceiverLimits,
    now: Moment,
    chunk: &mut [u8],
) -> Result<(usize, Option<Arrived>), Violation> {
    let mut head_used = 0;
    if slot.as_ref().is_none_or(|partial| partial.frame.is_none()) {
        let head = match slot.as_mut().filter(|partial| partial.has_head_bytes()) {
            Some(partial) => partial.gather_head(chunk)?,
            None => Head::parse(chunk)?,
        };
        let Some((head, used)) = head else {
            let partial = slot.get_or_insert_default();
            partial.keep_head_bytes(chunk);
            partial.start_clock(now, limits);
            return Ok((chunk.len(), None));
        };
        let has_message = slot.as_ref().is_some_and(|partial| partial.message.is_some());
        head.check(has_message, limits)?;
        head_used = used;
        if let Some(len) = head.arrived_whole(has_message, chunk.len() - used) {
            let payload = &mut chunk[used..used + len];
            fastwebsockets::unmask(payload, head.mask);
            // RFC 6455 §5.6, §8.1: text is UTF-8.
            if head.opcode == Opcode::Text && std::str::from_utf8(payload).is_err() {
                return Err(Violation::NOT_UTF8);
            }
            release_if_idle(slot);
            return Ok((used + len, Some(Arrived::InPlace { opcode: head.opcode, len })));
        }
        let partial = slot.get_or_insert_default();
        partial.begin_frame(head, limits)?;
        partial.start_clock(now, limits);
    }
    let partial = slot.as_mut().expect("a frame is open: an earlier step or the lines above opened it");
    let (used, arrived) = partial.take_payload(&mut chunk[head_used..], limits)?;
    release_if_idle(slot);
    Ok((head_used + used, arrived))
}

fn release_if_idle(slot: &mut Option<Box<Partial>>) {
    if slot.as_ref().is_some_and(|partial| partial.is_idle()) {
        *slot = None;
    }
}

/// The payload of a close frame (RFC 6455 §5.5.1).
fn close_reason(payload: &[u8]) -> Result<Option<(CloseCode, &str)>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(Violation::protocol("half a close code")) };
    };
    let code = CloseCode(u16::from_be_bytes(*code));
    if !code.is_sendable() {
        return Err(Violation::protocol("a close code that must not be sent"));
    }
    let reason = std::str::from_utf8(reason)
        .map_err(|_| Violation { reason: "a close reason that is not UTF-8", ..Violation::NOT_UTF8 })?;
    Ok(Some((code, reason)))
}
