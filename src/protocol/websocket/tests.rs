//! Each rule of RFC 6455 that concerns what a server receives, and what the receiver keeps while it waits.

use super::*;
use crate::fuzzing::websocket::Owned;

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = FIN | 8;
const PING: u8 = FIN | 9;
const PONG: u8 = FIN | 10;

/// A frame as clients send it. Naive on purpose: it is what the receiver is judged by.
pub(super) fn masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]));
    bytes
}

fn f(first: u8, payload: &[u8]) -> Vec<u8> {
    masked(first, payload, MASK)
}

/// Feeds `bytes` in pieces of `size`.
fn receive(
    receiver: &mut Receiver,
    limits: &ReceiverLimits,
    bytes: &[u8],
    size: usize,
) -> (Vec<Owned>, Option<Violation>) {
    let mut messages = Vec::new();
    for piece in bytes.to_vec().chunks_mut(size) {
        let mut feed = receiver.feed(limits, piece);
        loop {
            match feed.next(Moment(0)) {
                Ok(Some(message)) => messages.push(message.into()),
                Ok(None) => break,
                Err(violation) => return (messages, Some(violation)),
            }
        }
    }
    (messages, None)
}

/// What comes of `bytes`, however they are cut.
#[track_caller]
fn outcome(limits: &ReceiverLimits, bytes: &[u8]) -> (Vec<Owned>, Option<Violation>) {
    let whole = receive(&mut Receiver::default(), limits, bytes, bytes.len());
    for size in [1, 2, 3, 5, 7, 64] {
        assert_eq!(receive(&mut Receiver::default(), limits, bytes, size), whole, "in pieces of {size}");
    }
    whole
}

#[track_caller]
fn accepts(bytes: &[u8], expected: &[Owned]) {
    assert_eq!(outcome(&ReceiverLimits::default(), bytes), (expected.to_vec(), None));
}

#[track_caller]
fn refuses(bytes: &[u8], code: CloseCode, reason: &str) {
    let (_, violation) = outcome(&ReceiverLimits::default(), bytes);
    let violation = violation.expect("must be refused");
    assert_eq!(violation.code, code);
    assert!(violation.reason.contains(reason), "{violation}");
}

#[test]
fn section_5_2_reserved_bits_and_opcodes_are_refused() {
    for bit in [0x40, 0x20, 0x10] {
        refuses(&[FIN | BINARY | bit], CloseCode::PROTOCOL_ERROR, "reserved bit");
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        refuses(&[FIN | opcode], CloseCode::PROTOCOL_ERROR, "reserved opcode");
    }
}

#[test]
fn section_5_1_frames_without_a_mask_are_refused() {
    refuses(&[FIN | BINARY, 0], CloseCode::PROTOCOL_ERROR, "mask");
    refuses(&[PING, 3], CloseCode::PROTOCOL_ERROR, "mask");
}

#[test]
fn section_5_2_lengths_have_one_form() {
    for (len, is_minimal) in [(0_u16, false), (125, false), (126, true), (0xFFFF, true)] {
        let mut bytes = vec![FIN | BINARY, 0xFE];
        bytes.extend(len.to_be_bytes());
        let (_, violation) = outcome(&ReceiverLimits::default(), &bytes);
        assert_eq!(violation.is_none(), is_minimal, "{len} in two bytes");
    }
    for (len, reason) in
        [(0, "shortest"), (125, "shortest"), (0xFFFF, "shortest"), (1 << 63, "highest"), (u64::MAX, "highest")]
    {
        let mut bytes = vec![FIN | BINARY, 0xFF];
        bytes.extend(u64::to_be_bytes(len));
        refuses(&bytes, CloseCode::PROTOCOL_ERROR, reason);
    }
}

#[test]
fn section_5_3_every_alignment_of_mask_and_piece_is_undone() {
    let payload: Vec<u8> = (0..=255).cycle().take(1_000).collect();
    for mask in [[0; 4], [1, 2, 3, 4], [0xFF; 4]] {
        accepts(&masked(FIN | BINARY, &payload, mask), &[Owned::Binary(payload.clone())]);
    }
}

#[test]
fn section_5_4_fragments_make_one_message_and_controls_may_come_between() {
    let bytes = [
        f(TEXT, b"H"),
        f(PING, b"now"),
        f(CONTINUATION, b""),
        f(PONG, b""),
        f(FIN | CONTINUATION, b"ello"),
        f(FIN | BINARY, b""),
    ];
    accepts(
        &bytes.concat(),
        &[
            Owned::Ping(b"now".to_vec()),
            Owned::Pong(Vec::new()),
            Owned::Text(b"Hello".to_vec()),
            Owned::Binary(Vec::new()),
        ],
    );
}

