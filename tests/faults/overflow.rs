//! A whole shard over a ring whose completion queue is much too small.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use tidegate::clock::Clock;
use tidegate::kernel::{Held, ListenOptions, Ring, RingConfig, listen};
use tidegate::protocol::wire::{self, client_frame, server_frame::Body};
use tidegate::shard::{Report, Settings, Shard, ShardCommand};

use super::support::{Client, event};

const CLIENTS: usize = 300;
const ROUNDS: usize = 20;
const PINGS: usize = 8;

/// What a shard's thread of an engine does, with another ring; and it can be made to stand still.
struct Running {
    address: SocketAddr,
    commands: Sender<ShardCommand>,
    /// Stands still when it has said so in the first channel, until it hears from the second.
    pauses: Sender<(Sender<()>, Receiver<()>)>,
    wake: Box<dyn Fn()>,
    thread: JoinHandle<(Held, Report)>,
}

impl Running {
    /// It stands still until what is returned is used or dropped.
    fn pause(&self) -> Sender<()> {
        let ((paused, has_paused), (resume, resumed)) = (bounded(1), bounded(1));
        self.pauses.send((paused, resumed)).expect("it runs");
        (self.wake)();
        has_paused.recv().expect("it runs");
        resume
    }
}

fn shard_over(config: RingConfig) -> Running {
    let listener = listen("127.0.0.1:0".parse().expect("an address"), ListenOptions::default()).expect("listens");
    let address = listener.local_addr().expect("bound");
    let (commands, received) = bounded(4);
    let (pauses, paused) = bounded::<(Sender<()>, Receiver<()>)>(1);
    let (started, start) = bounded(1);
    let thread = std::thread::spawn(move || {
        let ring = Ring::new(config, listener).expect("a ring");
        started.send(ring.waker()).expect("it waits");
        let clock = Clock::start();
        let mut shard = Shard::alone(ring, Settings::default(), clock.epoch(), 1, received);
        while !shard.is_drained() {
            if let Ok((paused, resumed)) = paused.try_recv() {
                paused.send(()).expect("it is waited for");
                // Dropped is as good as used.
                let _ = resumed.recv();
            }
            let wait = shard.prepare(clock.now());
            shard.submit(wait).expect("the ring is not broken");
        }
        (shard.held(), shard.report())
    });
    let waker = start.recv().expect("the ring is there");
    Running { address, commands, pauses, wake: Box::new(move || waker.wake()), thread }
}

#[test]
fn a_completion_queue_that_overflows_loses_nothing() {
    let config = RingConfig {
        entries: 64,
        completion_entries: 64,
        // So that what a client says makes several completions.
        buffers: 1_024,
        buffer_bytes: 16,
        ..RingConfig::default()
    };
    let running = shard_over(config);
    let address = running.address;
    let mut publisher = Client::hello(address);
    publisher.publish_records("t", vec![event("first")]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::hello(address)).collect();
    for client in &mut clients {
        client.subscribe_to("t");
    }
    for round in 0..ROUNDS {
        // The first record was published before.
        let at = 1 + round as u64;
        // All of them speak while the shard stands still: several times as many completions as there is room for.
        let resume = running.pause();
        for client in &mut clients {
            for _ in 0..PINGS {
                client.send(client_frame::Body::Ping(wire::Ping { client_time_us: round as u64 }));
            }
        }
        drop(resume);
        publisher.publish_records("t", vec![event(&format!("{round}"))]);
        for client in &mut clients {
            let (mut pongs, mut has_patch) = (0, false);
            while pongs < PINGS || !has_patch {
                match client.body() {
                    Body::Pong(pong) => {
                        assert_eq!(pong.client_time_us, round as u64);
                        pongs += 1;
                    }
                    Body::Patch(patch) => {
                        assert_eq!((patch.from, patch.to), (at, at + 1));
                        assert_eq!((patch.records.len(), patch.overrun, patch.lost), (1, 0, 0));
                        has_patch = true;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    // And all at once they are gone.
    let resume = running.pause();
    drop((publisher, clients, resume));
    running.commands.send(ShardCommand::Drain(Duration::from_secs(1))).expect("there is room");
    (running.wake)();
    let (held, report) = running.thread.join().expect("the shard did not panic");
    assert_eq!(held, Held::default());
    assert!(report.kernel.overflows > 0, "the queue never overflowed");
    assert_eq!(report.kernel.stale_completions, 0);
}
