//! Many seeds, on all cores, until one fails.
//!
//! `TIDEGATE_SEEDS=5000` looks at so many seeds, from `TIDEGATE_FIRST_SEED` on (1); `TIDEGATE_SEED=17` replays one and says what
//! happens. A seed plays the same in every build profile.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Runs the seeds that the environment asks for, else the first `count`; `run` is told whether to say what happens.
///
/// # Panics
/// With the smallest seed that failed, and how to replay it in the test target `target`.
pub fn every_seed(target: &str, count: u64, run: impl Fn(u64, bool) + Sync) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("TIDEGATE_SEED") {
        run(seed, true);
        return;
    }
    let first = number("TIDEGATE_FIRST_SEED").unwrap_or(1);
    let end = first + number("TIDEGATE_SEEDS").unwrap_or(count);
    let (next, failed, began) = (AtomicU64::new(first), AtomicU64::new(u64::MAX), Instant::now());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || seed > failed.load(Ordering::Relaxed) {
                        break;
                    }
                    if catch_unwind(AssertUnwindSafe(|| run(seed, false))).is_err() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    let count = failed.min(end - 1) - first + 1;
    println!("{count} seeds, {:.0} a second", count as f64 / began.elapsed().as_secs_f64());
    assert!(
        failed == u64::MAX,
        "found after {count} seeds; replay: TIDEGATE_SEED={failed} cargo test --test {target} every_seed -- --nocapture"
    );
}
