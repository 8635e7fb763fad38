//! What two shards may count on.

use std::sync::mpsc;
use std::thread;

use super::*;

const LIMITS: MeshLimits = MeshLimits {
    batches: 4,
    patch_bytes: 100,
    publish_bytes: 100,
    question_bytes: 100,
    transfer_bytes: 0,
    catch_up_bytes: 0,
};

fn pair() -> [Endpoint<u32>; 2] {
    connect(2, LIMITS).try_into().expect("two")
}

fn drained(endpoint: &mut Endpoint<u32>) -> Vec<u32> {
    let mut into = Vec::new();
    endpoint.drain(&mut into);
    into.into_iter().map(|(_, message)| message).collect()
}

fn no_ring(_: ShardId) {
    panic!("nobody sleeps");
}

#[test]
fn a_turns_messages_are_one_batch_and_keep_their_order() {
    let [mut a, mut b] = pair();
    for message in 0..10 {
        a.push(ShardId(1), message, 0);
    }
    assert!(a.has_outgoing() && drained(&mut b).is_empty());
    a.send(no_ring);
    assert!(!a.has_outgoing());
    assert_eq!(b.incoming[0].as_ref().expect("a way").channel.len(), 1);
    assert_eq!(drained(&mut b), (0..10).collect::<Vec<_>>());
    assert!(drained(&mut b).is_empty());
}

#[test]
fn what_finds_no_room_waits_and_goes_first() {
    let [mut a, mut b] = pair();
    for message in 0..6 {
        a.push(ShardId(1), message, 0);
        a.send(no_ring);
        assert_eq!(a.is_backed_up(ShardId(1)), message >= 4);
    }
    assert_eq!(drained(&mut b), [0, 1, 2, 3]);
    a.push(ShardId(1), 6, 0);
    a.send(no_ring);
    assert!(!a.is_backed_up(ShardId(1)));
    assert_eq!(drained(&mut b), [4, 5, 6]);
}

#[test]
fn publishes_have_so_many_bytes() {
    let [mut a, mut b] = pair();
    a.push_publish(ShardId(1), 0, 99);
    a.send(no_ring);
    assert!(!a.is_backed_up(ShardId(1)));
    a.push_publish(ShardId(1), 1, 1);
    assert!(a.is_backed_up(ShardId(1)) && a.admits_patch(ShardId(1)), "patches have room of their own");
    a.send(no_ring);
    assert!(a.is_backed_up(ShardId(1)), "or on the way");
    assert_eq!((drained(&mut b), a.underway_bytes()), (vec![0, 1], 0));
    assert!(!a.is_backed_up(ShardId(1)));
}

#[test]
fn patches_fill_half_of_a_channel_and_so_many_bytes() {
    let [mut a, mut b] = pair();
    assert!(a.admits_patch(ShardId(1)));
    a.push(ShardId(1), 0, 100);
    assert!(!a.admits_patch(ShardId(1)), "too many bytes, though they are still here");
    a.send(no_ring);
    assert!(!a.admits_patch(ShardId(1)), "or on the way");
    drained(&mut b);
    assert!(a.admits_patch(ShardId(1)));
    for _ in 0..2 {
        a.push(ShardId(1), 0, 0);
        a.send(no_ring);
    }
    assert!(!a.admits_patch(ShardId(1)), "half of the batches");
    assert_eq!(drained(&mut b).len(), 2);
    assert!(a.admits_patch(ShardId(1)));
}

#[test]
fn questions_have_so_many_bytes() {
    let [mut a, mut b] = pair();
    a.push_question(ShardId(1), 0, 99);
    assert!(!a.is_overasked(ShardId(1)));
    a.push_question(ShardId(1), 1, 1);
    a.send(no_ring);
    assert!(a.is_overasked(ShardId(1)) && !a.is_backed_up(ShardId(1)) && a.admits_patch(ShardId(1)));
    assert_eq!(a.underway_bytes(), 100);
    assert_eq!(drained(&mut b), [0, 1]);
    assert!(!a.is_overasked(ShardId(1)) && a.underway_bytes() == 0);
}

