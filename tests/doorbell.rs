//! Every interleaving of a sleeper and two senders at the doorbell: nobody sleeps while something waits.
//!
//! The code is the engine's own; only its atomics are those of a model checker, which also reorders what they allow to be
//! reordered.

#![allow(dead_code, unreachable_pub, reason = "of the doorbell's code each model uses its part")]

use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::sync::{Condvar, Mutex};
use loom::thread;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
}

#[path = "../src/mesh/doorbell.rs"]
mod doorbell;

use doorbell::Doorbell;
use sync::Ordering;

struct Shared {
    doorbell: Doorbell,
    /// Stands for the channels: how many messages each sender has put into its own. Read by plain relaxed loads, which may be
    /// stale (an exchange never is), so that only the doorbell makes them visible.
    sent: Vec<AtomicUsize>,
    bell: Bell,
}

/// Stands for the ring that a shard sleeps in.
struct Bell {
    is_rung: Mutex<bool>,
    rung: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.is_rung.lock().expect("nobody panics") = true;
        self.rung.notify_one();
    }

    fn wait(&self) {
        let mut is_rung = self.is_rung.lock().expect("nobody panics");
        while !*is_rung {
            is_rung = self.rung.wait(is_rung).expect("nobody panics");
        }
        *is_rung = false;
    }
}

fn send(shared: &Shared, sender: usize) {
    shared.sent[sender].fetch_add(1, Ordering::Relaxed);
    if shared.doorbell.announce(sender) {
        shared.bell.ring();
    }
}

/// Receives until it has seen `count` messages; a wake-up that is lost is a deadlock, which the checker finds.
fn receive(shared: &Shared, count: usize) {
    let mut seen = vec![0; shared.sent.len()];
    loop {
        shared.doorbell.take_senders(|sender| seen[sender] = shared.sent[sender].load(Ordering::Relaxed));
        if seen.iter().sum::<usize>() == count {
            break;
        }
        if shared.doorbell.try_sleep() {
            shared.bell.wait();
            shared.doorbell.wake_up();
        }
    }
}

fn model(senders: usize, each: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(move || {
        let shared = Arc::new(Shared {
            doorbell: Doorbell::new(senders + 1),
            sent: (0..senders).map(|_| AtomicUsize::new(0)).collect(),
            bell: Bell { is_rung: Mutex::new(false), rung: Condvar::new() },
        });
        let threads: Vec<_> = (0..senders)
            .map(|sender| {
                let shared = shared.clone();
                thread::spawn(move || (0..each).for_each(|_| send(&shared, sender)))
            })
            .collect();
        receive(&shared, senders * each);
        threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
    });
}

#[test]
fn a_sender_and_a_sleeper_do_not_miss_each_other() {
    model(1, 2);
}

#[test]
fn two_senders_and_a_sleeper_do_not_miss_each_other() {
    model(2, 1);
}
