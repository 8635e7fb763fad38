//! What a topic's log costs: an append that supersedes, and a record read by a cursor from runs that others share.
//!
//! `cargo bench --bench log`

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate::clock::{Moment, WallEpoch};
use tidegate::ids::TopicId;
use tidegate::limits::{Limits, PATCH_BYTES};
use tidegate::topic::{
    Ask, Cursor, Log, LogSettings, NewRecord, Pattern, PatternIndex, Priority, TopicClass, TopicName,
};

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

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
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

criterion_group!(benches, append, shared_frame, snapshot_from_shared_runs, worst_pattern_lookup);
criterion_main!(benches);
