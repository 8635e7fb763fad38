//! A kernel with clients: the ring with those of the loopback, the simulation with its own.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::kernel::*;

/// A kernel with clients.
pub(super) trait World {
    type K: Kernel;
    fn kernel(&mut self) -> &mut Self::K;
    fn connect(&mut self) -> usize;
    fn write(&mut self, peer: usize, bytes: &[u8]);
    /// What has arrived, at most `max` bytes.
    fn read(&mut self, peer: usize, max: usize) -> Vec<u8>;
    fn finish(&mut self, peer: usize);
    fn end(&mut self, peer: usize) -> Option<PeerEnd>;
    fn waker(&self) -> std::sync::Arc<dyn Waker>;
    /// Enters, and lets time pass if nothing is there.
    fn step(&mut self);

    fn next(&mut self) -> Completion {
        for _ in 0..100_000 {
            if let Some(completion) = self.kernel().completion() {
                return completion;
            }
            self.step();
        }
        panic!("nothing completes");
    }

    /// The next completion about a connection; accepting is resumed when it was paused.
    fn next_of_socket(&mut self) -> Completion {
        loop {
            match self.next() {
                Completion::AcceptPaused { .. } => self.kernel().resume_accept(),
                other => return other,
            }
        }
    }

    fn accept(&mut self) -> (usize, SocketId) {
        let peer = self.connect();
        match self.next_of_socket() {
            Completion::Accepted { socket, .. } => (peer, socket),
            other => panic!("{other:?}"),
        }
    }

    fn take(&mut self, received: Received) -> Vec<u8> {
        let bytes = self.kernel().bytes(&received).to_vec();
        self.kernel().release(received);
        bytes
    }

    fn read_until(&mut self, peer: usize, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..100_000 {
            bytes.extend(self.read(peer, count - bytes.len()));
            if bytes.len() == count {
                return bytes;
            }
            self.step();
        }
        panic!("{} of {count} bytes arrived", bytes.len());
    }

    /// Sends all of `bytes`, waiting for room, to a peer that reads what it can; returns what the peer got.
    fn send_all(&mut self, peer: usize, socket: SocketId, mut bytes: Bytes) -> Vec<u8> {
        let (total, mut got) = (bytes.len(), Vec::new());
        self.kernel().send(socket, &[bytes.clone()]);
        self.kernel().enter(Wait::No).expect("enter");
        while let Some(completion) = self.kernel().completion() {
            let Completion::Short { socket, taken, errno: 0 } = completion else { panic!("{completion:?}") };
            let _ = bytes.split_to(taken);
            self.kernel().await_writable(socket);
            loop {
                got.extend(self.read(peer, usize::MAX));
                if let Some(completion) = self.kernel().completion() {
                    assert!(matches!(completion, Completion::Writable { .. }), "{completion:?}");
                    break;
                }
                self.step();
            }
            // Several pieces, some of them empty.
            let half = bytes.len() / 2;
            self.kernel().send(socket, &[bytes.slice(..half), Bytes::new(), bytes.slice(half..)]);
            self.kernel().enter(Wait::No).expect("enter");
        }
        let rest = self.read_until(peer, total - got.len());
        got.extend(rest);
        got
    }

    fn end_of(&mut self, peer: usize) -> PeerEnd {
        for _ in 0..100_000 {
            if let Some(end) = self.end(peer) {
                return end;
            }
            self.step();
        }
        panic!("the peer sees no end");
    }

    fn close_all(&mut self, sockets: &[SocketId]) {
        self.kernel().stop_accepting();
        sockets.iter().for_each(|socket| self.kernel().close(*socket));
        let mut released: Vec<SocketId> = Vec::new();
        for _ in 0..100_000 {
            while let Some(completion) = self.kernel().completion() {
                match completion {
                    Completion::Released { socket } => released.push(socket),
                    Completion::AcceptPaused { .. } => {}
                    other => panic!("after the close: {other:?}"),
                }
            }
            if self.kernel().held() == Held::default() {
                released.sort_by_key(|socket| socket.index);
                let mut sockets = sockets.to_vec();
                sockets.sort_by_key(|socket| socket.index);
                assert_eq!(released, sockets);
                return;
            }
            self.step();
        }
        panic!("still held: {:?}", self.kernel().held());
    }
}

