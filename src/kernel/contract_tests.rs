//! What every kernel does, whichever it is: the same tests run against the ring and against simulations, calm and harsh.

#![forbid(unsafe_code)]

mod deadly;
mod worlds;

use std::collections::HashMap;

use self::worlds::{RingWorld, SimulatedWorld, World};
use super::*;

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