#[test]
fn section_5_4_messages_do_not_interleave() {
    for first in [TEXT, FIN | TEXT, BINARY, FIN | BINARY] {
        refuses(&[f(BINARY, b"a"), f(first, b"b")].concat(), CloseCode::PROTOCOL_ERROR, "within");
    }
    for first in [CONTINUATION, FIN | CONTINUATION] {
        refuses(&f(first, b"a"), CloseCode::PROTOCOL_ERROR, "nothing");
        refuses(&[f(FIN | BINARY, b"a"), f(first, b"b")].concat(), CloseCode::PROTOCOL_ERROR, "nothing");
    }
}

#[test]
fn section_5_5_control_frames_are_short_and_whole() {
    accepts(&f(PING, &[7; 125]), &[Owned::Ping(vec![7; 125])]);
    for first in [PING, PONG, CLOSE] {
        refuses(&f(first, &[7; 126]), CloseCode::PROTOCOL_ERROR, "125");
        refuses(&f(first & !FIN, b""), CloseCode::PROTOCOL_ERROR, "fragmented");
    }
}

#[test]
fn section_5_5_1_close_payloads() {
    accepts(&f(CLOSE, b""), &[Owned::Close(None)]);
    accepts(&f(CLOSE, b"\x03\xE8"), &[Owned::Close(Some((1000, String::new())))]);
    accepts(&f(CLOSE, b"\x0F\xA0bye"), &[Owned::Close(Some((4000, "bye".to_owned())))]);
    refuses(&f(CLOSE, b"\x03"), CloseCode::PROTOCOL_ERROR, "half");
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
        refuses(&f(CLOSE, &code.to_be_bytes()), CloseCode::PROTOCOL_ERROR, "close code");
    }
    refuses(&f(CLOSE, b"\x03\xE8\xC3("), CloseCode::INVALID_TEXT, "reason");
}

#[test]
fn section_1_4_nothing_is_read_after_a_close_frame() {
    let mut receiver = Receiver::default();
    let limits = ReceiverLimits::default();
    let bytes = [f(BINARY, b"open"), f(CLOSE, b""), f(FIN | CONTINUATION, b"")].concat();
    assert_eq!(receive(&mut receiver, &limits, &bytes, bytes.len()), (vec![Owned::Close(None)], None));
    assert_eq!(receive(&mut receiver, &limits, &[0xFF; 100], 100), (Vec::new(), None));
    assert_eq!((receiver.heap_bytes(), receiver.deadline()), (0, None));
}

#[test]
fn section_7_1_7_nothing_is_read_after_a_violation() {
    let mut receiver = Receiver::default();
    let limits = ReceiverLimits::default();
    let mut bytes = [vec![FIN | 3], f(FIN | BINARY, b"more")].concat();
    let mut feed = receiver.feed(&limits, &mut bytes);
    assert!(feed.next(Moment(0)).is_err());
    assert_eq!(feed.next(Moment(0)), Ok(None));
    drop(feed);
    assert_eq!(receive(&mut receiver, &limits, &f(PING, b""), 9), (Vec::new(), None));
    assert_eq!(receiver.heap_bytes(), 0);
}

#[test]
fn section_8_1_text_is_utf8_also_across_fragments() {
    let word = "κόσμε 𝄞 ﾟ";
    accepts(&f(FIN | TEXT, word.as_bytes()), &[Owned::Text(word.into())]);
    for cut in 0..=word.len() {
        let (head, tail) = word.as_bytes().split_at(cut);
        accepts(&[f(TEXT, head), f(FIN | CONTINUATION, tail)].concat(), &[Owned::Text(word.into())]);
    }
    // Surrogates, overlong forms, beyond Unicode, stray and missing continuations.
    for bad in [
        &b"\xED\xA0\x80"[..],
        b"\xC0\xAF",
        b"\xE0\x80\xAF",
        b"\xF4\x90\x80\x80",
        b"\xFF",
        b"\x80",
        b"a\xC3",
        b"\xE2\x82",
    ] {
        refuses(&f(FIN | TEXT, bad), CloseCode::INVALID_TEXT, "UTF-8");
        refuses(&[f(TEXT, bad), f(FIN | CONTINUATION, b"")].concat(), CloseCode::INVALID_TEXT, "UTF-8");
        accepts(&f(FIN | BINARY, bad), &[Owned::Binary(bad.to_vec())]);
    }
}