pub(super) struct RingWorld {
    ring: Ring,
    address: SocketAddr,
    peers: Vec<TcpStream>,
}

impl RingWorld {
    pub(super) fn new(max_sockets: usize) -> Self {
        let listener = listen("127.0.0.1:0".parse().expect("an address"), ListenOptions::default()).expect("listen");
        let address = listener.local_addr().expect("bound");
        let config = RingConfig { entries: 16, completion_entries: 64, buffers: 8, buffer_bytes: 512, max_sockets };
        Self { ring: Ring::new(config, listener).expect("a ring"), address, peers: Vec::new() }
    }
}

impl World for RingWorld {
    type K = Ring;

    fn kernel(&mut self) -> &mut Ring {
        &mut self.ring
    }

    fn connect(&mut self) -> usize {
        let stream = TcpStream::connect(self.address).expect("connect");
        stream.set_nonblocking(true).expect("non-blocking");
        self.peers.push(stream);
        self.peers.len() - 1
    }

    fn write(&mut self, peer: usize, bytes: &[u8]) {
        let written = self.peers[peer].write(bytes).expect("room");
        assert_eq!(written, bytes.len(), "the tests write what fits");
    }

    fn read(&mut self, peer: usize, max: usize) -> Vec<u8> {
        let mut bytes = vec![0; max.min(1 << 16)];
        match self.peers[peer].read(&mut bytes) {
            Ok(count) => bytes.truncate(count),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset), "{error}");
                bytes.clear();
            }
        }
        bytes
    }

    fn finish(&mut self, peer: usize) {
        self.peers[peer].shutdown(Shutdown::Write).expect("connected");
    }

    fn end(&mut self, peer: usize) -> Option<PeerEnd> {
        match self.peers[peer].peek(&mut [0]) {
            Ok(0) => Some(PeerEnd::Finished),
            Ok(_) => None,
            Err(error) => (error.kind() != ErrorKind::WouldBlock).then_some(PeerEnd::Reset),
        }
    }

    fn waker(&self) -> std::sync::Arc<dyn Waker> {
        self.ring.waker()
    }

    fn step(&mut self) {
        self.ring.enter(Wait::AtMost(Duration::from_millis(1))).expect("enter");
    }
}

pub(super) struct SimulatedWorld {
    pub(super) simulation: Simulation,
    pub(super) peers: Vec<PeerId>,
}

impl SimulatedWorld {
    pub(super) fn new(seed: u64, faults: Faults, max_sockets: usize) -> Self {
        let config = SimulationConfig {
            seed,
            buffers: 8,
            buffer_bytes: 512,
            max_sockets,
            faults,
            ..SimulationConfig::default()
        };
        Self { simulation: Simulation::new(config), peers: Vec::new() }
    }
}

impl World for SimulatedWorld {
    type K = Simulation;

    fn kernel(&mut self) -> &mut Simulation {
        &mut self.simulation
    }

    fn connect(&mut self) -> usize {
        self.peers.push(self.simulation.connect());
        self.peers.len() - 1
    }

    fn write(&mut self, peer: usize, bytes: &[u8]) {
        self.simulation.peer_write(self.peers[peer], bytes);
    }

    fn read(&mut self, peer: usize, max: usize) -> Vec<u8> {
        self.simulation.peer_read(self.peers[peer], max)
    }

    fn finish(&mut self, peer: usize) {
        self.simulation.peer_finish(self.peers[peer]);
    }

    fn end(&mut self, peer: usize) -> Option<PeerEnd> {
        self.simulation.peer_end(self.peers[peer])
    }

    fn waker(&self) -> std::sync::Arc<dyn Waker> {
        self.simulation.waker()
    }

    fn step(&mut self) {
        self.simulation.enter(Wait::Forever).expect("enter");
        if let Some(moment) = self.simulation.next_event() {
            // Completions that a test leaves lying must not stop the clock.
            self.simulation.set_now(moment.max(self.simulation.now() + Duration::from_micros(100)));
        }
    }
}
