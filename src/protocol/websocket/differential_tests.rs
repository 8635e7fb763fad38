//! The receiver against tungstenite: random streams, valid and broken, cut anywhere. Both must deliver the same messages
//! and agree whether and after which message the stream is refused. They differ, knowingly, in this:
//!
//! * tungstenite takes lengths that are not in their shortest form; RFC 6455 §5.2 does not.
//! * tungstenite delivers a close frame with an impossible code as one with 1002; here it is a violation.
//! * tungstenite does not know 1014, which IANA has added to the codes.
//! * tungstenite looks at a frame when it is complete; here a bad one is refused as soon as its bytes show it. So after a
//!   refusal tungstenite is given what completes the frame, and must then refuse it too.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tungstenite::protocol::{Role, WebSocketConfig};

use super::tests::{Owned, masked};
use super::*;

const LIMIT: usize = 70_000;
const SEEDS: u64 = 4_000;

#[test]
fn agrees_with_tungstenite_on_valid_and_broken_streams() {
    let mut verdicts = [0; 3];
    let mut reasons = BTreeMap::new();
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let stream = stream(&mut random);
        let (mut ours, violation) = receive(&mut random, &stream);
        let (theirs, end) = Judge::new(&stream).read();
        if let Some(violation) = &violation {
            *reasons.entry(violation.reason).or_insert(0) += 1;
        }

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
                verdicts[0] += 1;
                assert!(ours == theirs, "{}", context());
                assert!(!matches!(end, End::Refused(_)), "{}", context());
                let is_read_to_its_end = !matches!(ours.last(), Some(Owned::Close(_)));
                assert!(!(is_read_to_its_end && has_long_form(&stream)), "{}", context());
            }
            Some(violation) if violation.reason.contains("shortest") => {
                verdicts[1] += 1;
                assert!(has_long_form(&stream), "{}", context());
                assert!(theirs.starts_with(&ours), "{}", context());
            }
            Some(violation) => {
                verdicts[2] += 1;
                let completed = [&stream[..], &missing(&stream)].concat();
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
            }
        }
    }
    // The generator reaches all of it.
    assert!(verdicts.iter().all(|&count| count > 100), "{verdicts:?}");
    // Every rule but those on time and the number of fragments, which the judge does not have.
    assert!(reasons.len() == 14 && reasons.values().all(|&count| count > 10), "{reasons:?}");
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

/// Feeds the stream in random pieces to a caller that stops reading at random.
fn receive(random: &mut StdRng, stream: &[u8]) -> (Vec<Owned>, Option<Violation>) {
    let limits = ReceiverLimits { bytes: LIMIT, fragments: usize::MAX, time: Duration::from_secs(1) };
    let mut receiver = Receiver::default();
    let mut bytes = stream.to_vec();
    let mut rest = &mut bytes[..];
    let mut messages = Vec::new();
    let largest = [1, 8, 200, 1_000_000][random.random_range(0..4)];
    while !rest.is_empty() || receiver.has_unread() {
        let (piece, behind) = rest.split_at_mut(random.random_range(0..=largest).min(rest.len()));
        rest = behind;
        let mut feed = receiver.feed(&limits, piece);
        for _ in 0..random.random_range(0..5) {
            match feed.next(Moment(0)) {
                Ok(Some(message)) => messages.push(message.into()),
                Ok(None) => break,
                Err(violation) => return (messages, Some(violation)),
            }
        }
    }
    (messages, None)
}

