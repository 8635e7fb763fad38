//! Rings that ring each other, and connections that go from one to another, on the loopback.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::ring_tests::{Bench, small};
use super::*;

/// Longer than anything here takes; a test that would wait for ever fails.
const LIMIT: Duration = Duration::from_secs(60);

/// Rings `peer`; the one that rings hears nothing of it.
fn ring(bench: &mut Bench, peer: u16) {
    bench.ring.ring(peer);
    bench.ring.enter(Wait::No).expect("enter");
    assert!(bench.ring.completion().is_none());
}

/// Whether the client's connection ended in good order.
fn has_ended(client: &mut TcpStream) -> bool {
    client.read(&mut [0; 1]).expect("no reset") == 0
}

/// What the client says arrives at `socket`, and what is said there at the client.
fn assert_talks(bench: &mut Bench, client: &mut TcpStream, socket: SocketId) {
    client.write_all(b"there").expect("write");
    let mut bytes = Vec::new();
    while bytes.len() < 5 {
        assert_eq!(bench.received(&mut bytes), socket);
    }
    assert_eq!(bytes, b"there");
    bench.ring.send(socket, &[Bytes::from_static(b"back")]);
    bench.ring.enter(Wait::No).expect("enter");
    let mut bytes = [0; 4];
    client.read_exact(&mut bytes).expect("read");
    assert_eq!(&bytes, b"back");
}

#[test]
fn two_rings_that_wait_for_ever_wake_each_other() {
    const ROUNDS: usize = 500;
    let (to_other, from_main) = mpsc::channel::<RingHandle>();
    let (to_main, from_other) = mpsc::channel();
    let (done, is_done) = mpsc::channel();
    let rally = |bench: &mut Bench, peer: u16, begins: bool| {
        for round in 0..ROUNDS {
            if round > 0 || begins {
                bench.ring.ring(peer);
            }
            // What is queued leaves with the call that sleeps, as in a turn.
            loop {
                bench.ring.enter(Wait::Forever).expect("enter");
                if let Some(completion) = bench.ring.completion() {
                    break assert!(matches!(completion, Completion::Woken), "{completion:?}");
                }
            }
            assert!(bench.ring.completion().is_none(), "rung once, woken once");
        }
        // The one that began waits for as many as it rang.
        if !begins {
            bench.ring.ring(peer);
            bench.ring.enter(Wait::No).expect("enter");
        }
    };
    let finished = done.clone();
    thread::spawn(move || {
        let mut bench = Bench::new(small());
        to_main.send(bench.ring.handle().expect("a descriptor")).expect("the test waits");
        let peer = from_main.recv().expect("the test says it");
        bench.ring.connect(vec![peer, bench.ring.handle().expect("a descriptor")]);
        rally(&mut bench, 0, false);
        bench.shut_down(&[]);
        done.send(()).expect("the test waits");
    });
    thread::spawn(move || {
        let mut bench = Bench::new(small());
        to_other.send(bench.ring.handle().expect("a descriptor")).expect("the other waits");
        let peer = from_other.recv().expect("the other says it");
        bench.ring.connect(vec![bench.ring.handle().expect("a descriptor"), peer]);
        rally(&mut bench, 1, true);
        bench.shut_down(&[]);
        finished.send(()).expect("the test waits");
    });
    for _ in 0..2 {
        is_done.recv_timeout(LIMIT).expect("nobody sleeps for ever");
    }
}

#[test]
fn a_ring_that_is_gone_is_rung_in_vain() {
    let mut bench = Bench::new(small());
    // One whose thread is gone with it, and one of this thread.
    let ended = thread::spawn(|| Bench::new(small()).ring.handle().expect("a descriptor")).join().expect("it ends");
    let dropped = Bench::new(small()).ring.handle().expect("a descriptor");
    bench.ring.connect(vec![ended, dropped]);
    for peer in [0, 1, 2, u16::MAX] {
        (0..100).for_each(|_| ring(&mut bench, peer));
    }
    let (mut client, socket) = bench.accept();
    assert_talks(&mut bench, &mut client, socket);
    bench.shut_down(&[socket]);
}

#[test]
fn a_ring_that_takes_no_message_is_woken_all_the_same() {
    let (mut bench, mut other) = (Bench::new(small()), Bench::new(small()));
    let no_ring = File::open("/dev/null").expect("it is always there");
    bench.ring.connect(vec![other.ring.handle().expect("a descriptor").deaf(no_ring.into())]);
    for _ in 0..3 {
        ring(&mut bench, 0);
        assert!(matches!(other.next(), Completion::Woken));
    }
    bench.shut_down(&[]);
    other.shut_down(&[]);
}

