//! What each peer says, cut wherever a stream may be cut: the same is counted, and answered.

use hdrhistogram::Histogram;

use super::{Arrival, Duty, Observations, Outgoing, Peer, Role, Seen, Values};
use crate::cli::bench::frames::{FIN_BINARY, FIN_PONG, FIN_TEXT};
use crate::cli::bench::payload::{self, Stopwatch};

/// One side of a conversation: what the server says, and what has to come of it.
struct Script {
    peer: Peer,
    /// Message by message.
    server: Vec<Vec<u8>>,
    /// Publishes acknowledged; records, where it is a subscriber.
    counted: u64,
    /// Bytes of answers must hold these, unmasked.
    answers: &'static [&'static str],
}

/// A server's frame of up to 65,535 bytes.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(len as u8),
        len => frame.extend([&[126][..], &u16::try_from(len).expect("short").to_be_bytes()].concat()),
    }
    frame.extend_from_slice(payload);
    frame
}

fn value(serial: u64) -> Vec<u8> {
    payload::value(serial * 10, serial, 128)
}

fn subscribers() -> [Script; 5] {
    let event = "451-[\"event\",{\"_placeholder\":true,\"num\":0}]".as_bytes();
    let msg = |serial| [b"MSG bench/1 1 128\r\n", &value(serial)[..], b"\r\n"].concat();
    let publish = |serial| [&[0x30, 0x89, 0x01][..], b"\x00\x07bench/1", &value(serial)].concat();
    // NATS cuts its stream into messages wherever its buffer ends.
    let (one, two) = (msg(1), msg(2));
    let info = b"INFO {\"server_id\":\"N\",\"max_payload\":1048576}\r\n";
    [
        Script {
            peer: Peer::Broadcast,
            server: vec![frame(FIN_TEXT, b"ready"), frame(FIN_BINARY, &value(1)), frame(FIN_BINARY, &value(2))],
            counted: 2,
            answers: &[],
        },
        Script {
            peer: Peer::Nats,
            server: vec![
                frame(FIN_BINARY, info),
                frame(FIN_BINARY, b"PONG\r\nPING\r\n"),
                frame(FIN_BINARY, &one[..40]),
                frame(FIN_BINARY, &[&one[40..], &two[..]].concat()),
            ],
            counted: 2,
            answers: &["CONNECT {", "SUB bench/1 1\r\nPING\r\n", "PONG\r\n"],
        },
        Script {
            peer: Peer::Nchan,
            server: vec![frame(FIN_PONG, b"ready?"), frame(FIN_BINARY, &value(1)), frame(FIN_BINARY, &value(2))],
            counted: 2,
            answers: &[],
        },
        Script {
            peer: Peer::Mqtt,
            server: vec![
                frame(FIN_BINARY, b"\x20\x02\x00\x00"),
                frame(FIN_BINARY, b"\x90\x03\x00\x01\x00"),
                frame(FIN_BINARY, &[publish(1), publish(2)].concat()),
            ],
            counted: 2,
            answers: &["\x00\x01\x00\x07bench/1\x00"],
        },
        Script {
            peer: Peer::SocketIo,
            server: vec![
                frame(FIN_TEXT, b"0{\"sid\":\"a\",\"upgrades\":[]}"),
                frame(FIN_TEXT, b"40{\"sid\":\"b\"}"),
                frame(FIN_TEXT, b"430[]"),
                frame(FIN_TEXT, b"2"),
                frame(FIN_TEXT, event),
                frame(FIN_BINARY, &value(1)),
                frame(FIN_TEXT, event),
                frame(FIN_BINARY, &value(2)),
            ],
            counted: 2,
            answers: &["40", "420[\"subscribe\"]", "3"],
        },
    ]
}

fn publishers() -> [Script; 5] {
    let response = |code: &str| format!("HTTP/1.1 {code}\r\nContent-Length: 5\r\n\r\nqueue").into_bytes();
    [
        Script {
            peer: Peer::Broadcast,
            server: vec![frame(FIN_TEXT, b"ready"), frame(FIN_TEXT, b"ok"), frame(FIN_TEXT, b"ok")],
            counted: 2,
            answers: &[],
        },
        Script {
            peer: Peer::Nats,
            server: vec![
                frame(FIN_BINARY, b"INFO {}\r\n"),
                frame(FIN_BINARY, b"PONG\r\n"),
                frame(FIN_BINARY, b"PONG\r\nPONG\r\n"),
            ],
            counted: 2,
            answers: &["CONNECT {"],
        },
        Script {
            peer: Peer::Nchan,
            server: vec![response("404 Not Found"), response("202 Accepted"), response("201 Created")],
            counted: 2,
            answers: &[],
        },
        Script {
            peer: Peer::Mqtt,
            server: vec![
                frame(FIN_BINARY, b"\x20\x02\x00\x00"),
                frame(FIN_BINARY, b"\x40\x02\x00\x02"),
                frame(FIN_BINARY, b"\x40\x02\x00\x03"),
            ],
            counted: 2,
            answers: &[],
        },
        Script {
            peer: Peer::SocketIo,
            server: vec![
                frame(FIN_TEXT, b"0{\"sid\":\"a\"}"),
                frame(FIN_TEXT, b"40{\"sid\":\"b\"}"),
                frame(FIN_TEXT, b"431[]"),
                frame(FIN_TEXT, b"432[]"),
            ],
            counted: 2,
            answers: &["40"],
        },
    ]
}

