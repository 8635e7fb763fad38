//! The hop between shards, on two threads of which each has a CPU of its own; without two CPUs there is nothing to measure.
//!
//! * `publish_to_flush`: a whole hop. The publisher's shard, the topic's home, takes a publish in; the other one's send to a subscriber is made.
//!   Both are whole shards over simulated sockets, and a turn without a send does not enter the kernel.
//! * `there_and_back/…`: one message each way, so a hop is half of it: through the mesh, its channel alone (crossbeam), a ring for one
//!   producer and one consumer (rtrb), and a bare word (what the cache lines cost). Both sides look all the time.
//! * `there_and_back/asleep`: both sleep in their io_uring, and ring each other's doorbell.
//! * `doorbell/…`: what a sender does for a shard that is awake, and the ring of one that sleeps.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use criterion::{Criterion, criterion_group, criterion_main};
use tidegate::clock::Moment;
use tidegate::ids::ShardId;
use tidegate::kernel::{Kernel, ListenOptions, Ring, RingConfig, RingHandle, Simulation, Wait, listen};
use tidegate::mesh::{self, Endpoint, MeshLimits};
use tidegate::shard::Shard;

#[allow(dead_code, unreachable_pub, reason = "the tests' shards and clients, of which not all is needed")]
#[path = "../tests/turns/world.rs"]
mod world;

const HERE: ShardId = ShardId(0);
const THERE: ShardId = ShardId(1);

/// The other thread, which answers until it is told to stop.
struct Echo {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Keeps this thread on one CPU, and makes sure of it.
fn pin(cpu: CoreId) {
    assert!(core_affinity::set_for_current(cpu), "no permission to use CPU {}", cpu.id);
    let may_use: Vec<_> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|cpu| cpu.id).collect();
    assert_eq!(may_use, [cpu.id], "the thread is on one CPU");
}

/// Two CPUs: asked for once, as a pinned thread sees no other.
fn cpus() -> (CoreId, CoreId) {
    static CPUS: LazyLock<Vec<CoreId>> = LazyLock::new(|| core_affinity::get_core_ids().unwrap_or_default());
    match CPUS[..] {
        [first, .., last] => (first, last),
        _ => panic!("the hop between two shards needs two CPUs"),
    }
}

