//! The receiver against tungstenite: random streams, valid and broken, cut anywhere. What is compared, and in what they differ:
//! `crate::fuzzing::websocket`.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::tests::masked;
use crate::fuzzing::websocket::{LIMIT, Verdict, compare, receive};

const SEEDS: u64 = 4_000;

#[test]
fn agrees_with_tungstenite_on_valid_and_broken_streams() {
    let mut verdicts = [0; 3];
    let mut reasons = BTreeMap::new();
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let stream = stream(&mut random);
        let largest = [1, 8, 200, 1_000_000][random.random_range(0..4)];
        let (ours, violation) = receive(&stream, |below| random.random_range(0..below.min(largest + 1).max(5)) % below);
        if let Some(violation) = &violation {
            *reasons.entry(violation.reason).or_insert(0) += 1;
        }
        verdicts[match compare(&stream, ours, violation) {
            Verdict::Taken => 0,
            Verdict::LongForm => 1,
            Verdict::Refused => 2,
        }] += 1;
    }
    // The generator reaches all of it.
    assert!(verdicts.iter().all(|&count| count > 100), "{verdicts:?}");
    // Every rule but those on time and the number of fragments, which the judge does not have.
    assert!(reasons.len() == 14 && reasons.values().all(|&count| count > 10), "{reasons:?}");
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
