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
use super::support::raw::{BINARY, FIN, masked};
use super::tap::Tap;

pub(super) struct World {
    shard: Shard<Tap>,
    commands: Sender<ShardCommand>,
    pub(super) now: Moment,
    /// The largest send of one turn to one connection so far.
    largest_send: usize,
}

impl World {
    pub(super) fn new(change: impl FnOnce(&mut Limits)) -> Self {
        let Settings { mut limits, .. } = Settings::default();
        change(&mut limits);
        let settings = Settings { limits, ..Settings::default() };
        let simulation = SimulationConfig { capacity: 10_000_000, ..SimulationConfig::default() };
        let (commands, received) = bounded(1);
        let tap = Tap::new(Simulation::new(simulation));
        let shard = Shard::alone(tap, settings, WallEpoch::default(), 1, received);
        Self { shard, commands, now: Moment(0), largest_send: 0 }
    }

    pub(super) fn simulation(&mut self) -> &mut Simulation {
        &mut self.shard.kernel_mut().simulation
    }

    /// What has become due, and a turn that sees it; a millisecond passes.
    pub(super) fn turn(&mut self) {
        self.turn_of(Duration::from_millis(1));
    }

    /// ... or so long.
    fn turn_of(&mut self, pause: Duration) {
        let _ = self.turn_but_for_the_clock();
        self.pass(pause);
    }

    /// A turn, and as long as it would have waited.
    fn turn_and_wait(&mut self) {
        let wait = match self.turn_but_for_the_clock() {
            Wait::No => Duration::from_micros(5),
            Wait::AtMost(wait) => wait,
            Wait::Forever => Duration::MAX,
        };
        let event = self.simulation().next_event().map_or(Duration::MAX, |at| at.since(self.now));
        self.pass(wait.min(event).max(Duration::from_micros(5)));
    }

    fn turn_but_for_the_clock(&mut self) -> Wait {
        self.shard.kernel_mut().enter(Wait::No).expect("the simulation does not break");
        let wait = self.shard.prepare(self.now);
        let wait = self.shard.hand_over(wait);
        self.shard.submit(wait).expect("the simulation does not break");
        let sends = std::mem::take(&mut self.shard.kernel_mut().sends);
        self.largest_send = sends.values().map(|sent| sent.bytes.len()).fold(self.largest_send, usize::max);
        wait
    }

    fn pass(&mut self, pause: Duration) {
        self.now = self.now + pause;
        let now = self.now;
        self.simulation().set_now(now);
    }

    pub(super) fn report(&self) -> Report {
        self.shard.report()
    }

