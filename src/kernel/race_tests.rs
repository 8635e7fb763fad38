//! Closes that race with everything else at the real ring, for the run under AddressSanitizer above all.

#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::ring_tests::{Bench, small};
use super::*;

const STREAMS: usize = 100;
const FRAME: usize = 40_000;

/// Connections that are closed while something else happens to them; `TEST_CLOSE_RACES` asks for more.
fn races() -> u64 {
    std::env::var("TEST_CLOSE_RACES").map_or(1_000, |count| count.parse().expect("TEST_CLOSE_RACES is a number"))
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("below the limit")
    }
}

/// Each frame is made of one byte and its length goes through no other: what arrives was sent, and nothing that was freed since.
struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        stream.set_nonblocking(true).expect("a socket");
        Self { stream, buffer: vec![0; FRAME] }
    }

    fn read(&mut self) -> u64 {
        match self.stream.read(&mut self.buffer) {
            Ok(count) => {
                assert!(self.buffer[..count].iter().all(|byte| *byte == 5), "bytes that nobody sent");
                count as u64
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset), "{error}");
                0
            }
        }
    }
}

#[test]
fn closes_race_with_everything_and_nothing_is_left() {
    let races = races();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut bench = Bench::new(RingConfig { entries: 16, completion_entries: 64, buffers: 16, ..small() });
    let mut peers = Vec::new();
    let mut open: Vec<SocketId> = Vec::new();
    let (mut accepted, mut released, mut read) = (0, 0, 0);
    while released < races {
        while peers.len() < STREAMS {
            let stream = bench.connect();
            // Hundreds of thousands of them would leave no port if they waited for the end of their time.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
            peers.push(Peer::new(stream));
        }
        for _ in 0..4 {
            let at = random.below(peers.len());
            match random.below(8) {
                0 => drop(peers.swap_remove(at)),
                1 => drop(peers[at].stream.write(&[1; 2_000])),
                2 => drop(peers[at].stream.shutdown(Shutdown::Write)),
                _ => read += peers[at].read(),
            }
            if peers.is_empty() {
                break;
            }
        }
        let mut sent = std::collections::HashSet::new();
        for _ in 0..open.len().min(6) {
            let socket = open[random.below(open.len())];
            match random.below(8) {
                0 => bench.ring.close(socket),
                1 => bench.ring.abort(socket),
                2 => bench.ring.finish(socket),
                3 => bench.ring.pause_receive(socket),
                4 => bench.ring.resume_receive(socket),
                5 | 6 if sent.insert(socket) && bench.ring.may_send(socket) => {
                    // The ring alone holds them from here on.
                    let pieces = [1, 1 + random.below(4)][random.below(2)];
                    let frames: Vec<_> = (0..pieces).map(|_| Bytes::from(vec![5; 1 + random.below(FRAME)])).collect();
                    bench.ring.send(socket, &frames);
                }
                _ => bench.ring.await_writable(socket),
            }
        }
        bench.ring.enter(Wait::No).expect("enter");
        while let Some(completion) = bench.ring.completion() {
            match completion {
                Completion::Accepted { socket, .. } => {
                    open.push(socket);
                    accepted += 1;
                }
                Completion::Received { received, .. } => {
                    assert!(bench.ring.bytes(&received).iter().all(|byte| *byte == 1), "bytes that nobody sent");
                    bench.ring.release(received);
                }
                Completion::Ended { socket, .. } => bench.ring.close(socket),
                Completion::Released { socket } => {
                    open.retain(|other| *other != socket);
                    released += 1;
                }
                Completion::Short { .. } | Completion::Writable { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(accepted >= released && read > races * 100, "{accepted} accepted, {released} released, {read} bytes read");
    assert_eq!(bench.ring.counters().stale_completions, 0, "a slot waits for the kernel's last word");
    bench.shut_down(&open);
}
