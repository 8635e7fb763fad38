//! Clients that come and go, in every way there is.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use tidegate::protocol::wire::{self, client_frame};

use super::serve::Serve;
use super::support::raw::{BINARY, CLOSE, FIN, Raw, head};
use super::support::{Client, keyed};
use super::{set_by, wait_until};

const THREADS: usize = 4;
const BATCHES: usize = 10;

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

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let cycles = set_by("TEST_SOAK_CYCLES", 20_000).next_multiple_of(BATCHES * THREADS);
    let server = Serve::start(&["env"], &[]);
    let address = server.address;
    let mut publisher = Client::hello(address);
    publisher.publish_records("soak/x", (0..100).map(|key| keyed(&format!("key{key}"), &"v".repeat(100))).collect());
    let mut samples = Vec::new();
    for batch in 0..=BATCHES {
        // One for each batch: an admin connection has its time.
        let mut admin = server.admin();
        wait_until("all are gone", || admin.value("tidegate_connections") == 1);
        samples.push((
            server.descriptors(),
            server.resident_bytes(),
            admin.value("tidegate_connection_memory_bytes"),
            admin.value("tidegate_log_bytes"),
        ));
        drop(admin);
        if batch == BATCHES {
            break;
        }
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                std::thread::spawn(move || {
                    (0..cycles / BATCHES / THREADS).for_each(|number| cycle(address, number + thread));
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("every client was treated as it ought to be"));
    }
    println!("{cycles} cycles: (descriptors, resident, of connections, of logs) {samples:?}");
    let (first, half, last) = (samples[0], samples[BATCHES / 2], samples[BATCHES]);
    assert!(samples.iter().all(|sample| sample.0 == first.0), "descriptors: {samples:?}");
    assert!(samples.iter().all(|sample| sample.2 == first.2), "memory of connections: {samples:?}");
    assert_eq!(last.3, half.3, "the log holds the same keys");
    // A leak raises the least that is resident, whatever the allocator keeps for later in between.
    let least = |range: std::ops::RangeInclusive<usize>| samples[range].iter().map(|sample| sample.1).min();
    let (before, after) = (least(5..=7).expect("three"), least(8..=10).expect("three"));
    assert!(after * 100 <= before * 101, "memory grew from {before} to {after} bytes: {samples:?}");
    // It is served as at the beginning.
    publisher.publish_records("soak/x", vec![keyed("k", "last")]);
    drop(publisher);
    server.end();
}