    pub(super) fn end(mut self, clients: &mut [Link]) {
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
    // It waits for the next patch, too, so that it is looked at for more than one reason.
    let subscribe = wire::Subscribe { topic: "t".into(), max_hz: 2, ..wire::Subscribe::default() };
    gone.say(world.simulation(), client_frame::Body::Subscribe(subscribe));
    let mut given_up_at = None;
    for ms in 0..20_000 {
        world.turn();
        if ms % 30 == 10 {
            let records = vec![keyed("k", "v")];
            let publish = wire::Publish { topic: "t".into(), records, ..wire::Publish::default() };
            alive.say(world.simulation(), client_frame::Body::Publish(publish));
        }
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

/// When each of these connections was closed, in milliseconds, and with which code; they read everything at once.
fn closed_at<const N: usize>(
    world: &mut World,
    links: &mut [Link; N],
    until: Duration,
    pause: Duration,
) -> [(u64, u16); N] {
    let mut closed = [(0, 0); N];
    let end = Moment(0) + until;
    while world.now < end && closed.iter().any(|(at, _)| *at == 0) {
        world.turn_of(pause);
        for (link, closed) in links.iter_mut().zip(&mut closed) {
            link.read(world.simulation(), usize::MAX);
            if let (Some(code), 0) = (link.close_code, closed.0) {
                *closed = (world.now.0 / 1_000_000, code);
            }
        }
    }
    closed
}

#[test]
fn the_deadlines_of_a_connection_are_those_that_are_promised() {
    // The defaults. What they are counted from arrives after a millisecond, and what is said then as long after.
    let mut world = World::new(|_| {});
    let silent = world.simulation().connect();
    let speechless = Link::upgrade(world.simulation());
    let endless = Link::new(world.simulation(), 0);
    endless.write(world.simulation(), &masked(FIN | BINARY, &[0; 100])[..50]);
    let mut links = [speechless, endless];
    while world.simulation().peer_unread(silent) == 0 {
        assert!(world.now < Moment(0) + Duration::from_secs(6), "a head is waited for");
        world.turn();
        links.iter_mut().for_each(|link| drop(link.read(world.simulation(), usize::MAX)));
    }
    let refused_at = world.now.0 / 1_000_000;
    assert!((5_000..5_010).contains(&refused_at), "a head is waited for 5 s, not {refused_at} ms");
    assert!(world.simulation().peer_read(silent, usize::MAX).starts_with(b"HTTP/1.1 408 "));
    world.simulation().peer_finish(silent);

    let closed = closed_at(&mut world, &mut links, Duration::from_secs(12), Duration::from_millis(1));
    assert!((5_000..5_010).contains(&closed[0].0) && closed[0].1 == 4002, "Hello is waited for 5 s: {closed:?}");
    assert!((10_000..10_010).contains(&closed[1].0) && closed[1].1 == 1002, "a message for 10 s: {closed:?}");
    let hits = LimitHits { head_time: 1, hello_time: 1, message_time: 1, ..LimitHits::default() };
    assert_eq!(world.report().counters.limit_hits, hits);
    world.end(&mut links);
}

#[test]
fn a_session_without_subscriptions_ends_after_five_minutes_of_silence() {
    let mut world = World::new(|_| {});
    let mut links = [Link::new(world.simulation(), 0)];
    // It answers pings all the time, which is not saying something.
    let closed = closed_at(&mut world, &mut links, Duration::from_mins(6), Duration::from_millis(5));
    assert!((300_000..300_020).contains(&closed[0].0) && closed[0].1 == 1000, "{closed:?}");
    assert_eq!(world.report().counters.limit_hits, LimitHits { idle_timeout: 1, ..LimitHits::default() });
    world.end(&mut links);
}

#[test]
fn so_many_bytes_of_answers_wait_and_one_more_answer_pauses_reading() {
    // More than the answers to the upgrade and to Hello.
    const ANSWERS: usize = 100;
    let ping = || client_frame::Body::Ping(wire::Ping { client_time_us: 7 });
    // How long an answer is, which is the same for all: measured on a client that reads.
    let mut world = World::new(|_| {});
    let mut client = Link::new(world.simulation(), 0);
    (0..20).for_each(|_| world.turn());
    client.read(world.simulation(), usize::MAX);
    let before = world.report().counters.bytes_sent;
    client.say(world.simulation(), ping());
    (0..20).for_each(|_| world.turn());
    let answer = usize::try_from(world.report().counters.bytes_sent - before).expect("a few bytes");
    client.read(world.simulation(), usize::MAX);
    world.end(&mut [client]);

    let mut world = World::new(|limits| limits.answer_bytes = ANSWERS * answer);
    let mut client = Link::new(world.simulation(), 0);
    (0..20).for_each(|_| world.turn());
    client.read(world.simulation(), usize::MAX);
    (0..20).for_each(|_| world.turn());
    client.set_capacity(world.simulation(), 0);
    for said in 1..=ANSWERS + 3 {
        client.say(world.simulation(), ping());
        (0..5).for_each(|_| world.turn());
        let counters = world.report().counters;
        // The first answer beyond the limit is made; the message behind it is not read any more.
        assert_eq!(counters.frames_received as usize, 1 + said.min(ANSWERS + 1), "after {said} pings");
        assert_eq!(counters.limit_hits.answer_bytes, u64::from(said > ANSWERS), "after {said} pings");
    }
    client.set_capacity(world.simulation(), 100_000);
    client.read(world.simulation(), usize::MAX);
    let mut answers = 0;
    while answers < ANSWERS + 3 {
        assert!(world.now < Moment(0) + Duration::from_secs(10), "{answers} answers came");
        world.turn();
        answers += client.read(world.simulation(), usize::MAX).len();
    }
    assert_eq!(world.report().counters.limit_hits, LimitHits { answer_bytes: 1, ..LimitHits::default() });
    world.end(&mut [client]);
}

#[test]
fn a_session_that_reads_no_answers_is_kept_as_long_as_any_that_reads_nothing() {
    let mut world = World::new(|limits| limits.answer_bytes = 100);
    let mut client = Link::new(world.simulation(), 0);
    (0..20).for_each(|_| world.turn());
    client.read(world.simulation(), usize::MAX);
    client.set_capacity(world.simulation(), 0);
    for _ in 0..20 {
        client.say(world.simulation(), client_frame::Body::Ping(wire::Ping { client_time_us: 7 }));
    }
    let begun = world.now;
    let mut turns = 0;
    while world.report().counters.limit_hits.stall_timeout == 0 {
        assert!(world.now < begun + Duration::from_mins(6), "it is kept for five minutes");
        world.turn_and_wait();
        turns += 1;
    }
    assert!(turns < 1_000, "{turns} turns in which nothing happened");
    assert!(world.report().counters.limit_hits.answer_bytes > 0, "or the test shows nothing");
    client.set_capacity(world.simulation(), 100_000);
    world.end(&mut [client]);
}

#[test]
fn a_client_that_answered_markers_is_not_taken_for_one_whose_pongs_do_not_come_through() {
    let mut world = World::new(|_| {});
    let (mut publisher, mut client) = (Link::new(world.simulation(), 0), Link::new(world.simulation(), 0));
    let subscribe = wire::Subscribe { topic: "t".into(), ..wire::Subscribe::default() };
    client.say(world.simulation(), client_frame::Body::Subscribe(subscribe));
    for ms in 0..20_000 {
        world.turn();
        publisher.read(world.simulation(), usize::MAX);
        if ms % 20 == 0 {
            let records = vec![keyed("k", &"v".repeat(1_000))];
            let publish = wire::Publish { topic: "t".into(), records, ..wire::Publish::default() };
            publisher.say(world.simulation(), client_frame::Body::Publish(publish));
        }
        // For fifteen seconds it reads nothing, and has something to say all the same.
        if !(4_000..=19_000).contains(&ms) {
            client.read(world.simulation(), usize::MAX);
        } else if ms % 1_000 == 0 {
            client.say(world.simulation(), client_frame::Body::Ping(wire::Ping { client_time_us: 7 }));
        }
        assert_eq!(world.report().gauges.unmarked, 0, "after {ms} ms");
    }
    assert!(world.report().counters.markers_confirmed > 0, "or the test shows nothing");
    world.end(&mut [publisher, client]);
}
