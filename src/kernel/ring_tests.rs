//! The ring against real sockets on the loopback.

#![forbid(unsafe_code)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::operation::{Kind, Operation};
use super::*;

const SOON: Wait = Wait::AtMost(Duration::from_secs(1));

pub(super) fn small() -> RingConfig {
    RingConfig { entries: 64, completion_entries: 256, buffers: 64, buffer_bytes: 1_024, max_sockets: 1_024 }
}

pub(super) struct Bench {
    pub(super) ring: Ring,
    pub(super) address: SocketAddr,
}

impl Bench {
    pub(super) fn new(config: RingConfig) -> Self {
        let listener = listen("127.0.0.1:0".parse().expect("an address"), ListenOptions::default()).expect("listen");
        let address = listener.local_addr().expect("bound");
        Self { ring: Ring::new(config, listener).expect("a ring"), address }
    }

    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        stream
    }

    /// The next completion; enters until there is one.
    pub(super) fn next(&mut self) -> Completion {
        for _ in 0..20 {
            if let Some(completion) = self.ring.completion() {
                return completion;
            }
            self.ring.enter(SOON).expect("enter");
        }
        panic!("nothing completes");
    }

    pub(super) fn accept(&mut self) -> (TcpStream, SocketId) {
        let stream = self.connect();
        match self.next() {
            Completion::Accepted { socket, peer } => {
                assert_eq!(peer, stream.local_addr().expect("connected"));
                (stream, socket)
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn received(&mut self, bytes: &mut Vec<u8>) -> SocketId {
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
    pub(super) fn shut_down(mut self, sockets: &[SocketId]) {
        self.ring.stop_accepting();
        sockets.iter().for_each(|socket| self.ring.close(*socket));
        for _ in 0..50 {
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

/// `completion` of a ring that nothing else happens to.
fn drain(ring: &mut Ring) {
    while let Some(completion) = ring.completion() {
        if let Completion::Received { received, .. } = completion {
            ring.release(received);
        }
    }
}

#[test]
fn a_flush_of_good_sends_is_one_call_and_reports_nothing() {
    let mut bench = Bench::new(small());
    let connections: Vec<_> = (0..50).map(|_| bench.accept()).collect();
    bench.ring.enter(Wait::No).expect("enter");
    let before = bench.ring.counters().enters;
    let frame = Bytes::from(vec![1; 100]);
    connections.iter().for_each(|(_, socket)| bench.ring.send(*socket, &[frame.clone(), frame.clone()]));
    bench.ring.enter(Wait::No).expect("enter");
    assert_eq!(bench.ring.counters().enters, before + 1);
    assert!(bench.ring.completion().is_none());
    assert!(frame.is_unique(), "the bytes are ours again");
    for (mut stream, _) in connections {
        stream.read_exact(&mut [0; 200]).expect("read");
    }
}

#[test]
fn sends_beyond_the_submission_queue_go_in_slices() {
    let mut bench = Bench::new(RingConfig { entries: 8, completion_entries: 64, ..small() });
    let connections: Vec<_> = (0..100).map(|_| bench.accept()).collect();
    for (number, (_, socket)) in connections.iter().enumerate() {
        bench.ring.send(*socket, &[Bytes::from(vec![u8::try_from(number).expect("below 100"); 1_000])]);
    }
    bench.ring.enter(Wait::No).expect("enter");
    for (number, (mut stream, _)) in connections.into_iter().enumerate() {
        let mut got = [0; 1_000];
        stream.read_exact(&mut got).expect("read");
        assert!(got.iter().all(|byte| usize::from(*byte) == number));
    }
}

#[test]
fn more_pieces_than_one_call_takes_arrive_in_order() {
    let mut bench = Bench::new(small());
    let (mut stream, socket) = bench.accept();
    let pieces: Vec<Bytes> = (0..3_000_u32).map(|number| Bytes::copy_from_slice(&number.to_be_bytes())).collect();
    bench.ring.send(socket, &pieces);
    bench.ring.enter(Wait::No).expect("enter");
    let mut got = vec![0; 12_000];
    stream.read_exact(&mut got).expect("read");
    assert_eq!(got, pieces.concat());
}

#[test]
fn a_slot_is_given_again_only_after_its_release_was_reported() {
    let mut bench = Bench::new(small());
    let (client, socket) = bench.accept();
    drop(client);
    assert!(matches!(bench.next(), Completion::Ended { .. }));
    // The next one has come, and nobody was told of it yet, when the first one's slot becomes free.
    let second = TcpStream::connect(bench.address).expect("it listens");
    bench.ring.enter(Wait::AtMost(Duration::from_secs(10))).expect("enter");
    bench.ring.close(socket);
    assert!(matches!(bench.next(), Completion::Released { socket: released } if released == socket));
    let Completion::Accepted { socket: next, .. } = bench.next() else { panic!("no connection") };
    assert_eq!(next.index, socket.index, "or the test shows nothing");
    drain(&mut bench.ring);
    drop(second);
    bench.shut_down(&[next]);
}

#[test]
fn connections_that_came_together_are_all_handed_over() {
    let (mut from, mut to) = (Bench::new(small()), Bench::new(small()));
    // They are connected, and the ring has not been entered yet: one call accepts them all.
    let mut clients: Vec<_> = (0..20).map(|_| from.connect()).collect();
    from.ring.enter(SOON).expect("enter");
    // All that came is looked at before anything is handed over, as a shard does.
    let mut accepted = Vec::new();
    while let Some(completion) = from.ring.completion() {
        let Completion::Accepted { socket, peer } = completion else { panic!("{completion:?}") };
        accepted.push((socket, peer));
    }
    assert_eq!(accepted.len(), clients.len());
    let mut adopted = Vec::new();
    for (socket, peer) in accepted {
        let handed = from.ring.hand_over(socket).expect("the kernel has not seen its receive");
        assert_eq!(handed.peer(), peer);
        adopted.push((to.ring.adopt(handed).expect("there is room"), peer));
    }
    for client in &mut clients {
        client.write_all(b"x").expect("write");
        let mut bytes = Vec::new();
        let socket = to.received(&mut bytes);
        assert!(bytes == b"x" && adopted.contains(&(socket, client.local_addr().expect("connected"))));
    }
    from.shut_down(&[]);
    to.shut_down(&adopted.iter().map(|(socket, _)| *socket).collect::<Vec<_>>());
}

#[test]
fn a_connection_whose_peer_is_gone_stays_where_it_is() {
    let mut bench = Bench::new(small());
    let (client, socket) = bench.accept();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("TCP");
    drop(client);
    assert!(bench.ring.hand_over(socket).is_none());
    // Its owner hears the end of it.
    assert!(matches!(bench.next(), Completion::Ended { socket: ended, .. } if ended == socket));
    bench.ring.close(socket);
    assert!(matches!(bench.next(), Completion::Released { socket: released } if released == socket));
    bench.shut_down(&[]);
}

#[test]
fn a_completion_of_an_earlier_holder_is_counted_and_ignored() {
    let mut bench = Bench::new(small());
    let (_first, old) = bench.accept();
    bench.ring.close(old);
    assert!(matches!(bench.next(), Completion::Released { socket } if socket == old));
    let (mut stream, new) = bench.accept();
    assert_eq!(old.index, new.index);
    for kind in [Kind::Receive, Kind::Writable, Kind::ReceiveCancel] {
        bench.ring.inject(Operation::of(kind, old), 0);
    }
    assert!(bench.ring.completion().is_none());
    assert_eq!(bench.ring.counters().stale_completions, 3);
    stream.write_all(b"fine").expect("write");
    let mut bytes = Vec::new();
    assert_eq!(bench.received(&mut bytes), new);
    bench.shut_down(&[new]);
}

#[test]
fn a_small_completion_queue_loses_nothing() {
    let mut bench =
        Bench::new(RingConfig { entries: 64, completion_entries: 64, buffers: 1_024, buffer_bytes: 16, ..small() });
    let mut connections: Vec<_> = (0..60).map(|_| bench.accept()).collect();
    connections.iter().for_each(|(_, socket)| bench.ring.pause_receive(*socket));
    bench.ring.enter(Wait::No).expect("enter");
    for round in 0..5_u8 {
        assert!(bench.ring.completion().is_none());
        connections.iter_mut().for_each(|(stream, _)| stream.write_all(&[round; 160]).expect("write"));
        // Ten buffers for each of them, at once.
        connections.iter().for_each(|(_, socket)| bench.ring.resume_receive(*socket));
        let mut bytes = 0;
        while bytes < connections.len() * 160 {
            match bench.next() {
                Completion::Received { received, .. } => {
                    assert!(bench.ring.bytes(&received).iter().all(|byte| *byte == round));
                    bytes += received.len();
                    bench.ring.release(received);
                }
                other => panic!("{other:?}"),
            }
        }
        connections.iter().for_each(|(_, socket)| bench.ring.pause_receive(*socket));
        bench.ring.enter(Wait::No).expect("enter");
    }
    assert!(bench.ring.counters().overflows > 0, "the queue was too small");
    let sockets: Vec<_> = connections.iter().map(|(_, socket)| *socket).collect();
    bench.shut_down(&sockets);
}

#[test]
fn more_short_sends_than_completions_fit_are_all_reported_by_the_same_call() {
    let mut bench = Bench::new(RingConfig { entries: 64, completion_entries: 64, ..small() });
    let connections: Vec<_> = (0..200).map(|_| bench.accept()).collect();
    let frame = Bytes::from(vec![9; 16 << 20]);
    connections.iter().for_each(|(_, socket)| bench.ring.send(*socket, std::slice::from_ref(&frame)));
    bench.ring.enter(Wait::Forever).expect("enter");
    let mut shorts = 0;
    while let Some(Completion::Short { taken, errno, .. }) = bench.ring.completion() {
        assert!(taken < frame.len() && errno == 0);
        shorts += 1;
    }
    assert_eq!(shorts, 200);
    assert!(frame.is_unique());
}

#[test]
fn a_peer_that_is_gone_breaks_the_send_and_not_the_ring() {
    let mut bench = Bench::new(small());
    let (stream, socket) = bench.accept();
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
    drop(stream);
    assert!(matches!(bench.next(), Completion::Ended { errno: libc::ECONNRESET, .. }));
    bench.ring.send(socket, &[Bytes::from_static(b"hello?")]);
    bench.ring.enter(Wait::No).expect("enter");
    match bench.ring.completion() {
        Some(Completion::Short { taken: 0, errno, .. }) => assert_eq!(errno, libc::EPIPE),
        other => panic!("{other:?}"),
    }
    bench.shut_down(&[socket]);
}

#[test]
fn accepted_sockets_inherit_the_listeners_options() {
    let mut bench = Bench::new(small());
    let (_stream, socket) = bench.accept();
    let slot = bench.ring.socket_of(socket);
    assert!(slot.tcp_nodelay().expect("an option") && slot.keepalive().expect("an option"));
    let info = bench.ring.tcp_info(socket).expect("it is open");
    assert_eq!((info.retransmits, info.probes, info.bytes_acked), (0, 0, 0));
    bench.ring.send(socket, &[Bytes::from(vec![0; 5_000])]);
    bench.ring.enter(Wait::No).expect("enter");
    // The loopback acknowledges within the call, or soon after; the peer need not read.
    let acked = (0..1_000).any(|_| {
        bench.ring.enter(Wait::AtMost(Duration::from_millis(1))).expect("enter");
        bench.ring.tcp_info(socket).expect("it is open").bytes_acked >= 5_000
    });
    assert!(acked);
}

#[test]
fn a_ring_may_be_dropped_with_everything_in_flight() {
    for _ in 0..20 {
        let mut bench = Bench::new(RingConfig { buffers: 4, ..small() });
        let waker = bench.ring.waker();
        let mut connections: Vec<_> = (0..10).map(|_| bench.accept()).collect();
        let frame = Bytes::from(vec![3; 8 << 20]);
        bench.ring.send(connections[0].1, std::slice::from_ref(&frame));
        bench.ring.enter(Wait::No).expect("enter");
        assert!(matches!(bench.ring.completion(), Some(Completion::Short { .. })));
        bench.ring.await_writable(connections[0].1);
        bench.ring.pause_receive(connections[1].1);
        connections.iter_mut().for_each(|(stream, _)| stream.write_all(b"unseen").expect("write"));
        bench.ring.enter(Wait::No).expect("enter");
        // Queued and never submitted; received, and lent for ever.
        bench.ring.send(connections[2].1, std::slice::from_ref(&frame));
        bench.ring.resume_receive(connections[1].1);
        bench.ring.close(connections[3].1);
        let mut unaccepted = bench.connect();
        if let Some(Completion::Received { received, .. }) = bench.ring.completion() {
            // Never given back.
            drop(received);
        }
        drop(bench);
        assert!(frame.is_unique(), "the ring let go of the bytes, so it was quiet");
        waker.wake();
        let end = unaccepted.read(&mut [0]);
        assert!(matches!(end, Ok(0) | Err(_)), "nobody listens any more");
        for (mut stream, _) in connections {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        }
    }
}

#[test]
fn a_forgotten_ring_harms_nobody() {
    std::thread::spawn(|| {
        let mut bench = Bench::new(small());
        let (mut stream, socket) = bench.accept();
        bench.ring.send(socket, &[Bytes::from_static(b"queued")]);
        stream.write_all(b"unseen").expect("write");
        std::mem::forget(bench);
    })
    .join()
    .expect("the thread's end takes the ring along");
}

#[test]
fn a_configuration_that_cannot_be_is_refused_with_its_reason() {
    let refused = |config| {
        let listener = listen("127.0.0.1:0".parse().expect("an address"), ListenOptions::default()).expect("listen");
        Ring::new(config, listener).err().expect("refused").to_string()
    };
    assert!(refused(RingConfig { entries: 100, ..small() }).contains("entries must be a power of two"));
    assert!(refused(RingConfig { completion_entries: 32, ..small() }).contains("must not be below entries"));
    assert!(refused(RingConfig { buffers: 100, ..small() }).contains("buffers must be a power of two"));
    assert!(refused(RingConfig { buffer_bytes: 0, ..small() }).contains("buffer_bytes"));
    assert!(refused(RingConfig { max_sockets: 0, ..small() }).contains("max_sockets"));
}

/// Runs in a process of its own (see below), where the descriptor limit and the list of descriptors are ours alone.
#[test]
#[ignore = "started by `descriptors_run_out_and_come_back`, in a process of its own"]
fn alone_descriptors_run_out_and_come_back() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("procfs").count();
    let before = descriptors();
    // An accept keeps the limit of the moment when it was armed.
    let limit = u64::try_from(before + 10).expect("few");
    super::sockets::set_descriptor_limit(&libc::rlimit { rlim_cur: limit, rlim_max: limit });
    let mut bench = Bench::new(small());
    let (first, socket) = bench.accept();
    let mut clients = vec![first];
    let mut open = vec![socket];
    // Clients come while there are descriptors for them; then there are none left to accept the last.
    while let Ok(stream) = TcpStream::connect(bench.address) {
        clients.push(stream);
    }
    let paused = loop {
        match bench.next() {
            Completion::Accepted { socket, .. } => open.push(socket),
            Completion::AcceptPaused { errno } => break errno,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(paused, libc::EMFILE);
    let calls = bench.ring.counters().enters;
    bench.ring.enter(Wait::AtMost(Duration::from_millis(50))).expect("enter");
    assert!(bench.ring.completion().is_none() && bench.ring.counters().enters == calls + 1, "it does not spin");
    // One goes, one comes.
    bench.ring.close(open.swap_remove(0));
    loop {
        match bench.next() {
            Completion::Released { .. } => {}
            Completion::Accepted { socket, .. } => break open.push(socket),
            other => panic!("{other:?}"),
        }
    }
    drain(&mut bench.ring);
    clients.clear();
    bench.shut_down(&open);
    assert_eq!(descriptors(), before, "everything is closed, the ring's own included");
}

#[test]
fn descriptors_run_out_and_come_back() {
    let program = std::env::current_exe().expect("the test's own program");
    let name = "kernel::ring_tests::alone_descriptors_run_out_and_come_back";
    let child = std::process::Command::new(program).args(["--exact", name, "--ignored", "--test-threads=1"]).output();
    let child = child.expect("the test's own program starts");
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
}
