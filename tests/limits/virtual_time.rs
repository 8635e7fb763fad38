//! Limits that real sockets on one machine cannot show: a peer that is gone without a word, and what one turn sends.

use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use tidegate::clock::{Moment, WallEpoch};
use tidegate::kernel::{Held, Kernel as _, Simulation, SimulationConfig, Wait};
use tidegate::limits::{Limits, TURN_BYTES_PER_CONNECTION};
use tidegate::protocol::wire::{self, client_frame, server_frame::Body};
use tidegate::shard::{LimitHits, Report, Settings, Shard, ShardCommand};

use super::link::Link;
use super::support::keyed;
use super::tap::Tap;

struct World {
    shard: Shard<Tap>,
    commands: Sender<ShardCommand>,
    now: Moment,
    /// The largest send of one turn to one connection so far.
    largest_send: usize,
}

impl World {
    fn new(change: impl FnOnce(&mut Limits)) -> Self {
        let Settings { mut limits, .. } = Settings::default();
        change(&mut limits);
        let settings = Settings { limits, ..Settings::default() };
        let simulation = SimulationConfig { capacity: 10_000_000, ..SimulationConfig::default() };
        let (commands, received) = bounded(1);
        let tap = Tap::new(Simulation::new(simulation));
        let shard = Shard::alone(tap, settings, WallEpoch::default(), 1, received);
        Self { shard, commands, now: Moment(0), largest_send: 0 }
    }

    fn simulation(&mut self) -> &mut Simulation {
        &mut self.shard.kernel_mut().simulation
    }

    /// What has become due, and a turn that sees it; a millisecond passes.
    fn turn(&mut self) {
        self.shard.kernel_mut().enter(Wait::No).expect("the simulation does not break");
        let wait = self.shard.prepare(self.now);
        let wait = self.shard.hand_over(wait);
        self.shard.submit(wait).expect("the simulation does not break");
        let sends = std::mem::take(&mut self.shard.kernel_mut().sends);
        self.largest_send = sends.values().map(|sent| sent.bytes.len()).fold(self.largest_send, usize::max);
        self.now = self.now + Duration::from_millis(1);
        let now = self.now;
        self.simulation().set_now(now);
    }

    fn report(&self) -> Report {
        self.shard.report()
    }

    fn end(mut self, clients: &mut [Link]) {
        self.commands.send(ShardCommand::Drain(Duration::from_secs(1))).expect("there is room");
        for _ in 0..10_000 {
            if self.shard.is_drained() {
                break;
            }
            self.turn();
            for client in &mut *clients {
                client.read(self.simulation(), usize::MAX);
            }
        }
        assert!(self.shard.is_drained());
        assert_eq!(self.shard.held(), Held::default(), "nothing is left over");
    }
}

#[test]
fn a_peer_whose_tcp_is_silent_is_given_up_and_one_that_answers_late_is_not() {
    let mut world = World::new(|limits| {
        (limits.heartbeat_interval, limits.heartbeat_answer) = (Duration::from_secs(2), Duration::from_secs(1));
    });
    let mut alive = Link::new(world.simulation(), 0);
    let gone = Link::new(world.simulation(), 0);
    let mut late = Link::new(world.simulation(), 0);
    let mut given_up_at = None;
    for ms in 0..20_000 {
        world.turn();
        alive.read(world.simulation(), usize::MAX);
        // Shortly before its answer would be overdue.
        if ms % 900 == 0 {
            late.read(world.simulation(), usize::MAX);
        }
        if ms == 100 {
            gone.go_silent(world.simulation());
        }
        if given_up_at.is_none() && ms > 100 && world.report().gauges.connections == 2 {
            given_up_at = Some(ms);
        }
    }
    assert_eq!(world.report().counters.limit_hits, LimitHits { heartbeat: 1, ..LimitHits::default() });
    let given_up_at = given_up_at.expect("it was given up");
    // The ping comes after a random half to whole interval; then the time for the answer, and a second look two seconds later.
    let look = 1_000 + 2_000;
    assert!((1_000 + look..=2_000 + look + 100).contains(&given_up_at), "after {given_up_at} ms");
    assert_eq!(world.report().gauges.connections, 2, "the others stay");
    world.end(&mut [alive, late]);
}

#[test]
fn a_thousand_peers_that_are_gone_without_a_word_are_closed_within_forty_seconds() {
    const PEERS: usize = 1_000;
    // After the first pings, so that it takes as long as it can.
    const GONE_AT_MS: u64 = 26_000;
    let mut world = World::new(|_| {});
    let mut peers: Vec<_> = (0..PEERS).map(|_| Link::new(world.simulation(), 0)).collect();
    let mut alive = Link::new(world.simulation(), 0);
    for ms in 0..GONE_AT_MS + 40_000 {
        world.turn();
        if ms < GONE_AT_MS && ms % 100 == 0 {
            peers.iter_mut().for_each(|peer| drop(peer.read(world.simulation(), usize::MAX)));
        }
        if ms == GONE_AT_MS {
            assert_eq!(world.report().gauges.connections, PEERS + 1, "all are there when the link is cut");
            peers.iter().for_each(|peer| peer.go_silent(world.simulation()));
        }
        if ms % 100 == 0 {
            alive.read(world.simulation(), usize::MAX);
        }
    }
    let report = world.report();
    assert_eq!(report.gauges.connections, 1, "only the one that answers is left");
    assert_eq!(report.counters.limit_hits, LimitHits { heartbeat: PEERS as u64, ..LimitHits::default() });
    world.end(&mut [alive]);
}

#[test]
fn a_connection_is_sent_so_many_bytes_in_a_turn_and_the_rest_in_the_next() {
    const TOPICS: usize = 40;
    let mut world = World::new(|_| {});
    let mut publisher = Link::new(world.simulation(), 0);
    for topic in 0..TOPICS {
        let records = (0..50).map(|key| keyed(&format!("{key}"), &"v".repeat(1_000))).collect();
        let publish = wire::Publish { topic: format!("t/{topic}"), records, ..wire::Publish::default() };
        publisher.say(world.simulation(), client_frame::Body::Publish(publish));
    }
    for _ in 0..100 {
        world.turn();
        publisher.read(world.simulation(), usize::MAX);
    }
    world.largest_send = 0;
    let mut client = Link::new(world.simulation(), 100_000_000);
    let subscribe = wire::Subscribe { topic: "t/*".into(), ..wire::Subscribe::default() };
    client.say(world.simulation(), client_frame::Body::Subscribe(subscribe));
    let mut complete = 0;
    while complete < TOPICS {
        assert!(world.now < Moment(0) + Duration::from_mins(1), "{complete} topics are complete");
        world.turn();
        for (frame, len) in client.read(world.simulation(), usize::MAX) {
            if let Some(Body::Patch(patch)) = frame.body {
                complete += usize::from(!patch.more);
                let credit = client_frame::Body::Credit(wire::Credit { bytes: len as u64 });
                client.say(world.simulation(), credit);
            }
        }
    }
    // Its window has grown beyond: the budget of a turn is what cuts. WebSocket headers and answers come on top.
    let allowed = TURN_BYTES_PER_CONNECTION - 2_000..=TURN_BYTES_PER_CONNECTION + 1_000;
    assert!(allowed.contains(&world.largest_send), "{} bytes in a turn", world.largest_send);
    assert_eq!(world.report().counters.limit_hits, LimitHits::default());
    world.end(&mut [publisher, client]);
}
