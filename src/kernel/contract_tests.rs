//! What every kernel does, whichever it is: the same tests run against the ring and against simulations, calm and harsh.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::*;

/// A kernel with clients.
trait World {
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

fn pattern(count: usize) -> Bytes {
    (0..count).map(|number| u8::try_from(number * 31 % 251).expect("below 251")).collect()
}

fn echoes_in_order(world: &mut impl World) {
    let (peer, socket) = world.accept();
    let sent = pattern(20_000);
    world.write(peer, &sent);
    let mut got = Vec::new();
    while got.len() < sent.len() {
        match world.next_of_socket() {
            Completion::Received { socket: other, received } => {
                assert_eq!((other, received.is_empty()), (socket, false));
                let bytes = world.take(received);
                got.extend(bytes);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, sent);
    assert_eq!(world.send_all(peer, socket, sent.clone()), sent);
    world.close_all(&[socket]);
    assert_eq!(world.end_of(peer), PeerEnd::Finished);
}

fn a_reader_that_stalls_gets_every_byte_in_the_end(world: &mut impl World) {
    let (peer, socket) = world.accept();
    let sent = pattern(1 << 20);
    assert!(world.send_all(peer, socket, sent.clone()) == sent, "bytes are lost or out of order");
    assert!(world.kernel().counters().sends > 1, "the first send was short");
    world.close_all(&[socket]);
}

fn the_end_of_the_stream_is_reported_once_and_answered_by_ours(world: &mut impl World) {
    let (peer, socket) = world.accept();
    world.finish(peer);
    match world.next_of_socket() {
        Completion::Ended { socket: other, errno: 0 } => assert_eq!(other, socket),
        other => panic!("{other:?}"),
    }
    // The other direction is still open, and FIN goes behind the bytes of the same turn.
    world.kernel().send(socket, &[Bytes::from_static(b"last")]);
    world.kernel().finish(socket);
    world.kernel().enter(Wait::No).expect("enter");
    match world.kernel().completion() {
        None => {}
        Some(Completion::Short { taken, .. }) => {
            // No FIN went out behind the cut.
            let rest = Bytes::from_static(b"last").slice(taken..);
            let got = world.read_until(peer, taken);
            assert_eq!(world.end(peer), None);
            let all = [got, world.send_all(peer, socket, rest)].concat();
            assert_eq!(all, b"last");
            world.kernel().finish(socket);
            assert_eq!(world.end_of(peer), PeerEnd::Finished);
            return world.close_all(&[socket]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(world.read_until(peer, 4), b"last");
    assert_eq!(world.end_of(peer), PeerEnd::Finished);
    world.close_all(&[socket]);
}

fn an_abort_resets(world: &mut impl World) {
    let (peer, socket) = world.accept();
    world.kernel().abort(socket);
    assert_eq!(world.end_of(peer), PeerEnd::Reset);
    world.close_all(&[socket]);
}

/// The abort ends a receive that is armed and a poll that waits.
fn an_abort_ends_what_waits(world: &mut impl World) {
    let (peer, socket) = world.accept();
    let mut bytes = Bytes::from(vec![7; 16 << 20]);
    loop {
        world.kernel().send(socket, &[bytes.clone()]);
        world.kernel().enter(Wait::No).expect("enter");
        match world.kernel().completion() {
            Some(Completion::Short { taken: 0, errno: 0, .. }) => break,
            Some(Completion::Short { taken, errno: 0, .. }) => drop(bytes.split_to(taken)),
            other => panic!("{other:?}"),
        }
    }
    world.kernel().await_writable(socket);
    world.kernel().enter(Wait::No).expect("enter");
    world.kernel().abort(socket);
    world.close_all(&[socket]);
    let _ = world.read(peer, usize::MAX);
}

fn a_void_id_does_nothing(world: &mut impl World) {
    let (_, socket) = world.accept();
    world.kernel().close(socket);
    assert!(matches!(world.next_of_socket(), Completion::Released { .. }));
    let (peer, next) = world.accept();
    assert_eq!(next.index, socket.index, "the slot is used again");
    assert_ne!(next.generation, socket.generation);
    world.kernel().send(socket, &[Bytes::from_static(b"not for you")]);
    world.kernel().await_writable(socket);
    world.kernel().pause_receive(socket);
    world.kernel().finish(socket);
    world.kernel().close(socket);
    world.kernel().abort(socket);
    assert!(world.kernel().tcp_info(socket).is_none());
    assert!(world.kernel().tcp_info(next).is_some());
    world.write(peer, b"still here");
    let mut got = Vec::new();
    while got.len() < 10 {
        match world.next_of_socket() {
            Completion::Received { socket, received } if socket == next => got.extend(world.take(received)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((got.as_slice(), world.end(peer)), (b"still here".as_slice(), None));
    world.close_all(&[next]);
}

fn a_pause_holds_bytes_back_and_loses_none(world: &mut impl World) {
    let (peer, socket) = world.accept();
    let sent = pattern(40_000);
    let mut got = Vec::new();
    for chunk in sent.chunks(4_000) {
        world.kernel().pause_receive(socket);
        world.kernel().enter(Wait::No).expect("enter");
        world.write(peer, chunk);
        world.kernel().resume_receive(socket);
        let goal = got.len() + chunk.len();
        while got.len() < goal {
            match world.next_of_socket() {
                Completion::Received { received, .. } => got.extend(world.take(received)),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(got, sent);
    world.close_all(&[socket]);
}

fn buffers_that_run_out_delay_and_lose_nothing(world: &mut impl World) {
    let connections: Vec<_> = (0..8).map(|_| world.accept()).collect();
    let sent = pattern(3_000);
    connections.iter().for_each(|(peer, _)| world.write(*peer, &sent));
    let mut got: HashMap<SocketId, Vec<u8>> = HashMap::new();
    let mut lent = Vec::new();
    for _ in 0..10_000 {
        if got.values().map(Vec::len).sum::<usize>() == connections.len() * sent.len() {
            break;
        }
        // All buffers are held until there is no other way.
        for _ in 0..50 {
            while let Some(completion) = world.kernel().completion() {
                let Completion::Received { socket, received } = completion else { panic!("{completion:?}") };
                got.entry(socket).or_default().extend_from_slice(world.kernel().bytes(&received));
                lent.push(received);
            }
            world.kernel().enter(Wait::No).expect("enter");
        }
        assert_eq!(world.kernel().held().buffers, lent.len());
        lent.drain(..).for_each(|received| world.kernel().release(received));
        world.step();
    }
    assert!(got.len() == connections.len() && got.values().all(|bytes| *bytes == sent));
    assert!(world.kernel().counters().buffer_shortages > 0);
    let sockets: Vec<_> = connections.iter().map(|(_, socket)| *socket).collect();
    world.close_all(&sockets);
}

fn two_hundred_connections_are_told_apart(world: &mut impl World) {
    let connections: Vec<_> = (0..200).map(|_| world.accept()).collect();
    for (number, (peer, _)) in connections.iter().enumerate() {
        world.write(*peer, format!("{number:05}").as_bytes());
    }
    let mut got: HashMap<SocketId, Vec<u8>> = HashMap::new();
    while got.values().map(Vec::len).sum::<usize>() < 5 * connections.len() {
        match world.next_of_socket() {
            Completion::Received { socket, received } => {
                let bytes = world.take(received);
                got.entry(socket).or_default().extend(bytes);
            }
            other => panic!("{other:?}"),
        }
    }
    for (number, (peer, socket)) in connections.iter().enumerate() {
        assert_eq!(got[socket], format!("{number:05}").as_bytes());
        assert_eq!(world.kernel().held().sockets, 200);
        let frame = Bytes::copy_from_slice(&got[socket]);
        assert_eq!(world.send_all(*peer, *socket, frame), got[socket]);
    }
    let sockets: Vec<_> = connections.iter().map(|(_, socket)| *socket).collect();
    world.close_all(&sockets);
}

fn a_full_table_pauses_accepting_until_a_release(world: &mut impl World, max_sockets: usize) {
    let mut sockets = Vec::new();
    for _ in 0..max_sockets + 3 {
        world.connect();
    }
    while sockets.len() < max_sockets {
        match world.next() {
            Completion::Accepted { socket, .. } => sockets.push(socket),
            Completion::AcceptPaused { .. } if sockets.len() < max_sockets => world.kernel().resume_accept(),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(world.next(), Completion::AcceptPaused { errno: libc::EMFILE }));
    let calls = world.kernel().counters().enters;
    (0..10).for_each(|_| world.kernel().enter(Wait::No).expect("enter"));
    assert!(world.kernel().completion().is_none(), "it is said once, and nothing spins");
    assert_eq!(world.kernel().counters().enters, calls + 10);
    world.kernel().close(sockets.swap_remove(0));
    while sockets.len() < max_sockets {
        match world.next_of_socket() {
            Completion::Accepted { socket, .. } => sockets.push(socket),
            Completion::Released { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    world.close_all(&sockets);
}

fn a_wake_is_reported(world: &mut impl World) {
    let waker = world.waker();
    for _ in 0..3 {
        waker.wake();
        waker.wake();
        assert!(matches!(world.next(), Completion::Woken));
        world.kernel().enter(Wait::No).expect("enter");
        while let Some(completion) = world.kernel().completion() {
            assert!(matches!(completion, Completion::Woken));
        }
    }
    // The simulation waits for nobody.
    std::thread::spawn(move || waker.wake()).join().expect("it only wakes");
    assert!(matches!(world.next(), Completion::Woken));
}

fn a_second_send_before_the_enter_panics(world: &mut impl World) {
    let (_, socket) = world.accept();
    world.kernel().send(socket, &[Bytes::from_static(b"one")]);
    world.kernel().send(socket, &[Bytes::from_static(b"two")]);
}

fn a_send_while_awaiting_room_panics(world: &mut impl World) {
    let (_, socket) = world.accept();
    world.kernel().await_writable(socket);
    world.kernel().send(socket, &[Bytes::from_static(b"one")]);
}

struct RingWorld {
    ring: Ring,
    address: SocketAddr,
    peers: Vec<TcpStream>,
}

impl RingWorld {
    fn new(max_sockets: usize) -> Self {
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

struct SimulatedWorld {
    simulation: Simulation,
    peers: Vec<PeerId>,
}

impl SimulatedWorld {
    fn new(seed: u64, faults: Faults, max_sockets: usize) -> Self {
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

const MAX_SOCKETS: usize = 256;
const SEEDS: std::ops::Range<u64> = 0..20;

macro_rules! contract {
    ($($name:ident)*) => {
        mod ring {
            $(#[test]
            fn $name() {
                super::$name(&mut super::RingWorld::new(super::MAX_SOCKETS));
            })*
        }
        mod simulation {
            $(#[test]
            fn $name() {
                super::$name(&mut super::SimulatedWorld::new(1, super::Faults::default(), super::MAX_SOCKETS));
                for seed in super::SEEDS {
                    println!("seed {seed}");
                    super::$name(&mut super::SimulatedWorld::new(seed, super::Faults::harsh(), super::MAX_SOCKETS));
                }
            })*
        }
    };
}

contract! {
    echoes_in_order
    a_reader_that_stalls_gets_every_byte_in_the_end
    the_end_of_the_stream_is_reported_once_and_answered_by_ours
    an_abort_resets
    an_abort_ends_what_waits
    a_void_id_does_nothing
    a_pause_holds_bytes_back_and_loses_none
    buffers_that_run_out_delay_and_lose_nothing
    two_hundred_connections_are_told_apart
    a_wake_is_reported
}

#[test]
fn a_full_table_pauses_accepting_until_a_release_in_the_ring() {
    a_full_table_pauses_accepting_until_a_release(&mut RingWorld::new(4), 4);
}

#[test]
fn a_full_table_pauses_accepting_until_a_release_in_the_simulation() {
    a_full_table_pauses_accepting_until_a_release(&mut SimulatedWorld::new(1, Faults::default(), 4), 4);
}

#[test]
#[should_panic(expected = "at most one send per socket and enter")]
fn a_second_send_before_the_enter_panics_in_the_ring() {
    a_second_send_before_the_enter_panics(&mut RingWorld::new(4));
}

#[test]
#[should_panic(expected = "at most one send per socket and enter")]
fn a_second_send_before_the_enter_panics_in_the_simulation() {
    a_second_send_before_the_enter_panics(&mut SimulatedWorld::new(1, Faults::default(), 4));
}

#[test]
#[should_panic(expected = "no send before the last one's Short and Writable")]
fn a_send_while_awaiting_room_panics_in_the_ring() {
    a_send_while_awaiting_room_panics(&mut RingWorld::new(4));
}

#[test]
#[should_panic(expected = "no send before the last one's Short and Writable")]
fn a_send_while_awaiting_room_panics_in_the_simulation() {
    a_send_while_awaiting_room_panics(&mut SimulatedWorld::new(1, Faults::default(), 4));
}

/// One run with everything that goes wrong, as the words that came of it.
fn deadly_run(seed: u64) -> String {
    use std::fmt::Write as _;
    let mut world = SimulatedWorld::new(seed, Faults::deadly(), 16);
    let mut story = String::new();
    let mut open = Vec::new();
    for round in 0..400 {
        if round % 10 == 0 {
            world.connect();
        }
        for peer in 0..world.peers.len() {
            world.write(peer, &[1; 700]);
            world.read(peer, 900);
        }
        world.step();
        let mut short = Vec::new();
        while let Some(completion) = world.simulation.completion() {
            write!(story, "{completion:?};").expect("a string takes all");
            match completion {
                Completion::Accepted { socket, .. } => open.push(socket),
                Completion::AcceptPaused { .. } => world.simulation.resume_accept(),
                Completion::Received { received, .. } => world.simulation.release(received),
                Completion::Ended { socket, .. } => world.simulation.close(socket),
                Completion::Short { socket, .. } => short.push(socket),
                Completion::Released { socket } => open.retain(|other| *other != socket),
                Completion::Writable { .. } | Completion::Woken => {}
            }
        }
        for (number, socket) in open.iter().enumerate().filter(|(_, socket)| !short.contains(socket)) {
            if round % 97 == number {
                world.simulation.close(*socket);
            }
            world.simulation.send(*socket, &[Bytes::from_static(&[2; 800])]);
        }
    }
    // Whatever is left lying is looked at before everything is closed.
    world.simulation.stop_accepting();
    open.iter().for_each(|socket| world.simulation.close(*socket));
    for _ in 0..1_000 {
        while let Some(completion) = world.simulation.completion() {
            if let Completion::Received { received, .. } = completion {
                world.simulation.release(received);
            }
        }
        world.step();
    }
    assert_eq!(world.simulation.held(), Held::default(), "seed {seed}");
    write!(story, "{:?}", world.simulation.counters()).expect("a string takes all");
    story
}

#[test]
fn the_same_seed_gives_the_same_run_and_shows_every_fault() {
    let stories: Vec<String> = (0..5).map(deadly_run).collect();
    assert_eq!(stories[3], deadly_run(3));
    assert_ne!(stories[3], stories[4]);
    let all = stories.concat();
    for fault in ["AcceptPaused", "errno: 104", "Short", "Released"] {
        assert!(all.contains(fault), "{fault}");
    }
    assert!(!all.contains("stale_completions: 0,") && !all.contains("buffer_shortages: 0,"));
}
