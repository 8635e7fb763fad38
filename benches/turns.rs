//! Whole turns: publishes arrive as masked frames in the kernel's buffers, are parsed, applied and acknowledged, and what they
//! say is gathered into one send for each subscriber. Only the kernel is played, and costs nothing.
//!
//! `cargo bench --bench turns`. `thrpt` is records delivered per second of the shard's CPU, system calls left out.

mod crowd;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crowd::{Crowd, event, value};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SUBSCRIBERS: [usize; 3] = [10, 100, 1_000];

fn turns(c: &mut Criterion) {
    let one = vec![vec![event(128)]];
    let many: Vec<_> = (0..64).map(|_| vec![event(128)]).collect();
    let state: Vec<_> = vec![(0..20).map(|key| value(key, 128)).collect()];
    for (name, publishes) in [("one event", one), ("64 publishes of an event", many), ("one publish of 20 keys", state)]
    {
        let records: usize = publishes.iter().map(Vec::len).sum();
        let mut group = c.benchmark_group(name);
        for subscribers in SUBSCRIBERS {
            group.throughput(Throughput::Elements((subscribers * records) as u64));
            let mut crowd = None;
            group.bench_function(BenchmarkId::from_parameter(subscribers), |b| {
                let crowd = crowd.get_or_insert_with(|| Crowd::new(subscribers));
                b.iter_custom(|rounds| crowd.timed_rounds(rounds, &publishes));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    targets = turns
}
criterion_main!(benches);
