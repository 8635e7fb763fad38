//! Descriptors that run out, and come back without a word.

use std::time::Duration;

use tidegate::kernel::Faults;
use tidegate::protocol::wire::server_frame::Body;

use crate::world::World;

const STEP: Duration = Duration::from_millis(1);

/// So much time passes, with a turn in each step, unless something is so before; how much it was.
fn pass(world: &mut World, limit: Duration, is_so: impl Fn(&mut World) -> bool) -> Duration {
    let begun = world.now;
    while world.now.since(begun) < limit && !is_so(world) {
        world.now = world.now + STEP;
        world.turn(0);
    }
    world.now.since(begun)
}

#[test]
fn accepting_goes_on_within_a_second_of_the_first_free_descriptor() {
    let mut world = World::new(1, |_| {});
    let hits = |world: &mut World| world.shards[0].report().counters.limit_hits.descriptors;
    let accepted = |world: &mut World| world.shards[0].report().counters.accepted;
    world.shards[0].kernel_mut().set_faults(Faults { accept_shortage: 1_000, ..Faults::default() });
    let mut client = world.connect(0);
    pass(&mut world, STEP * 10, |world| hits(world) > 0);
    assert_eq!(hits(&mut world), 1, "there is none");
    // It tries twice a second, and does not spin.
    pass(&mut world, Duration::from_secs(10), |_| false);
    let tries = hits(&mut world) - 1;
    assert!((19..=20).contains(&tries), "{tries} in ten seconds");
    // Others held what was missing, so nothing that closes here says that it is back. The worst moment: just behind a look.
    pass(&mut world, Duration::from_secs(1), |world| hits(world) > tries + 1);
    assert_eq!((hits(&mut world), accepted(&mut world)), (tries + 2, 0));
    world.shards[0].kernel_mut().set_faults(Faults::default());
    let waited = pass(&mut world, Duration::from_secs(1), |world| accepted(world) > 0);
    assert_eq!(accepted(&mut world), 1, "after {waited:?}");
    world.show(&mut client, bytes::Bytes::new());
    assert!(matches!(world.body(&mut client), Body::Welcome(_)), "it is served");
    world.end();
}
