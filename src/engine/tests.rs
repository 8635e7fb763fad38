//! The engine's start and its end by a panic.

use std::io;
use std::process::Command;

use bytes::Bytes;
use crossbeam_channel::bounded;

use super::shards::run;
use super::*;
use crate::config::Idle;
use crate::ids::ShardId;
use crate::kernel::{Completion, Handed, Kernel, KernelCounters, Received, SocketId, TcpInfo, Wait};
use crate::shard::{Settings, Shard};

/// Nobody ever connects, and the third enter finds an invariant broken.
struct BreaksInTurnThree {
    enters: u32,
}

impl Kernel for BreaksInTurnThree {
    fn enter(&mut self, _: Wait) -> io::Result<()> {
        self.enters += 1;
        assert!(self.enters < 3, "an invariant is broken");
        Ok(())
    }

    fn completion(&mut self) -> Option<Completion> {
        None
    }

    fn held(&self) -> Held {
        Held::default()
    }

    fn counters(&self) -> KernelCounters {
        KernelCounters::default()
    }

    fn bytes(&mut self, _: &Received) -> &mut [u8] {
        &mut []
    }

    fn tcp_info(&mut self, _: SocketId) -> Option<TcpInfo> {
        None
    }

    fn release(&mut self, _: Received) {}
    fn send(&mut self, _: SocketId, _: &[Bytes]) {}
    fn await_writable(&mut self, _: SocketId) {}
    fn pause_receive(&mut self, _: SocketId) {}
    fn resume_receive(&mut self, _: SocketId) {}
    fn finish(&mut self, _: SocketId) {}
    fn close(&mut self, _: SocketId) {}
    fn abort(&mut self, _: SocketId) {}
    fn stop_accepting(&mut self) {}
    fn pause_accept(&mut self) {}
    fn resume_accept(&mut self) {}
    fn ring(&mut self, _: u16) {}
    fn hand_over(&mut self, _: SocketId) -> Option<Handed> {
        None
    }
    fn adopt(&mut self, _: Handed) -> Option<SocketId> {
        None
    }
}

#[test]
fn a_second_engine_on_the_same_port_is_refused() {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config { listen: free, admin: free, ..Config::default() };
    let first = Engine::embed(config.clone()).expect("the first one starts");
    let second = Engine::embed(Config { listen: first.local_addr(), ..config });
    assert!(matches!(second, Err(StartError::Listen { .. })), "{second:?}");
    assert_eq!(first.shutdown(), Leftovers::default());
}

#[test]
#[ignore = "ends the process: started by the next test, in one of its own"]
fn a_shard_that_panics() {
    let (_commands, receiver) = bounded(1);
    let clock = Clock::start();
    let shard = Shard::alone(BreaksInTurnThree { enters: 0 }, Settings::default(), clock.epoch(), 1, receiver);
    run(shard, ShardId(0), clock, Idle::Park);
}

#[test]
fn a_panic_in_a_shard_ends_the_process_and_names_shard_and_turn() {
    let child = Command::new(std::env::current_exe().expect("a test has a file"))
        .args(["--exact", "engine::tests::a_shard_that_panics", "--ignored", "--nocapture"])
        .output()
        .expect("a test can be started");
    assert_eq!(child.status.code(), Some(EXIT_BROKEN_INVARIANT));
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(said.contains("shard 0 panicked in turn 3"), "{said}");
}
