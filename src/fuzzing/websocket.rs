//! The receiver against tungstenite, and against itself with the stream cut elsewhere. Both must deliver the same messages
//! and agree whether and after which message the stream is refused. They differ, knowingly, in this:
//!
//! * tungstenite takes lengths that are not in their shortest form; RFC 6455 §5.2 does not.
//! * tungstenite delivers a close frame with an impossible code as one with 1002; here it is a violation.
//! * tungstenite does not know 1014, which IANA has added to the codes.
//! * tungstenite looks at a frame when it is complete; here a bad one is refused as soon as its bytes show it. So after a
//!   refusal tungstenite is given what completes the frame, and must then refuse it too.

use std::io::{self, Read, Write};
use std::time::Duration;

use tungstenite::protocol::{Role, WebSocketConfig};

use crate::clock::Moment;
use crate::protocol::websocket::{Message, Receiver, ReceiverLimits, Violation};

/// Bytes of a message.
pub(crate) const LIMIT: usize = 70_000;

/// The first four bytes say how the rest is cut.
pub fn check(data: &[u8]) {
    let Some((&seed, stream)) = data.split_first_chunk() else { return };
    let whole = receive(stream, |below| below - 1);
    let mut choose = super::choices(u32::from_le_bytes(seed));
    let largest = [1, 8, 200][choose(3)];
    let cut = receive(stream, |below| if below > 5 { choose(below.min(largest + 1)) } else { choose(below) });
    assert!(whole == cut, "cut elsewhere it is {:?} after {:?}", cut.1, brief(&cut.0));
    compare(stream, whole.0, whole.1);
}

/// A message that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owned {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Message<'_>> for Owned {
    fn from(message: Message<'_>) -> Self {
        match message {
            Message::Text(bytes) => Self::Text(bytes.to_vec()),
            Message::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Message::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Message::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Message::Close(reason) => Self::Close(reason.map(|(code, reason)| (code.0, reason.to_owned()))),
        }
    }
}

/// Feeds the stream in pieces to a caller that stops reading now and then. `choose` gives a number below its argument: how
/// many bytes come next, and how many of at most four messages are asked for.
pub(crate) fn receive(stream: &[u8], mut choose: impl FnMut(usize) -> usize) -> (Vec<Owned>, Option<Violation>) {
    let limits = ReceiverLimits { bytes: LIMIT, fragments: usize::MAX, time: Duration::from_secs(1) };
    let mut receiver = Receiver::default();
    let mut bytes = stream.to_vec();
    let mut rest = &mut bytes[..];
    let mut messages = Vec::new();
    while !rest.is_empty() || receiver.has_unread() {
        let (piece, behind) = rest.split_at_mut(choose(rest.len() + 1));
        rest = behind;
        let mut feed = receiver.feed(&limits, piece);
        for _ in 0..choose(5) {
            match feed.next(Moment(0)) {
                Ok(Some(message)) => messages.push(message.into()),
                Ok(None) => break,
                Err(violation) => return (messages, Some(violation)),
            }
        }
        drop(feed);
        // What arrived once is held once, as an incomplete message or unread; either's room may be twice what is in it, and
        // that of unread bytes stays when some were read. What a head claims is not held.
        assert!(receiver.heap_bytes() <= 4 * (stream.len() + 128), "{} bytes are held", receiver.heap_bytes());
    }
    (messages, None)
}

/// How a stream ended, as far as tungstenite agrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Both took all of it.
    Taken,
    /// Refused for a length that tungstenite takes.
    LongForm,
    /// Both refused it.
    Refused,
}

/// Insists that tungstenite makes the same of it.
pub(crate) fn compare(stream: &[u8], mut ours: Vec<Owned>, violation: Option<Violation>) -> Verdict {
    let (theirs, end) = Judge::new(stream).read();
    if let Some(Owned::Close(Some((1014, _)))) = ours.last() {
        ours.pop();
        ours.push(refused_close());
    }
    let context = || {
        let (ours, theirs) = (brief(&ours), brief(&theirs));
        format!("ours: {violation:?} after {ours:?}, theirs: {end:?} after {theirs:?}")
    };
    match violation {
        None => {
            assert!(ours == theirs, "{}", context());
            assert!(!matches!(end, End::Refused(_)), "{}", context());
            let is_read_to_its_end = !matches!(ours.last(), Some(Owned::Close(_)));
            assert!(!(is_read_to_its_end && has_long_form(stream)), "{}", context());
            Verdict::Taken
        }
        Some(violation) if violation.reason.contains("shortest") => {
            assert!(has_long_form(stream), "{}", context());
            assert!(theirs.starts_with(&ours), "{}", context());
            Verdict::LongForm
        }
        Some(violation) => {
            let completed = [stream, &missing(stream)].concat();
            let (mut completed, end) = Judge::new(&completed).read();
            let is_in_long_form = violation.reason.contains("125") && ours.len() < completed.len();
            if is_in_long_form {
                // A control frame whose short length is in a long form: see above.
                assert!(
                    matches!(completed[ours.len()], Owned::Ping(_) | Owned::Pong(_) | Owned::Close(_)),
                    "{}",
                    context()
                );
                completed.truncate(ours.len());
            } else if violation.reason.contains("must not be sent") && !matches!(end, End::Refused(_)) {
                assert_eq!(completed.pop(), Some(refused_close()), "{}", context());
            } else {
                assert!(matches!(end, End::Refused(_)), "{end:?} when completed; {}", context());
            }
            assert!(ours == completed, "{}", context());
            Verdict::Refused
        }
    }
}