#[test]
fn a_handle_outlives_its_ring_and_the_ring_its_handles() {
    let bench = Bench::new(small());
    let handle = bench.ring.handle().expect("a descriptor");
    let copy = handle.clone();
    drop(handle);
    bench.shut_down(&[]);
    thread::spawn(move || copy.wake()).join().expect("waking one that is gone does nothing");
}

#[test]
fn a_connection_that_is_handed_over_is_held_by_the_taker_alone() {
    let (mut from, mut to) = (Bench::new(small()), Bench::new(small()));
    let before = (from.ring.held(), to.ring.held());
    let (mut client, socket) = from.accept();
    let handed = from.ring.hand_over(socket).expect("it is fresh");
    assert_eq!((from.ring.held(), to.ring.held()), before);
    let adopted = to.ring.adopt(handed).expect("there is room");
    let Held { operations, sockets, buffers, descriptors } = before.1;
    let with_one = Held { operations: operations + 1, sockets: sockets + 1, buffers, descriptors: descriptors + 1 };
    assert_eq!((from.ring.held(), to.ring.held()), (before.0, with_one));
    // The old id is void.
    assert!(from.ring.hand_over(socket).is_none() && from.ring.tcp_info(socket).is_none());
    from.ring.send(socket, &[Bytes::from_static(b"not from here")]);
    from.ring.close(socket);
    from.ring.enter(Wait::No).expect("enter");
    assert!(from.ring.completion().is_none());
    assert_talks(&mut to, &mut client, adopted);
    // Its slot is for others.
    let (mut second, next) = from.accept();
    assert!(next.index == socket.index && next.generation != socket.generation);
    assert_talks(&mut from, &mut second, next);
    from.shut_down(&[next]);
    to.shut_down(&[adopted]);
    assert!(has_ended(&mut client) && has_ended(&mut second));
}

#[test]
fn a_connection_that_nobody_takes_is_closed() {
    let mut bench = Bench::new(small());
    let (mut client, socket) = bench.accept();
    drop(bench.ring.hand_over(socket).expect("it is fresh"));
    assert!(has_ended(&mut client));
    bench.shut_down(&[]);
}

#[test]
fn a_full_table_and_one_that_accepts_nobody_close_what_they_are_given() {
    let mut from = Bench::new(small());
    let mut to = Bench::new(RingConfig { max_sockets: 1, ..small() });
    let mut given = |to: &mut Bench| {
        let (client, socket) = from.accept();
        (client, to.ring.adopt(from.ring.hand_over(socket).expect("it is fresh")))
    };
    let (mut first, adopted) = given(&mut to);
    let adopted = adopted.expect("there is room for one");
    let held = to.ring.held();
    let (mut second, none) = given(&mut to);
    assert!(none.is_none() && has_ended(&mut second));
    assert_eq!(to.ring.held(), held);
    assert_talks(&mut to, &mut first, adopted);
    to.ring.close(adopted);
    while to.ring.held().sockets > 0 {
        assert!(matches!(to.next(), Completion::Released { .. }));
    }
    to.ring.stop_accepting();
    let (mut third, none) = given(&mut to);
    assert!(none.is_none() && has_ended(&mut third));
    from.shut_down(&[]);
    to.shut_down(&[]);
}

#[test]
fn a_connection_that_something_was_asked_of_stays() {
    type Ask = fn(&mut Ring, SocketId);
    let asked: [(&str, Ask); 5] = [
        ("enter", |ring, _| ring.enter(Wait::No).expect("enter")),
        ("send", |ring, socket| ring.send(socket, &[Bytes::from_static(b"queued")])),
        ("await_writable", |ring, socket| ring.await_writable(socket)),
        ("pause_receive", |ring, socket| ring.pause_receive(socket)),
        ("close", |ring, socket| ring.close(socket)),
    ];
    for (what, ask) in asked {
        let mut bench = Bench::new(small());
        let (_client, socket) = bench.accept();
        ask(&mut bench.ring, socket);
        assert!(bench.ring.hand_over(socket).is_none(), "{what}");
        assert_eq!(bench.ring.held().sockets, 1, "{what}");
        bench.shut_down(&[socket]);
    }
}

#[test]
fn a_simulation_remembers_whom_it_rang() {
    let mut simulation = Simulation::new(SimulationConfig::default());
    assert!(simulation.take_rung().is_empty());
    [3, 1].into_iter().for_each(|peer| simulation.ring(peer));
    assert_eq!(simulation.take_rung(), [3, 1]);
    assert!(simulation.take_rung().is_empty());
}
