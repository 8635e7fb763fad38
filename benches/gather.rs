//! What fan-out costs each subscriber, from one to ten thousand of them: the frame that all share, and the patch that each one
//! gets whose socket was full for a while.
//!
//! `cargo bench --bench gather`. The kernel takes everything at no cost, so these are nanoseconds beside the microsecond or two
//! of a real send. `thrpt` is subscribers per second: it must not fall as their number grows.

mod crowd;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crowd::{Crowd, event};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SUBSCRIBERS: [usize; 5] = [1, 10, 100, 1_000, 10_000];
/// Publishes that a subscriber misses while its socket is full.
const MISSED: usize = 10;

/// Everyone is at the head: one frame, made once.
fn shared(crowd: &mut Crowd, rounds: u64) -> Duration {
    crowd.timed_rounds(rounds, &[vec![event(128)]])
}

/// Everyone is behind and wakes: a patch of its own for each, from a run that all share.
fn own(crowd: &mut Crowd, rounds: u64) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..rounds {
        crowd.block();
        for _ in 0..MISSED {
            crowd.deliver(&[event(128)]);
        }
        crowd.unblock();
        let start = Instant::now();
        let sends = crowd.turns();
        spent += start.elapsed();
        assert_eq!(sends, crowd.subscribers() + 1);
        crowd.confirm();
    }
    spent
}

fn gather(c: &mut Criterion) {
    for (name, run) in
        [("shared frame", shared as fn(&mut Crowd, u64) -> Duration), ("patch of its own, 10 records", own)]
    {
        let mut group = c.benchmark_group(name);
        for subscribers in SUBSCRIBERS {
            group.throughput(Throughput::Elements(subscribers as u64));
            let mut crowd = None;
            group.bench_function(BenchmarkId::from_parameter(subscribers), |b| {
                let crowd = crowd.get_or_insert_with(|| Crowd::new(subscribers));
                b.iter_custom(|rounds| run(crowd, rounds));
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
    targets = gather
}
criterion_main!(benches);
