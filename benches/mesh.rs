//! The hop between shards: what a batch costs through the mesh's channel, beside a ring of one slot that could take its place, and
//! what it costs to wake a shard that sleeps in its ring. Two threads, each on a CPU of its own if there are two.
//!
//! `cargo bench --bench mesh`: each figure is there and back, so a hop is half of it.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;

use core_affinity::CoreId;
use criterion::{Criterion, criterion_group, criterion_main};
use tidegate::ids::ShardId;
use tidegate::kernel::{Kernel, ListenOptions, Ring, RingConfig, RingHandle, Wait, listen};
use tidegate::mesh::{self, Endpoint, MeshLimits};

const HERE: ShardId = ShardId(0);
const THERE: ShardId = ShardId(1);

/// The other thread, which answers until it is told to stop.
struct Echo {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(run: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let told = is_over.clone();
        // Asked once: a pinned thread may use no other.
        static CPUS: LazyLock<Vec<CoreId>> = LazyLock::new(|| core_affinity::get_core_ids().unwrap_or_default());
        if let [first, .., last] = CPUS[..] {
            core_affinity::set_for_current(first);
            let thread = std::thread::spawn(move || {
                core_affinity::set_for_current(last);
                run(&told);
            });
            return Self { is_over, thread: Some(thread) };
        }
        Self { is_over, thread: Some(std::thread::spawn(move || run(&told))) }
    }

    fn stop(&mut self, wake: impl FnOnce()) {
        self.is_over.store(true, Ordering::Release);
        wake();
        self.thread.take().expect("it is stopped once").join().expect("it ends");
    }
}

fn pair() -> (Endpoint<u64>, Endpoint<u64>) {
    let mut ends = mesh::connect(2, MeshLimits::for_shards(2)).into_iter();
    (ends.next().expect("two"), ends.next().expect("two"))
}

/// Both look all the time, as shards do that spin.
fn awake(criterion: &mut Criterion) {
    let (mut here, mut there) = pair();
    let mut echo = Echo::start(move |is_over| {
        let mut arrived = Vec::new();
        while !is_over.load(Ordering::Acquire) {
            there.drain(&mut arrived);
            for (_, message) in arrived.drain(..) {
                there.push(HERE, message, 0);
                there.send(|_| unreachable!("nobody sleeps"));
            }
            std::hint::spin_loop();
        }
    });
    let mut arrived = Vec::new();
    criterion.bench_function("awake/mesh", |bencher| {
        bencher.iter(|| {
            here.push(THERE, 7, 0);
            here.send(|_| unreachable!("nobody sleeps"));
            while arrived.is_empty() {
                here.drain(&mut arrived);
                std::hint::spin_loop();
            }
            arrived.clear();
        });
    });
    echo.stop(|| {});
}

/// One word each way: what the cache lines themselves cost.
fn slot(criterion: &mut Criterion) {
    let ways: Arc<[AtomicU64; 2]> = Arc::default();
    let theirs = ways.clone();
    let mut echo = Echo::start(move |is_over| {
        let mut seen = 0;
        while !is_over.load(Ordering::Acquire) {
            let now = theirs[0].load(Ordering::Acquire);
            if now != seen {
                seen = now;
                theirs[1].store(now, Ordering::Release);
            }
            std::hint::spin_loop();
        }
    });
    let mut number = 0;
    criterion.bench_function("awake/slot", |bencher| {
        bencher.iter(|| {
            number += 1;
            ways[0].store(number, Ordering::Release);
            while ways[1].load(Ordering::Acquire) != number {
                std::hint::spin_loop();
            }
        });
    });
    echo.stop(|| {});
}

fn ring() -> Ring {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener: TcpListener = listen(address, ListenOptions::default()).expect("a port");
    Ring::new(RingConfig { buffers: 16, max_sockets: 16, ..RingConfig::default() }, listener).expect("io_uring")
}

/// A turn that may sleep, as a shard's ends.
fn turn(ring: &mut Ring, end: &mut Endpoint<u64>) {
    end.send(|peer| ring.ring(peer.0));
    let may_sleep = end.try_sleep();
    ring.enter(if may_sleep { Wait::Forever } else { Wait::No }).expect("the ring works");
    if may_sleep {
        end.wake_up();
    }
    while ring.completion().is_some() {}
}

/// Both sleep in their rings, and wake each other.
fn asleep(criterion: &mut Criterion) {
    let (mut here, mut there) = pair();
    let mut mine = ring();
    let my_handle = mine.handle().expect("a descriptor");
    let (give, take) = crossbeam_channel::bounded::<RingHandle>(1);
    let mut echo = Echo::start(move |is_over| {
        let mut theirs = ring();
        let handle = theirs.handle().expect("a descriptor");
        theirs.connect(vec![my_handle, handle.clone()]);
        give.send(handle).expect("it waits");
        let mut arrived = Vec::new();
        while !is_over.load(Ordering::Acquire) {
            there.drain(&mut arrived);
            for (_, message) in arrived.drain(..) {
                there.push(HERE, message, 0);
            }
            turn(&mut theirs, &mut there);
        }
    });
    let their_handle = take.recv().expect("it is made");
    mine.connect(vec![mine.handle().expect("a descriptor"), their_handle]);
    let mut arrived = Vec::new();
    criterion.bench_function("asleep/doorbell", |bencher| {
        bencher.iter(|| {
            here.push(THERE, 7, 0);
            while arrived.is_empty() {
                turn(&mut mine, &mut here);
                here.drain(&mut arrived);
            }
            arrived.clear();
        });
    });
    echo.stop(|| {
        here.push(THERE, 0, 0);
        here.send(|peer| mine.ring(peer.0));
        mine.enter(Wait::No).expect("the ring works");
    });
}

criterion_group!(benches, awake, slot, asleep);
criterion_main!(benches);
