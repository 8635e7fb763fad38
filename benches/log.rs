//! What a topic's log costs at 10, 1,000 and 100,000 keys: appending, with and without compaction, and reading from a cursor.
//!
//! `cargo bench --bench log`

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate::clock::{Moment, WallEpoch};
use tidegate::ids::{Offset, TopicId};
use tidegate::limits::{Limits, PATCH_BYTES};
use tidegate::topic::{
    Ask, Cursor, Log, LogSettings, NewRecord, Pattern, PatternIndex, Priority, TopicClass, TopicName,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: [u32; 3] = [10, 1_000, 100_000];
const BATCH: u64 = 100;

fn record(key: u32) -> NewRecord {
    NewRecord {
        key: format!("key{key:06}").into(),
        value: Bytes::from_static(&[7; 100]),
        is_delete: false,
        priority: Priority::Normal,
        window: None,
    }
}

fn full_log(keys: u32) -> Log {
    let mut log = Log::new(LogSettings::new(&TopicClass::catch_all(), &Limits::default()));
    (0..keys).for_each(|key| _ = log.apply(vec![record(key)], false, Moment(0)).expect("there is room"));
    log
}

/// Records of keys in a scrambled order, the same in every run.
fn batches(keys: u32) -> impl FnMut() -> Vec<NewRecord> {
    let mut state = 1_u64;
    move || {
        let records = (0..BATCH).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            record(u32::try_from(state >> 33).expect("31 bits") % keys)
        });
        records.collect()
    }
}

/// Events, which supersede nothing; beyond the thousand that are kept the oldest go.
fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append events");
    group.throughput(Throughput::Elements(BATCH));
    for keys in KEYS {
        let mut log = full_log(keys);
        let event = NewRecord { key: Bytes::new(), ..record(0) };
        group.bench_function(BenchmarkId::from_parameter(keys), |b| {
            b.iter_batched(
                || vec![event.clone(); BATCH as usize],
                |events| {
                    log.apply(events, false, Moment(1)).expect("there is room");
                    log.mark_flushed();
                    log.retain(Moment(1), None)
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// Values of keys that have one: each takes the old one out.
fn compact(c: &mut Criterion) {
    let mut group = c.benchmark_group("append and compact");
    group.throughput(Throughput::Elements(BATCH));
    for keys in KEYS {
        let mut log = full_log(keys);
        group.bench_function(BenchmarkId::from_parameter(keys), |b| {
            b.iter_batched(&mut batches(keys), |records| log.apply(records, false, Moment(1)), BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn shared_frame(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply and shared frame");
    group.throughput(Throughput::Elements(BATCH));
    for keys in KEYS {
        let mut log = full_log(keys);
        let mut now = Moment(1);
        group.bench_function(BenchmarkId::from_parameter(keys), |b| {
            b.iter_batched(
                &mut batches(keys),
                |records| {
                    now.0 += 1;
                    let before = Cursor::at(log.head());
                    log.apply(records, false, now).expect("there is room");
                    log.patch(TopicId(1), &before, &Ask::plain(now, WallEpoch::default(), PATCH_BYTES))
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// What a cursor is given that is a hundred offsets behind.
fn read_from_cursor(c: &mut Criterion) {
    let mut group = c.benchmark_group("read from a cursor");
    for keys in KEYS {
        let mut log = full_log(keys);
        let mut next = batches(keys);
        for _ in 0..100 {
            log.apply(next(), false, Moment(1)).expect("there is room");
        }
        let cursor = Cursor::at(Offset(log.head().0 - BATCH));
        let mut now = Moment(1);
        let records =
            log.patch(TopicId(1), &cursor, &Ask::plain(now, WallEpoch::default(), PATCH_BYTES)).counts.records;
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::from_parameter(keys), |b| {
            b.iter(|| {
                now.0 += 1;
                black_box(log.patch(TopicId(1), &cursor, &Ask::plain(now, WallEpoch::default(), PATCH_BYTES)))
            });
        });
    }
    group.finish();
}

fn snapshot_from_shared_runs(c: &mut Criterion) {
    let mut group = c.benchmark_group("snapshot from shared runs");
    for keys in KEYS {
        let mut log = full_log(keys);
        group.throughput(Throughput::Elements(keys.into()));
        group.bench_function(BenchmarkId::from_parameter(keys), |b| {
            b.iter(|| {
                let (mut cursor, _) = log.start(None);
                loop {
                    let ask = Ask::plain(Moment(1), WallEpoch::default(), PATCH_BYTES);
                    let patch = log.patch(TopicId(1), &cursor, &ask);
                    black_box(&patch.frame);
                    if !patch.more {
                        break;
                    }
                    cursor = patch.next;
                }
            });
        });
    }
    group.finish();
}

/// Every pattern of 16 segments with at most three `*` over one name: no set of patterns makes a lookup longer.
fn worst_pattern_lookup(c: &mut Criterion) {
    let mut index = PatternIndex::default();
    for places in (0_u32..1 << 16).filter(|places| places.count_ones() <= 3) {
        let segments: Vec<&str> = (0..16).map(|place| if places >> place & 1 == 1 { "*" } else { "a" }).collect();
        index.insert(&Pattern::parse(&segments.join("/")).expect("a valid pattern"), places);
    }
    let name = TopicName::parse(&["a"; 16].join("/")).expect("a valid name");
    let mut found = Vec::new();
    c.bench_function("worst pattern lookup", |b| {
        b.iter(|| {
            found.clear();
            index.matches(&name, &mut found);
            found.len()
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    targets = append, compact, shared_frame, read_from_cursor, snapshot_from_shared_runs, worst_pattern_lookup
}
criterion_main!(benches);
