//! What a patch costs that is made for one cursor: a head of its own, and slices of runs that the cursors of a turn share.
//!
//! `cargo bench --bench patches`. "first" makes the run, by encoding every record's place in it; whoever asks after that in the same
//! turn copies from it.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate::clock::{Moment, WallEpoch};
use tidegate::ids::{Offset, TopicId};
use tidegate::limits::{Limits, PATCH_BYTES};
use tidegate::topic::{Ask, Cursor, Filter, Log, LogSettings, NewRecord, Priority, TopicClass};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RECORDS: [u64; 3] = [1, 20, 400];
const KEYS: u64 = 1_000;

fn log() -> Log {
    let mut log = Log::new(LogSettings::new(&TopicClass::catch_all(), &Limits::default()));
    for key in 0..KEYS {
        let record = NewRecord {
            key: format!("key{key:06}").into(),
            value: Bytes::from_static(&[7; 128]),
            is_delete: false,
            priority: if key % 2 == 0 { Priority::Normal } else { Priority::High },
            window: None,
        };
        log.apply(vec![record], false, Moment(0)).expect("there is room");
    }
    log
}

fn ask(now: u64, filter: Option<&Filter>) -> Ask<'_> {
    Ask { filter, ..Ask::plain(Moment(now), WallEpoch::default(), PATCH_BYTES) }
}

fn patches(c: &mut Criterion) {
    let mut log = log();
    let behind = |records| Cursor::at(Offset(KEYS - records));
    let mut now = 1;

    let mut group = c.benchmark_group("first patch of a turn");
    for records in RECORDS {
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::from_parameter(records), |b| {
            b.iter(|| {
                // Runs say what is left of windows, so those of an earlier moment are no longer good.
                now += 1;
                black_box(log.patch(TopicId(1), &behind(records), &ask(now, None)))
            });
        });
    }
    group.finish();

    let filter = Filter { min_priority: Some(Priority::High), key_prefix: Bytes::new() };
    for (name, filter) in
        [("later patch of a turn", None), ("later patch of a turn, half of it filtered", Some(&filter))]
    {
        let mut group = c.benchmark_group(name);
        for records in RECORDS {
            group.throughput(Throughput::Elements(records));
            group.bench_function(BenchmarkId::from_parameter(records), |b| {
                log.patch(TopicId(1), &behind(records), &ask(now, None));
                b.iter(|| black_box(log.patch(TopicId(1), &behind(records), &ask(now, filter))));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = patches
}
criterion_main!(benches);
