//! Envelopes there and back, and the scan against prost.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use wire::client_frame::Body;
use wire::{ClientFrame, Code, Publish, Record};

use super::*;
use crate::fuzzing::envelope::{LIMITS, Verdict, compare};

fn publish(records: usize) -> ClientFrame {
    let record = Record { key: "k".into(), value: "v".into(), ..Record::default() };
    let body = Publish { topic: "a/b".to_owned(), records: vec![record; records], ..Publish::default() };
    ClientFrame { request: 7, body: Some(Body::Publish(body)) }
}

#[test]
fn frames_come_back_as_they_were_sent() {
    let frame = publish(8);
    assert_eq!(decode(&encode_client(&frame), &LIMITS), Ok(frame));

    let body = wire::server_frame::Body::Pong(wire::Pong { client_time_us: 1, server_time_us: u64::MAX });
    let bytes = encode(9, body.clone());
    assert_eq!(bytes[..2], [0x82, u8::try_from(bytes.len()).expect("short") - 2], "one unmasked binary frame");
    assert_eq!(decode_server(bytes.slice(2..)), Ok(wire::ServerFrame { request: 9, body: Some(body) }));
}

#[test]
fn a_large_answer_has_the_long_head() {
    let token = "x".repeat(70_000);
    let bytes = encode(0, wire::server_frame::Body::Error(wire::Error { message: token, ..wire::Error::default() }));
    assert_eq!(bytes[..2], [0x82, 127]);
    assert_eq!(u64::from_be_bytes(*bytes[2..].first_chunk().expect("eight")), bytes.len() as u64 - 10);
    assert!(decode_server(bytes.slice(10..)).is_ok());
}

#[test]
fn one_record_too_many_is_too_large_and_names_its_request() {
    let expected = Malformed { request: 7, code: Code::TooLarge, reason: "The publish has too many records." };
    // What is left says of what it was too much.
    let numbered = Publish { topic: "a/b".to_owned(), sequence: 3, replace: true, ..Publish::default() };
    let body = Publish { records: vec![Record::default(); 9], ..numbered.clone() };
    let message = encode_client(&ClientFrame { request: 7, body: Some(Body::Publish(body)) });
    assert_eq!(decode(&message, &LIMITS), Err(expected));
    assert_eq!(without_records(&message), Some((7, numbered)));
    assert_eq!(without_records(&message[..message.len() - 1]), None);
    assert_eq!(decode(&encode_client(&publish(9)), &LIMITS), Err(expected));
    // Also over two publishes, which a decoder merges.
    let twice = [encode_client(&publish(4)), encode_client(&publish(5))].concat();
    assert_eq!(decode(&twice, &LIMITS), Err(expected));
    let twice = [encode_client(&publish(4)), encode_client(&publish(4))].concat();
    assert!(decode(&twice, &LIMITS).is_ok());
}

#[test]
fn an_empty_body_and_an_unknown_one_are_invalid() {
    for message in [&[][..], &[0x08, 5], &[0x08, 5, 0x7A, 1, b'x']] {
        let malformed = decode(message, &LIMITS).expect_err("no body");
        assert_eq!((malformed.code, malformed.request), (Code::Invalid, if message.is_empty() { 0 } else { 5 }));
    }
}

#[test]
fn lengths_beyond_the_message_are_invalid_before_anything_is_allocated() {
    for k in 0..64 {
        for len in [(1_u64 << k).wrapping_sub(1), 1 << k, (1 << k) + 1].into_iter().filter(|&len| len > 3) {
            for around in [&[0x2A][..], &[0x2A, 0x0C, 0x12], &[0x12]] {
                let mut message = around.to_vec();
                prost::encoding::encode_varint(len, &mut message);
                message.extend([0; 3]);
                assert_eq!(
                    scan::client_frame(&message, &LIMITS).map_err(|malformed| malformed.code),
                    Err(Code::Invalid)
                );
            }
        }
    }
}

#[cfg(feature = "server")]
#[test]
fn what_a_message_becomes_is_within_four_times_a_messages_limit() {
    let limits = crate::limits::Limits::default();
    // A vector that grew by doubling has at most twice the room it needs.
    let records = 2 * limits.publish_records * size_of::<Record>();
    assert!(limits.message_bytes + records <= 4 * limits.message_bytes, "{records}");
}

#[test]
fn fields_share_one_copy_of_the_message() {
    let Some(Body::Publish(publish)) = decode(&encode_client(&publish(2)), &LIMITS).expect("valid").body else {
        panic!("a publish")
    };
    let at = |bytes: &Bytes| bytes.as_ptr() as usize;
    assert!(at(&publish.records[1].value) - at(&publish.records[0].key) < 20);
}

#[test]
fn agrees_with_prost_on_valid_and_broken_messages() {
    let mut verdicts = [0; 3];
    for seed in 0..30_000 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut message = frame(&mut random).encode_to_vec();
        for _ in 0..random.random_range(0..3) {
            mutate(&mut random, &mut message);
        }
        verdicts[match compare(&message) {
            Verdict::Taken => 0,
            Verdict::TooLarge => 1,
            Verdict::Invalid => 2,
            Verdict::Stricter => continue,
        }] += 1;
    }
    assert!(verdicts.iter().all(|&count| count > 300), "the generator reaches all: {verdicts:?}");
}

fn frame(random: &mut StdRng) -> ClientFrame {
    let mut bytes = |most: usize| -> Bytes {
        let len = random.random_range(0..=most);
        (0..len).map(|_| random.random_range(b' '..0x7F)).collect()
    };
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).expect("ASCII");
    let (topic, key, value, session) = (text(bytes(20)), bytes(10), bytes(200), bytes(16));
    let record =
        Record { key, value, delete: random.random(), priority: random.random_range(-1..6), ..Record::default() };
    let body = match random.random_range(0..7) {
        0 => Body::Hello(wire::Hello { token: topic, session, credit_bytes: random.random(), ..Default::default() }),
        1 => {
            let resume =
                random.random_bool(0.5).then(|| wire::Position { epoch: random.random(), offset: random.random() });
            Body::Subscribe(wire::Subscribe { topic, resume, max_hz: random.random(), ..Default::default() })
        }
        2 => Body::Unsubscribe(wire::Unsubscribe { topic }),
        3 => Body::Credit(wire::Credit { bytes: random.random() }),
        4 => Body::Ping(wire::Ping { client_time_us: random.random() }),
        _ => {
            let records = vec![record; random.random_range(0..12)];
            Body::Publish(Publish { topic, records, sequence: random.random(), replace: random.random() })
        }
    };
    ClientFrame { request: random.random::<u64>() >> random.random_range(0..64), body: Some(body) }
}

fn mutate(random: &mut StdRng, message: &mut Vec<u8>) {
    if message.is_empty() {
        return;
    }
    // Most often near the start, where tags and lengths are.
    let end = if random.random_bool(0.5) { message.len().min(12) } else { message.len() };
    let at = random.random_range(0..end);
    match random.random_range(0..6) {
        0 => message[at] ^= 1 << random.random_range(0..8),
        1 => message[at] = random.random(),
        2 => message.insert(at, [0x80, 0xFF, 0, random.random()][random.random_range(0..4)]),
        3 => drop(message.remove(at)),
        4 => message.truncate(at),
        _ => message.extend(frame(random).encode_to_vec()),
    }
}