/// A few messages with control frames between their fragments; then, often, something is broken.
fn stream(random: &mut StdRng) -> Vec<u8> {
    let mut frames = Vec::new();
    for _ in 0..random.random_range(1..6) {
        let is_text = random.random_bool(0.5);
        let payload = if is_text { text(random) } else { bytes(random) };
        let fragments = if random.random_bool(0.1) { random.random_range(4..40) } else { random.random_range(1..4) };
        let mut rest = &payload[..];
        for i in 0..fragments {
            while random.random_bool(0.2) {
                let opcode = [0x89, 0x8A][random.random_range(0..2)];
                let len = random.random_range(0..=125);
                frames.push((opcode, vec![random.random(); len]));
            }
            let (piece, behind) = rest.split_at(random.random_range(0..=rest.len()));
            let (piece, behind) = if i + 1 == fragments { (rest, &[][..]) } else { (piece, behind) };
            rest = behind;
            let opcode = if i > 0 { 0 } else { 2 - u8::from(is_text) };
            let fin = if i + 1 == fragments { 0x80 } else { 0 };
            frames.push((fin | opcode, piece.to_vec()));
        }
    }
    if random.random_bool(0.3) {
        let code =
            if random.random_bool(0.5) { random.random_range(990..1020) } else { random.random::<u16>() % 5_100 };
        let mut payload = [&code.to_be_bytes()[..], "bÿe".as_bytes()].concat();
        payload.truncate(random.random_range(0..=payload.len()));
        frames.push((0x88, payload));
    }
    let broken = random.random_range(0..frames.len() * 2);
    let mut stream = Vec::new();
    for (i, (first, payload)) in frames.into_iter().enumerate() {
        let mut frame = masked(first, &payload, random.random());
        if i == broken {
            break_frame(random, &mut frame, &payload);
        }
        stream.extend(frame);
    }
    for _ in 0..[0, 0, 0, 1, 2][random.random_range(0..5)] {
        let at = random.random_range(0..stream.len());
        match random.random_range(0..4) {
            0 => stream[at] ^= 1 << random.random_range(0..8),
            1 => stream.insert(at, random.random()),
            2 if stream.len() > 1 => drop(stream.remove(at)),
            _ => stream.truncate(at.max(1)),
        }
    }
    stream
}

fn break_frame(random: &mut StdRng, frame: &mut Vec<u8>, payload: &[u8]) {
    match random.random_range(0..7) {
        0 => frame[0] ^= 1 << random.random_range(0..8),
        1 => frame[1] ^= 0x80,
        2 => frame[1] ^= 1 << random.random_range(0..7),
        3 => {
            // The longest form of the length.
            let mask = [1, 2, 3, 4];
            let mut long = vec![frame[0], 0xFF];
            long.extend((payload.len() as u64).to_be_bytes());
            long.extend(mask);
            long.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]));
            *frame = long;
        }
        4 => {
            // A length about a power of two.
            frame.truncate(1);
            frame.push(0xFF);
            let highest = u64::from(random.random_bool(0.2)) << 63;
            let about = (1_u64 << random.random_range(16..64)).wrapping_sub(random.random_range(0..3));
            frame.extend((about | highest).to_be_bytes());
            frame.extend([0; 64]);
        }
        5 => {
            // A control frame that is too long, or just not.
            let len = random.random_range(124..130);
            *frame = masked([0x88, 0x89, 0x8A][random.random_range(0..3)], &vec![3; len], random.random());
        }
        _ => *frame = masked(frame[0] & 0x0F, payload, [9; 4]),
    }
}

fn text(random: &mut StdRng) -> Vec<u8> {
    let len = length(random) / 2;
    let mut text = (0..len)
        .map(|_| ['a', 'é', '€', '𝄞', '\u{7FF}', '\u{FFFF}'][random.random_range(0..6)])
        .collect::<String>()
        .into_bytes();
    if random.random_bool(0.1) {
        // A lone continuation, overlong forms, a surrogate, above U+10FFFF, cut characters.
        let wrong: [&[u8]; 8] = [
            b"\x80",
            b"\xC0\x80",
            b"\xE0\x80\xAF",
            b"\xED\xA0\x80",
            b"\xF4\x90\x80\x80",
            b"\xF5",
            b"\xE2\x82",
            b"\xF0\x9D\x84",
        ];
        let at = random.random_range(0..=text.len());
        text.splice(at..at, wrong[random.random_range(0..8)].iter().copied());
    }
    text
}

fn bytes(random: &mut StdRng) -> Vec<u8> {
    let len = length(random);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes[..]);
    bytes
}

fn length(random: &mut StdRng) -> usize {
    let around = if random.random_bool(0.04) {
        [0xFFFF, LIMIT - 1][random.random_range(0..2)]
    } else {
        [0, 1, 20, 125, 255, 300][random.random_range(0..6)]
    };
    around + random.random_range(0..3)
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
        let frame = head as u64 + len;
        if len > LIMIT as u64 {
            return vec![0; 14];
        }
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