impl Echo {
    fn start(run: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let told = is_over.clone();
        let (here, there) = cpus();
        pin(here);
        let thread = std::thread::spawn(move || {
            pin(there);
            run(&told);
        });
        Self { is_over, thread: Some(thread) }
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
    criterion.bench_function("there_and_back/mesh", |bencher| {
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

/// The channel that a way of the mesh is made of, without batches, bitmap and flag.
fn channel(criterion: &mut Criterion) {
    let (to_there, at_there) = crossbeam_channel::bounded::<u64>(512);
    let (to_here, at_here) = crossbeam_channel::bounded::<u64>(512);
    let mut echo = Echo::start(move |is_over| {
        while !is_over.load(Ordering::Acquire) {
            if let Ok(message) = at_there.try_recv() {
                to_here.try_send(message).expect("one is on its way");
            }
            std::hint::spin_loop();
        }
    });
    criterion.bench_function("there_and_back/crossbeam", |bencher| {
        bencher.iter(|| {
            to_there.try_send(7).expect("one is on its way");
            while at_here.try_recv().is_err() {
                std::hint::spin_loop();
            }
        });
    });
    echo.stop(|| {});
}

/// A ring that only one thread writes and only one reads.
fn spsc(criterion: &mut Criterion) {
    let (mut to_there, mut at_there) = rtrb::RingBuffer::<u64>::new(512);
    let (mut to_here, mut at_here) = rtrb::RingBuffer::<u64>::new(512);
    let mut echo = Echo::start(move |is_over| {
        while !is_over.load(Ordering::Acquire) {
            if let Ok(message) = at_there.pop() {
                to_here.push(message).expect("one is on its way");
            }
            std::hint::spin_loop();
        }
    });
    criterion.bench_function("there_and_back/rtrb", |bencher| {
        bencher.iter(|| {
            to_there.push(7).expect("one is on its way");
            while at_here.pop().is_err() {
                std::hint::spin_loop();
            }
        });
    });
    echo.stop(|| {});
}

/// From a publish at its topic's home to the send that another shard makes of it.
fn publish_to_flush(criterion: &mut Criterion) {
    use world::{World, keyed};
    let mut world = World::new(2, |settings| settings.limits.messages_per_second = u32::MAX);
    let topic = world.topic("t", 0, 0);
    let (mut publisher, mut subscriber) = (world.hello(0), world.hello(1));
    world.publish(&mut publisher, &topic, vec![keyed("k", "first")]);
    world.subscribe(&mut subscriber, &topic);
    world.settle();
    world.look(&mut subscriber);
    world.settle();
    let (began, already) = (Instant::now(), world.now);
    let now = move || already + began.elapsed();
    let mut there = world.shards.remove(1);
    let made = Arc::<AtomicU64>::default();
    let told = made.clone();
    let mut echo = Echo::start(move |is_over| {
        let mut looks = 0_u64;
        while !is_over.load(Ordering::Acquire) {
            let sends = there.kernel_mut().counters().sends;
            up_to_the_kernel(&mut there, now());
            looks += 1;
            // A simulated kernel that is entered looks at each of its sockets: as seldom as may be.
            if there.kernel_mut().counters().sends == sends && !looks.is_multiple_of(64) {
                continue;
            }
            there.submit(Wait::No).expect("the simulation does not break");
            let bytes = there.kernel_mut().peer_read(subscriber.peer, usize::MAX);
            let patches = patches_in(&bytes, |pong| there.kernel_mut().peer_write(subscriber.peer, pong));
            told.fetch_add(patches, Ordering::Release);
        }
    });
    criterion.bench_function("publish_to_flush", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for round in 0..rounds {
                let before = made.load(Ordering::Acquire);
                world.now = now();
                world.publish(&mut publisher, &topic, vec![keyed("k", &format!("{round:0128}"))]);
                // What it is told of its publishes is not a part of the hop, nor is the arrival of the bytes.
                turn_of(&mut world.shards[0], now());
                let begun = Instant::now();
                up_to_the_kernel(&mut world.shards[0], now());
                while made.load(Ordering::Acquire) == before {
                    std::hint::spin_loop();
                }
                spent += begun.elapsed();
                world.shards[0].submit(Wait::No).expect("the simulation does not break");
                world.now = now();
                world.look(&mut publisher);
                publisher.frames.clear();
            }
            spent
        });
    });
    echo.stop(|| {});
}

fn turn_of(shard: &mut Shard<Simulation>, now: Moment) {
    up_to_the_kernel(shard, now);
    shard.submit(Wait::No).expect("the simulation does not break");
}

/// A turn but for its last part. That would not wait.
fn up_to_the_kernel(shard: &mut Shard<Simulation>, now: Moment) {
    shard.kernel_mut().set_now(now);
    shard.prepare(now);
    shard.hand_over(Wait::No);
}

/// Counts the patches in what a subscriber was sent, and answers its markers.
fn patches_in(mut bytes: &[u8], mut pong: impl FnMut(&[u8])) -> u64 {
    let mut patches = 0;
    while let [opcode, len, rest @ ..] = bytes {
        let (len, rest) = match len {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            len => (usize::from(*len), rest),
        };
        match opcode & 15 {
            9 => pong(&[&[0x8a, 0x80 | len as u8, 0, 0, 0, 0], &rest[..len]].concat()),
            _ => patches += 1,
        }
        bytes = &rest[len..];
    }
    patches
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
    criterion.bench_function("there_and_back/word", |bencher| {
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
    criterion.bench_function("there_and_back/asleep", |bencher| {
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

/// What a sender does: for a shard that is awake, and the system call that wakes one.
fn doorbell(criterion: &mut Criterion) {
    let (mut here, mut there) = pair();
    let mut arrived = Vec::new();
    criterion.bench_function("doorbell/awake", |bencher| {
        bencher.iter(|| {
            here.push(THERE, 7, 0);
            here.send(|_| unreachable!("nobody sleeps"));
            there.drain(&mut arrived);
            arrived.clear();
        });
    });
    let (mut mine, mut theirs) = (ring(), ring());
    let handles = vec![mine.handle().expect("a descriptor"), theirs.handle().expect("a descriptor")];
    mine.connect(handles);
    criterion.bench_function("doorbell/ring", |bencher| {
        bencher.iter(|| {
            mine.ring(THERE.0);
            mine.enter(Wait::No).expect("the ring works");
            theirs.enter(Wait::No).expect("the ring works");
            while mine.completion().is_some() || theirs.completion().is_some() {}
        });
    });
}

criterion_group!(benches, publish_to_flush, awake, channel, spsc, slot, asleep, doorbell);
criterion_main!(benches);