#[test]
fn how_long_something_has_waited_begins_anew_with_whatever_is_taken() {
    let [mut a, mut b] = pair();
    let at = |seconds| Moment::default() + Duration::from_secs(seconds);
    let waited = |a: &mut Endpoint<u32>, seconds| {
        a.set_now(at(seconds));
        a.unread_for(ShardId(1)).as_secs()
    };
    assert_eq!(waited(&mut a, 5), 0, "nothing was sent");
    for seconds in [10, 13, 14] {
        a.push(ShardId(1), 0, 0);
        a.set_now(at(seconds));
        a.send(no_ring);
    }
    assert_eq!(waited(&mut a, 17), 7);
    // Something is taken, and more comes before anybody looks.
    assert_eq!(drained(&mut b).len(), 3);
    a.push(ShardId(1), 0, 0);
    a.set_now(at(20));
    a.send(no_ring);
    assert_eq!(waited(&mut a, 21), 1);
    drained(&mut b);
    assert_eq!(waited(&mut a, 30), 0);
    a.push(ShardId(1), 0, 0);
    a.set_now(at(40));
    a.send(no_ring);
    assert_eq!((waited(&mut a, 40), waited(&mut a, 43)), (0, 3));
}

#[test]
fn only_a_sleeper_is_rung_and_only_once() {
    let [mut a, b] = pair();
    assert!(b.try_sleep());
    let mut rung = Vec::new();
    for _ in 0..2 {
        a.push(ShardId(1), 0, 0);
        a.send(|peer| rung.push(peer));
    }
    assert_eq!(rung, [ShardId(1)]);
    assert!(!b.try_sleep(), "there is something to be looked at");
    a.push(ShardId(1), 0, 0);
    a.send(|_| panic!("it did not fall asleep"));
    assert!(a.try_sleep(), "nobody sent anything to this one");
    a.wake_up();
}

#[test]
fn what_is_for_a_shard_that_ended_is_dropped() {
    let [mut a, b] = pair();
    drop(b);
    for _ in 0..10 {
        a.push(ShardId(1), 0, 60);
        a.send(no_ring);
    }
    assert!(!a.has_outgoing() && a.admits_patch(ShardId(1)));
}

/// Threads that sleep as shards do, woken by nothing but the doorbell: none sleeps for ever.
#[test]
fn no_message_is_slept_through() {
    const COUNT: u32 = 2_000;
    let endpoints =
        connect::<u32>(3, MeshLimits { batches: 16, patch_bytes: usize::MAX, publish_bytes: usize::MAX, ..LIMITS });
    let bells: Vec<_> = endpoints.iter().map(|_| mpsc::channel::<()>()).collect();
    let (rings, waits): (Vec<_>, Vec<_>) = bells.into_iter().unzip();
    thread::scope(|scope| {
        for (mut endpoint, wait) in endpoints.into_iter().zip(waits) {
            let rings = rings.clone();
            scope.spawn(move || {
                let (mut next, mut said) = ([0; 3], 0);
                let me = endpoint.shard();
                let mut arrived = Vec::new();
                loop {
                    endpoint.drain(&mut arrived);
                    for (from, message) in arrived.drain(..) {
                        assert_eq!(message, next[usize::from(from.0)], "in order, each once");
                        next[usize::from(from.0)] += 1;
                    }
                    if said < COUNT && !endpoint.has_outgoing() {
                        (0..3).map(ShardId).filter(|to| *to != me).for_each(|to| endpoint.push(to, said, 0));
                        said += 1;
                    }
                    endpoint.send(|peer| rings[usize::from(peer.0)].send(()).expect("the scope holds it"));
                    let is_done = said == COUNT && !endpoint.has_outgoing();
                    if is_done && (0..3).all(|from| from == usize::from(me.0) || next[from] == COUNT) {
                        break;
                    }
                    // With nothing of its own to say it waits for the others alone.
                    if is_done && endpoint.try_sleep() {
                        wait.recv().expect("somebody rings");
                        endpoint.wake_up();
                    }
                }
            });
        }
    });
}