fn brief(messages: &[Owned]) -> Vec<String> {
    let kind_and_len = |message: &Owned| match message {
        Owned::Text(bytes) => format!("text of {}", bytes.len()),
        Owned::Binary(bytes) => format!("binary of {}", bytes.len()),
        Owned::Ping(bytes) => format!("ping of {}", bytes.len()),
        Owned::Pong(bytes) => format!("pong of {}", bytes.len()),
        Owned::Close(reason) => format!("close {reason:?}"),
    };
    messages.iter().map(kind_and_len).collect()
}

/// What tungstenite makes of a close code that it does not take.
fn refused_close() -> Owned {
    Owned::Close(Some((1002, "Protocol violation".to_owned())))
}

/// Whether a frame has a length that is not in its shortest form, as far as the heads themselves lead. The judge has no
/// opinion on it.
fn has_long_form(mut stream: &[u8]) -> bool {
    loop {
        let (len, head, is_long) = match *stream {
            [_, second, a, b, ..] if second & 0x7F == 126 => {
                let len = u64::from(u16::from_be_bytes([a, b]));
                (len, 4, len < 126)
            }
            [_, second, ref rest @ ..] if second & 0x7F == 127 && rest.len() >= 8 => {
                let len = u64::from_be_bytes(*rest.first_chunk().expect("eight"));
                (len, 10, len < 0x1_0000)
            }
            [_, second, ..] if second & 0x7F < 126 => (u64::from(second & 0x7F), 2, false),
            _ => return false,
        };
        let head = head + if stream[1] & 0x80 == 0 { 0 } else { 4 };
        match usize::try_from(len).ok().and_then(|len| stream.get(len.checked_add(head)?..)) {
            _ if is_long => return true,
            Some(behind) => stream = behind,
            None => return false,
        }
    }
}

/// What completes the last frame of `stream`, as far as its own head says how long it is and it is within the limit.
fn missing(stream: &[u8]) -> Vec<u8> {
    let mut rest = stream;
    loop {
        // A head that is cut is completed as one of an empty frame, or with the longest length of its form.
        let Some(&second) = rest.get(1) else {
            return if rest.is_empty() { Vec::new() } else { vec![0x80, 0, 0, 0, 0] };
        };
        let (len, head) = match (second & 0x7F, rest) {
            (126, [_, _, a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
            (127, [_, _, len @ ..]) if len.len() >= 8 => (u64::from_be_bytes(*len.first_chunk().expect("eight")), 10),
            (126 | 127, _) => return vec![0xFF; LIMIT],
            (len, _) => (u64::from(len), 2),
        };
        let head = head + if second & 0x80 == 0 { 0 } else { 4 };
        if len > LIMIT as u64 {
            return vec![0; 14];
        }
        let frame = head as u64 + len;
        match rest.get(frame as usize..) {
            Some([]) => return Vec::new(),
            Some(behind) => rest = behind,
            None => return vec![0; frame as usize - rest.len()],
        }
    }
}

#[derive(Debug)]
enum End {
    /// Wants more bytes.
    Waits,
    Closed,
    Refused(#[allow(dead_code)] tungstenite::Error),
}

/// Tungstenite as a server that reads `0`.
struct Judge(tungstenite::WebSocket<Stream>);

impl Judge {
    fn new(stream: &[u8]) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(4_096)
            .write_buffer_size(0)
            .max_message_size(Some(LIMIT))
            .max_frame_size(Some(LIMIT))
            .accept_unmasked_frames(false);
        Self(tungstenite::WebSocket::from_raw_socket(
            Stream(io::Cursor::new(stream.to_vec())),
            Role::Server,
            Some(config),
        ))
    }

    fn read(mut self) -> (Vec<Owned>, End) {
        let mut messages = Vec::new();
        loop {
            messages.push(match self.0.read() {
                Ok(tungstenite::Message::Text(text)) => Owned::Text(text.as_bytes().to_vec()),
                Ok(tungstenite::Message::Binary(bytes)) => Owned::Binary(bytes.to_vec()),
                Ok(tungstenite::Message::Ping(bytes)) => Owned::Ping(bytes.to_vec()),
                Ok(tungstenite::Message::Pong(bytes)) => Owned::Pong(bytes.to_vec()),
                Ok(tungstenite::Message::Close(reason)) => {
                    messages.push(Owned::Close(reason.map(|frame| (frame.code.into(), frame.reason.to_string()))));
                    return (messages, End::Closed);
                }
                Ok(tungstenite::Message::Frame(_)) => unreachable!("never read"),
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return (messages, End::Waits);
                }
                Err(error) => return (messages, End::Refused(error)),
            });
        }
    }
}

/// Bytes to read, and a place for answers.
struct Stream(io::Cursor<Vec<u8>>);

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            read => read,
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