#[test]
fn section_8_1_bad_text_is_refused_at_the_byte_that_makes_it_bad() {
    // One frame of which 20 bytes arrive, cut at each byte: U+110000 is impossible from its second byte on.
    let frame = f(FIN | TEXT, &[b"\xCE\xBA\xE1\xBD\xB9\xF4\x90\x80\x80".as_slice(), &[b'a'; 40]].concat());
    let bad_at = 6 + 6;
    let mut receiver = Receiver::default();
    for (i, byte) in frame.iter().enumerate() {
        let (_, violation) = receive(&mut receiver, &ReceiverLimits::default(), &[*byte], 1);
        assert_eq!(violation.is_some(), i == bad_at, "at byte {i}");
        if i == bad_at {
            return;
        }
    }
}

#[test]
fn limits_hold_for_the_fragments_of_a_message_together() {
    let limits = ReceiverLimits { bytes: 100, fragments: 3, ..ReceiverLimits::default() };
    let verdict =
        |frames: &[Vec<u8>]| outcome(&limits, &frames.concat()).1.map(|violation| (violation.code.0, violation.limit));
    let too_big = Some((1009, Some(ReceiverLimit::Bytes)));
    let too_many = Some((1009, Some(ReceiverLimit::Fragments)));
    assert_eq!(verdict(&[f(FIN | BINARY, &[0; 100])]), None);
    assert_eq!(verdict(&[f(FIN | BINARY, &[0; 101])]), too_big);
    assert_eq!(verdict(&[f(BINARY, &[0; 50]), f(FIN | CONTINUATION, &[0; 50])]), None);
    assert_eq!(verdict(&[f(BINARY, &[0; 50]), f(FIN | CONTINUATION, &[0; 51])]), too_big);
    assert_eq!(verdict(&[f(BINARY, b""), f(CONTINUATION, b""), f(FIN | CONTINUATION, b"")]), None);
    assert_eq!(verdict(&[f(BINARY, b""), f(CONTINUATION, b""), f(CONTINUATION, b""), f(CONTINUATION, b"")]), too_many);
    // A control frame between them is no fragment, and its bytes are not the message's.
    assert_eq!(
        verdict(&[f(BINARY, &[0; 99]), f(PING, &[0; 125]), f(CONTINUATION, b""), f(FIN | CONTINUATION, b"a")]),
        None
    );
}

#[test]
fn what_is_incomplete_has_a_deadline_and_what_is_complete_has_none() {
    let limits = ReceiverLimits { time: Duration::from_secs(10), ..ReceiverLimits::default() };
    let second = |s: u64| Moment(s * 1_000_000_000);
    let mut receiver = Receiver::default();
    let step = |receiver: &mut Receiver, now: u64, bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let mut feed = receiver.feed(&limits, &mut bytes);
        while feed.next(second(now))?.is_some() {}
        drop(feed);
        Ok::<_, Violation>(receiver.deadline())
    };
    let whole = f(FIN | BINARY, b"abc");
    assert_eq!(step(&mut receiver, 0, &whole), Ok(None));
    // One byte of a head; then its rest and, behind it, a new beginning.
    assert_eq!(step(&mut receiver, 1, &whole[..1]), Ok(Some(second(11))));
    assert_eq!(step(&mut receiver, 2, &[&whole[1..], &f(BINARY, b"a")].concat()), Ok(Some(second(12))));
    // Neither fragments nor pings prolong it.
    assert_eq!(step(&mut receiver, 3, &[f(CONTINUATION, b"b"), f(PING, b"")].concat()), Ok(Some(second(12))));
    assert_eq!(step(&mut receiver, 4, &f(PING, b"slow")[..7]), Ok(Some(second(12))));
    assert_eq!(step(&mut receiver, 5, &f(PING, b"slow")[7..]), Ok(Some(second(12))));
    assert_eq!(step(&mut receiver, 12, &f(FIN | CONTINUATION, b"c")), Ok(None));
    // A slow ping alone has its own.
    assert_eq!(step(&mut receiver, 13, &f(PING, b"slow")[..7]), Ok(Some(second(23))));
    assert_eq!(step(&mut receiver, 14, &f(PING, b"slow")[7..]), Ok(None));
    // Too late, unless the time was ours.
    assert_eq!(step(&mut receiver, 20, &f(BINARY, b"a")), Ok(Some(second(30))));
    receiver.extend_deadline(Duration::from_secs(5));
    assert_eq!(step(&mut receiver, 35, &f(CONTINUATION, b"")), Ok(Some(second(35))));
    assert_eq!(step(&mut receiver, 36, &f(FIN | CONTINUATION, b"")), Err(Violation::TIME));
}

