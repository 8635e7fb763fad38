//! Clients that come and go, in every way there is. Nothing of them stays: every byte and every descriptor of this process is
//! counted, the clients' own among them, which is why the test is alone in it.
//!
//! How many come is set by `TEST_SOAK_CYCLES`.

#![forbid(unsafe_code)]

#[path = "../support/mod.rs"]
mod support;

use std::alloc::System;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::raw::{BINARY, CLOSE, FIN, Raw, head};
use support::{Client, LIMIT, end, engine, keyed};
use tidegate::config::Shards;
use tidegate::engine::Engine;
use tidegate::protocol::wire::{self, client_frame};
use tidegate::shard::Report;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const THREADS: usize = 4;
/// Cycles between two looks.
const BATCH: usize = 1_000;
const SHARDS: u16 = 2;

/// How often the engine pings: the longest that it has to remember anything of who is gone.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// What the heap may differ by without anybody having leaked: a table that doubled as more were there at one moment.
const ROOM: usize = 128 * 1024;

/// One client's life. All but the orderly ones end with a reset, or no port would be left after some ten thousand.
fn cycle(address: SocketAddr, number: usize) {
    let resets = |stream: &std::net::TcpStream| {
        socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("TCP");
    };
    let subscribed = || {
        let mut raw = Raw::hello(address);
        raw.send(2, client_frame::Body::Subscribe(wire::Subscribe { topic: "soak/*".into(), ..Default::default() }));
        raw.frame();
        raw.frame();
        raw
    };
    match number % 8 {
        0 => resets(&Raw::tcp(address)),
        1 => {
            let mut stream = Raw::tcp(address);
            stream.write_all(b"GET /v1/ws HTTP/1.1\r\nHost: lo").expect("it is open");
            resets(&stream);
        }
        2 => {
            let mut stream = Raw::tcp(address);
            stream.write_all(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is open");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer, and the end");
            assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        }
        3 => resets(&Raw::connect(address).stream),
        4 => {
            let mut raw = Raw::hello(address);
            raw.send_frame(FIN | CLOSE, &1000_u16.to_be_bytes());
            assert_eq!(raw.closed(), 1000);
            resets(&raw.stream);
        }
        5 => {
            // In the middle of a message.
            let mut raw = subscribed();
            raw.write(&head(FIN | BINARY, 60_000));
            raw.write(&[0; 10_000]);
            resets(&raw.stream);
        }
        6 => {
            let mut raw = subscribed();
            let publish =
                wire::Publish { topic: "soak/x".into(), records: vec![keyed("k", "v")], ..Default::default() };
            raw.send(3, client_frame::Body::Publish(publish));
            raw.frame();
            resets(&raw.stream);
        }
        _ => resets(&subscribed().stream),
    }
}

/// What is there while nobody but the publisher is.
#[derive(Clone, Copy, Debug)]
struct Sample {
    descriptors: usize,
    /// Pieces of the heap that are in use, and their bytes.
    allocations: usize,
    heap_bytes: usize,
    connection_bytes: usize,
    log_bytes: usize,
}

impl Sample {
    /// Waits until the others are gone.
    fn take(engine: &Engine) -> Self {
        let since = Instant::now();
        let gauges = loop {
            let Report { gauges, .. } = engine.report().expect("the shards answer");
            if gauges.connections == 1 && gauges.mesh_bytes == 0 {
                break gauges;
            }
            assert!(since.elapsed() < LIMIT, "still there: {gauges:?}");
            std::thread::sleep(Duration::from_millis(5));
        };
        let stats = ALLOCATOR.stats();
        Self {
            descriptors: std::fs::read_dir("/proc/self/fd").expect("Linux").count(),
            allocations: stats.allocations - stats.deallocations,
            heap_bytes: stats.bytes_allocated - stats.bytes_deallocated,
            connection_bytes: gauges.connection_bytes,
            log_bytes: gauges.log_bytes,
        }
    }
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let cycles = std::env::var("TEST_SOAK_CYCLES").map_or(20_000, |text| text.parse().expect("a number"));
    let engine = engine(|config| {
        config.shards = Shards::Count(SHARDS);
        config.limits.heartbeat_interval = HEARTBEAT;
    });
    let address = engine.local_addr();
    let mut publisher = Client::hello(address);
    publisher.publish_records("soak/x", (0..100).map(|key| keyed(&format!("key{key}"), &"v".repeat(100))).collect());
    let come_and_go = || {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || (0..BATCH / THREADS).for_each(|number| cycle(address, number + thread)));
            }
        });
        Sample::take(&engine)
    };
    let begun = Instant::now();
    let first = come_and_go();
    // A deadline stays in the timing wheel until it is due, though its connection is gone: as many as come in that time.
    let mut samples = Vec::new();
    while begun.elapsed() < 2 * HEARTBEAT || samples.len() * BATCH < cycles / 2 {
        samples.push(come_and_go());
    }
    let before = come_and_go();
    (0..cycles.div_ceil(2 * BATCH)).for_each(|_| samples.push(come_and_go()));
    let after = come_and_go();
    println!("{} cycles: {first:?}, {before:?}, {after:?}", (samples.len() + 3) * BATCH);
    assert_eq!(after.descriptors, first.descriptors);
    assert_eq!(after.connection_bytes, first.connection_bytes);
    assert_eq!(after.log_bytes, before.log_bytes, "the log holds the same keys");
    assert!(after.allocations <= before.allocations + BATCH / 16, "pieces of the heap: {before:?}, {after:?}");
    assert!(after.heap_bytes <= before.heap_bytes + ROOM, "{before:?}, {after:?}");
    // It is served as at the beginning.
    publisher.publish_records("soak/x", vec![keyed("k", "last")]);
    drop(publisher);
    end(engine);
}
