//! What it costs to read client frames: heads parsed, payloads unmasked, lent one by one. Beside fastwebsockets and tungstenite,
//! which are given the same bytes from memory.
//!
//! `cargo bench --bench frames`. Tidegate unmasks in the buffer that the kernel filled; the others copy into one of their own
//! first, as they read from a stream. All check what RFC 6455 wants of a server to the degree they do so at all.

mod crowd;

use std::hint::black_box;
use std::io::Cursor;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crowd::{event, masked, message};
use tidegate::clock::Moment;
use tidegate::limits::Limits;
use tidegate::protocol::envelope::{self, EnvelopeLimits};
use tidegate::protocol::websocket::{Receiver, ReceiverLimits};
use tidegate::protocol::wire::{self, client_frame::Body};
use tungstenite::protocol::Role;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PAYLOADS: [usize; 4] = [16, 128, 1_024, 16_384];
const FRAMES: usize = 32;

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse and unmask");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let limits = ReceiverLimits { bytes: 1 << 20, ..ReceiverLimits::default() };
    for bytes in PAYLOADS {
        let input = masked(0x82, &vec![7; bytes]).repeat(FRAMES);
        group.throughput(Throughput::Elements(FRAMES as u64));
        group.bench_function(BenchmarkId::new("tidegate", bytes), |b| {
            let mut receiver = Receiver::default();
            b.iter_batched_ref(
                || input.clone(),
                |input| {
                    let mut feed = receiver.feed(&limits, input);
                    let mut read = 0;
                    while let Some(message) = feed.next(Moment(1)).expect("frames") {
                        black_box(message);
                        read += 1;
                    }
                    assert_eq!(read, FRAMES);
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("fastwebsockets", bytes), |b| {
            b.iter_batched_ref(
                || {
                    let stream = tokio::io::join(Cursor::new(input.clone()), tokio::io::sink());
                    fastwebsockets::WebSocket::after_handshake(stream, fastwebsockets::Role::Server)
                },
                |socket| {
                    runtime.block_on(async {
                        for _ in 0..FRAMES {
                            black_box(socket.read_frame().await.expect("frames"));
                        }
                    });
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("tungstenite", bytes), |b| {
            b.iter_batched_ref(
                || tungstenite::WebSocket::from_raw_socket(Cursor::new(input.clone()), Role::Server, None),
                |socket| {
                    for _ in 0..FRAMES {
                        black_box(socket.read().expect("frames"));
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// A publish from its bytes in the buffer to the decoded message.
fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish decoded");
    let limits = ReceiverLimits::default();
    let envelope_limits = EnvelopeLimits::from(&Limits::default());
    for records in [1, 20] {
        let records_of = |bytes| (0..records).map(|_| event(bytes)).collect();
        let publish = wire::Publish { topic: "market/BTCUSDT".into(), records: records_of(128), ..Default::default() };
        let input = message(7, Body::Publish(publish));
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::new("records of 128 bytes", records), |b| {
            let mut receiver = Receiver::default();
            b.iter_batched_ref(
                || input.clone(),
                |input| {
                    let mut feed = receiver.feed(&limits, input);
                    let Ok(Some(tidegate::protocol::websocket::Message::Binary(bytes))) = feed.next(Moment(1)) else {
                        panic!("one message was written");
                    };
                    black_box(envelope::decode(bytes, &envelope_limits).expect("a publish"));
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = parse, decode
}
criterion_main!(benches);
