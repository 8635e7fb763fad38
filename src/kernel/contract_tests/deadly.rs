//! A simulation in which everything goes wrong is the same again from the same seed, and shows every fault.

use super::worlds::{SimulatedWorld, World as _};
use crate::kernel::*;

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