/// What a dialect made of bytes that came in parts: what it counted, and its answers, unmasked and without frame heads.
fn converse(peer: Peer, duty: Duty, parts: &[&[u8]]) -> Result<(Seen, Vec<u8>), String> {
    let role = Role { topic: "bench/1", duty, values: Values::Numbered, resume: None };
    let mut dialect = peer.dialect(&role);
    let latency = Histogram::new(3).expect("3 digits are allowed");
    let mut observations = Observations { latency, is_measuring: false, clock: Stopwatch::start() };
    let (mut seen, mut out, mut tail) = (Seen { is_verifying: true, ..Seen::default() }, Vec::new(), Vec::new());
    for part in parts {
        tail.extend_from_slice(part);
        let used = dialect.take(&tail, &mut Arrival::now(&mut seen, &mut observations, &mut out))?;
        tail.drain(..used);
    }
    assert!(tail.is_empty(), "{peer:?} left {tail:?}");
    let mut answers = Vec::new();
    while let [_, len, rest @ ..] = &out[..] {
        let len = usize::from(len & 0x7f);
        assert!(len < 126, "answers are short");
        let (mask, payload) = rest[..4 + len].split_at(4);
        answers.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out.drain(..2 + 4 + len);
    }
    Ok((seen, answers))
}

const SUBSCRIBE: Duty = Duty::Subscribe { is_verifying: true, credit: 0 };

#[test]
fn wherever_the_stream_is_cut_the_same_is_counted() {
    let sides = [(Duty::Publish, publishers()), (SUBSCRIBE, subscribers())];
    for (duty, Script { peer, server, counted, answers }) in
        sides.into_iter().flat_map(|(duty, scripts)| scripts.map(|script| (duty, script)))
    {
        let bytes = server.concat();
        for cut in 0..bytes.len() {
            let (seen, said) = converse(peer, duty, &[&bytes[..cut], &bytes[cut..]]).expect("nothing is wrong");
            let found = if duty == Duty::Publish { seen.acknowledged } else { seen.ledger.delivered };
            assert_eq!((seen.is_ready, found), (true, counted), "{peer:?} as {duty:?}, cut at {cut}");
            assert_eq!((seen.ledger.lost, seen.misplaced), (0, 0));
            for answer in answers {
                let is_there = said.windows(answer.len()).any(|some| some == answer.as_bytes());
                assert!(is_there, "{peer:?} as {duty:?} said {}", String::from_utf8_lossy(&said));
            }
        }
    }
}

#[test]
fn a_record_that_is_left_out_is_lost_and_one_that_was_changed_is_an_error() {
    for Script { peer, mut server, .. } in subscribers() {
        let last = server.len() - 1;
        let at = server[last].len() - 1;
        // The last byte of the last record; of NATS there are two behind it.
        let at = if peer == Peer::Nats { at - 2 } else { at };
        server[last][at] ^= 1;
        converse(peer, SUBSCRIBE, &[&server.concat()]).expect_err("a changed byte");
    }
    let server = [frame(FIN_TEXT, b"ready"), frame(FIN_BINARY, &value(1)), frame(FIN_BINARY, &value(3))];
    let (seen, _) = converse(Peer::Broadcast, SUBSCRIBE, &[&server.concat()]).expect("a gap is no error");
    assert_eq!((seen.ledger.delivered, seen.ledger.lost), (2, 1));
}

#[test]
fn refusals_end_the_run_with_what_was_said() {
    let refusals = [
        (Peer::Nats, frame(FIN_BINARY, b"-ERR 'Slow Consumer'\r\n"), "Slow Consumer"),
        (Peer::Mqtt, frame(FIN_BINARY, b"\x20\x02\x00\x05"), "0x20"),
        (Peer::SocketIo, frame(FIN_TEXT, b"44{\"message\":\"no\"}"), "44"),
    ];
    for (peer, said, expected) in refusals {
        let error = converse(peer, SUBSCRIBE, &[&said]).expect_err("a refusal");
        assert!(error.contains(expected), "{peer:?}: {error}");
    }
    let (ready, refused) =
        (b"HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 413 N\r\nContent-Length: 0\r\n\r\n");
    let error = converse(Peer::Nchan, Duty::Publish, &[ready, refused]).expect_err("a refusal");
    assert!(error.contains("413"), "{error}");
}

#[test]
fn a_publish_says_the_value_as_it_is() {
    let value = value(7);
    for peer in [Peer::Broadcast, Peer::Nats, Peer::Nchan, Peer::Mqtt, Peer::SocketIo] {
        let mut out = Vec::new();
        let role = Role { topic: "bench/1", duty: Duty::Publish, values: Values::Numbered, resume: None };
        peer.dialect(&role).publish(&Outgoing { serial: 7, key: "", value: &value }, &mut out);
        // Behind the last mask everything is the frame's; Nchan's is HTTP, and not masked.
        let is_masked = peer != Peer::Nchan;
        let found = (0..4).any(|phase| {
            let mask = [0x5a, 0xc3, 0x19, 0x77].iter().cycle().skip(phase);
            let plain: Vec<u8> =
                out.iter().zip(mask).map(|(byte, mask)| if is_masked { byte ^ mask } else { *byte }).collect();
            plain.windows(value.len()).any(|some| some == value)
        });
        assert!(found, "{peer:?}");
    }
}