#[test]
fn claimed_lengths_take_no_memory() {
    let limits = ReceiverLimits { bytes: 1 << 40, ..ReceiverLimits::default() };
    for k in 0..=64_u32 {
        for len in [(1_u128 << k) - 1, 1 << k, (1 << k) + 1] {
            let Ok(len) = u64::try_from(len) else { continue };
            let mut bytes = vec![BINARY, 0xFF];
            bytes.extend(len.to_be_bytes());
            bytes.extend(MASK);
            bytes.extend([0; 10]);
            let mut receiver = Receiver::default();
            let (messages, violation) = receive(&mut receiver, &limits, &bytes, bytes.len());
            assert!(messages.is_empty());
            let expected = match len {
                0..=0xFFFF => Some(CloseCode::PROTOCOL_ERROR),
                len if len > i64::MAX as u64 => Some(CloseCode::PROTOCOL_ERROR),
                len if len > 1 << 40 => Some(CloseCode::TOO_BIG),
                _ => None,
            };
            assert_eq!(violation.map(|violation| violation.code), expected, "{len}");
            assert!(receiver.heap_bytes() < 512, "{len}: {}", receiver.heap_bytes());
        }
    }
}

#[test]
fn dripped_bytes_cost_linear_time_and_memory_stays_within_the_limit() {
    // Quadratic work on this would not end today.
    let len = 1 << 20;
    let limits = ReceiverLimits { bytes: len, ..ReceiverLimits::default() };
    let text: Vec<u8> = "é".as_bytes().iter().copied().cycle().take(len).collect();
    let mut receiver = Receiver::default();
    let mut sizes = std::collections::BTreeSet::new();
    let mut bytes = f(FIN | TEXT, &text);
    let (last, others) = bytes.split_last_mut().expect("not empty");
    for byte in others {
        assert_eq!(receiver.feed(&limits, std::slice::from_mut(byte)).next(Moment(0)), Ok(None));
        sizes.insert(receiver.heap_bytes());
    }
    assert!(sizes.len() < 30, "the buffer moved {} times", sizes.len());
    assert!(sizes.last().is_some_and(|&size| size < len + 512), "{sizes:?}");
    let mut feed = receiver.feed(&limits, std::slice::from_mut(last));
    assert_eq!(feed.next(Moment(0)), Ok(Some(Message::Text(&text))));
    drop(feed);
    assert_eq!(receiver.heap_bytes(), 0, "idle again");
}

#[test]
fn tiny_fragments_take_no_more_memory_than_their_bytes() {
    let limits = ReceiverLimits { bytes: 64 * 1024, fragments: usize::MAX, ..ReceiverLimits::default() };
    let mut receiver = Receiver::default();
    let mut frames = f(BINARY, b"");
    for _ in 0..64 * 1024 {
        frames.extend(f(CONTINUATION, b"x"));
    }
    assert_eq!(receive(&mut receiver, &limits, &frames, 4_096), (Vec::new(), None));
    assert!(receiver.heap_bytes() < 64 * 1024 + 512, "{}", receiver.heap_bytes());
}

#[test]
fn whole_frames_are_lent_from_where_they_arrived() {
    let limits = ReceiverLimits::default();
    let mut receiver = Receiver::default();
    let mut bytes = [f(FIN | BINARY, &[1; 300]), f(PING, b"x")].concat();
    let range = bytes.as_ptr_range();
    let mut feed = receiver.feed(&limits, &mut bytes);
    for _ in 0..2 {
        let (Ok(Some(Message::Binary(payload))) | Ok(Some(Message::Ping(payload)))) = feed.next(Moment(0)) else {
            panic!("two messages")
        };
        assert!(range.contains(&payload.as_ptr()), "copied");
    }
    drop(feed);
    assert_eq!(receiver.heap_bytes(), 0);
}

#[test]
fn a_caller_that_stops_midway_loses_nothing() {
    let limits = ReceiverLimits::default();
    let mut receiver = Receiver::default();
    let frames: Vec<_> = (0..100_u8).map(|i| f(FIN | BINARY, &[i])).collect();
    let mut bytes = frames.concat();
    let cut = bytes.len() - 3;
    let (early, late) = bytes.split_at_mut(cut);
    drop(receiver.feed(&limits, early)); // not even looked at
    assert!(receiver.has_unread());
    for i in 0..99 {
        assert_eq!(receiver.feed(&limits, &mut []).next(Moment(0)), Ok(Some(Message::Binary(&[i]))));
    }
    assert_eq!(receiver.feed(&limits, late).next(Moment(0)), Ok(Some(Message::Binary(&[99]))));
    assert!(!receiver.has_unread());
    assert_eq!(receiver.heap_bytes(), 0);
}
