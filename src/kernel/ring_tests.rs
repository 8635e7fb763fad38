//! The ring against real sockets on the loopback.

#![forbid(unsafe_code)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::*;

const SOON: Wait = Wait::AtMost(Duration::from_secs(10));

fn small() -> RingConfig {
    RingConfig { entries: 64, completion_entries: 256, buffers: 64, buffer_bytes: 1_024, max_sockets: 1_024 }
}

struct Bench {
    ring: Ring,
    address: SocketAddr,
}

impl Bench {
    fn new(config: RingConfig) -> Self {
        let listener = listen("127.0.0.1:0".parse().expect("an address"), ListenOptions::default()).expect("listen");
        let address = listener.local_addr().expect("bound");
        Self { ring: Ring::new(config, listener).expect("a ring"), address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        stream
    }

    /// The next completion; enters until there is one.
    fn next(&mut self) -> Completion {
        for _ in 0..1_000 {
            if let Some(completion) = self.ring.completion() {
                return completion;
            }
            self.ring.enter(SOON).expect("enter");
        }
        panic!("nothing completes");
    }

    fn accept(&mut self) -> (TcpStream, SocketId) {
        let stream = self.connect();
        match self.next() {
            Completion::Accepted { socket, peer } => {
                assert_eq!(peer, stream.local_addr().expect("connected"));
                (stream, socket)
            }
            other => panic!("{other:?}"),
        }
    }

    fn received(&mut self, bytes: &mut Vec<u8>) -> SocketId {
        match self.next() {
            Completion::Received { socket, received } => {
                bytes.extend_from_slice(self.ring.bytes(&received));
                self.ring.release(received);
                socket
            }
            other => panic!("{other:?}"),
        }
    }

    /// Everything ends, and nothing is held.
    fn shut_down(mut self, sockets: &[SocketId]) {
        self.ring.stop_accepting();
        sockets.iter().for_each(|socket| self.ring.close(*socket));
        for _ in 0..1_000 {
            while let Some(completion) = self.ring.completion() {
                if let Completion::Received { received, .. } = completion {
                    self.ring.release(received);
                }
            }
            if self.ring.held() == Held::default() {
                return;
            }
            self.ring.enter(SOON).expect("enter");
        }
        panic!("still held: {:?}", self.ring.held());
    }
}

#[test]
fn echoes() {
    let mut bench = Bench::new(small());
    let (mut stream, socket) = bench.accept();
    stream.write_all(b"hello").expect("write");
    let mut bytes = Vec::new();
    assert_eq!(bench.received(&mut bytes), socket);
    assert_eq!(bytes, b"hello");
    bench.ring.send(socket, &[Bytes::from(bytes)]);
    bench.ring.enter(Wait::No).expect("enter");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("read");
    assert_eq!(&answer, b"hello");
    bench.shut_down(&[socket]);
}
