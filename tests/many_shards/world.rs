//! The shards of one engine, their clients, and the order in which things happen.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tidegate::clock::Moment;
use tidegate::kernel::{Held as KernelHeld, PeerId, Simulation, SimulationConfig, Wait};
use tidegate::mesh;
use tidegate::protocol::wire;
use tidegate::shard::{Settings, ShardCommand};

use crate::client::{Client, Link};
use crate::follow::Deed;
use crate::seeds::Weather;
use crate::station::{Interrupted, State, Station, TURN};
use crate::stream::Models;
use crate::tap::Change;

/// A publish, however often it was sent.
#[derive(Debug)]
pub struct Publish {
    pub body: wire::Publish,
    /// The topic that it was last applied to (0: none yet), and its last record's offset there.
    pub applied_to: u32,
    pub offset: u64,
    pub was_refused: bool,
}

pub struct World {
    pub stations: Vec<Station>,
    pub weather: Weather,
    /// What each topic's home has done, in order.
    pub deeds: BTreeMap<u32, Vec<Deed>>,
    /// Doorbells on their way: when they arrive, and at which shard.
    bells: Vec<(Moment, usize)>,
    pub clients: Vec<Client>,
    pub links: Vec<Link>,
    /// The shard that each link leads to.
    pub shard_of: Vec<usize>,
    by_address: BTreeMap<std::net::SocketAddr, usize>,
    pub publishes: Vec<Publish>,
    /// Which publish a request was.
    pub requests: BTreeMap<u64, usize>,
    pub next_request: u64,
    /// The last offset of each topic that a client saw acknowledged.
    pub acknowledged: BTreeMap<u32, u64>,
    /// Within so long an answer comes when all is calm: patches of a few records may be before it, but nobody waits for a
    /// doorbell that was not rung.
    pub prompt: Duration,
    pub random: SmallRng,
    pub now: Moment,
    pub traces: bool,
    /// Some class's limit on keys may be reached.
    pub may_refuse: bool,
    /// Connections may end without a word.
    pub is_deadly: bool,
}

impl World {
    pub fn new(config: SimulationConfig, settings: &Settings, weather: Weather, traces: bool) -> Self {
        let shards = settings.homes.shards;
        let meshes = mesh::connect(shards, weather.mesh);
        let stations = (0..).zip(meshes).map(|(at, mesh)| {
            let config = SimulationConfig { seed: config.seed.wrapping_mul(31).wrapping_add(at), ..config };
            Station::new(config, settings, mesh)
        });
        Self {
            stations: stations.collect(),
            weather,
            deeds: BTreeMap::new(),
            bells: Vec::new(),
            clients: Vec::new(),
            links: Vec::new(),
            shard_of: Vec::new(),
            by_address: BTreeMap::new(),
            publishes: Vec::new(),
            requests: BTreeMap::new(),
            next_request: 1,
            acknowledged: BTreeMap::new(),
            prompt: Duration::from_millis(if config.capacity < 10_000 { 8_000 } else { 300 }),
            random: SmallRng::seed_from_u64(config.seed),
            now: Moment::default(),
            traces,
            may_refuse: settings.classes.iter().any(|class| class.keys < 100),
            is_deadly: config.faults.reset > 0 || config.faults.death > 0,
        }
    }

    /// Where a link leads to; its client does something there.
    pub fn simulation_of(&mut self, link: usize) -> &mut Simulation {
        let station = &mut self.stations[self.shard_of[link]];
        station.is_touched = true;
        station.simulation()
    }

    /// ... to look at it only. What arrives by that may be the shard's.
    pub fn watched(&mut self, link: usize) -> &mut Simulation {
        let station = &mut self.stations[self.shard_of[link]];
        station.is_touched |= station.simulation().next_event() == Some(self.now);
        station.simulation()
    }

    pub fn models_of(&self, link: usize) -> &Models {
        &self.stations[self.shard_of[link]].models
    }

    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.traces {
            eprintln!("{:>10.3} ms  {}", self.now.0 as f64 / 1e6, text());
        }
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.random.random_range(0..limit)
    }

    pub fn chance(&mut self, per_mille: usize) -> bool {
        self.below(1_000) < per_mille
    }

    /// Adds a connection to the world; the kernel gives it to any shard.
    pub fn link(&mut self, link: impl FnOnce(PeerId) -> Link) -> usize {
        let number = u32::try_from(self.links.len()).expect("few links");
        let [_, a, b, c] = number.to_be_bytes();
        let address = std::net::SocketAddr::from(([10, a, b, c], 40_000));
        let shard = self.below(self.stations.len());
        let peer = self.stations[shard].simulation().connect_from(address);
        self.stations[shard].is_touched = true;
        self.links.push(link(peer));
        self.shard_of.push(shard);
        let at = self.links.len() - 1;
        self.by_address.insert(address, at);
        self.say(|| format!("link {at} leads to shard {shard}"));
        at
    }

    /// All that happens at this moment, or the next moment at which something does, but not beyond `until`.
    pub fn step(&mut self, client_wants: Moment, until: Moment) {
        let now = self.now;
        for (_, shard) in self.bells.extract_if(.., |(due, _)| *due <= now) {
            self.stations[shard].simulation().waker().wake();
        }
        let due: Vec<usize> = (0..self.stations.len()).filter(|at| self.stations[*at].due() <= now).collect();
        let mut has_acted = false;
        if !due.is_empty() {
            let at = due[self.below(due.len())];
            let state = self.stations[at].state;
            if let Some(interrupted) = self.stations[at].interrupted.take() {
                self.end_turn(at, interrupted);
                has_acted = true;
            } else {
                match state {
                    State::Drowsy(until) => {
                        self.stations[at].fall_asleep(until);
                        has_acted = true;
                    }
                    _ if self.stations[at].wakes(now) => {
                        self.turn(at);
                        has_acted = true;
                    }
                    _ => {}
                }
            }
        }
        let bell = self.bells.iter().map(|(due, _)| *due).min().unwrap_or(Moment::NEVER);
        let next = self.stations.iter_mut().map(Station::due).min().unwrap_or(Moment::NEVER);
        let soonest = if has_acted { now + TURN } else { now };
        let next = next.min(bell).min(client_wants).min(until).max(soonest);
        self.now = next;
        self.stations.iter_mut().for_each(|station| station.simulation().set_now(next));
    }

    /// One turn of a shard.
    fn turn(&mut self, at: usize) {
        let now = self.now;
        let station = &mut self.stations[at];
        station.models.now = now;
        station.models.turn += 1;
        station.shard.wake_up();
        station.shard.kernel_mut().reported = 0;
        let wait = station.shard.prepare(now);
        let reported = station.shard.kernel_mut().reported;
        self.follow(at, true);
        let interrupted = Interrupted { wait, reported };
        if self.chance(self.weather.interruptions_per_mille) {
            let pause = Duration::from_micros(1 + self.below(30_000) as u64);
            self.stations[at].stalled_until = now + pause;
            self.stations[at].interrupted = Some(interrupted);
            self.say(|| format!("shard {at} is interrupted for {pause:?}"));
        } else {
            self.end_turn(at, interrupted);
        }
    }

    /// ... what others hear of it, and see.
    fn end_turn(&mut self, at: usize, Interrupted { wait, reported }: Interrupted) {
        let now = self.now;
        let wait = self.stations[at].shard.hand_over(wait);
        self.ring(at);
        self.stations[at].shard.submit(Wait::No).expect("the simulation does not break");
        let sends = self.look(at);
        self.follow(at, false);
        let station = &mut self.stations[at];
        let has_inbox = station.shard.kernel_mut().reported > reported;
        station.rest(wait, has_inbox, reported > 0 || sends > 0, now);
        if station.shard.is_drained() {
            self.end(at);
        } else if self.chance(self.weather.stalls_per_mille) {
            let pause = Duration::from_micros(1 + self.below(800_000) as u64);
            self.stations[at].stalled_until = now + pause;
            self.say(|| format!("shard {at} stalls for {pause:?}"));
        }
    }

    /// Doorbells travel at once, or come late.
    fn ring(&mut self, at: usize) {
        for peer in self.stations[at].simulation().take_rung() {
            let late = if self.chance(self.weather.late_bells_per_mille) { self.below(20_000) } else { 0 };
            self.bells.push((self.now + Duration::from_micros(late as u64), usize::from(peer)));
        }
    }

    /// Looks at everything that a shard sent.
    fn look(&mut self, at: usize) -> usize {
        let station = &mut self.stations[at];
        let tap = station.shard.kernel_mut();
        let (changes, sends) = (std::mem::take(&mut tap.changes), std::mem::take(&mut tap.sends));
        let mut released = Vec::new();
        for change in changes {
            if self.traces {
                eprintln!("{:>10.3} ms  shard {at}: {change:?}", self.now.0 as f64 / 1e6);
            }
            match change {
                Change::Accepted(socket, address) => _ = station.by_socket.insert(socket, self.by_address[&address]),
                Change::Released(socket) => released.push(socket),
            }
        }
        let count = sends.len();
        for (socket, sent) in sends {
            let link = station.by_socket[&socket];
            self.links[link].stream.sent(&sent, &mut station.models);
        }
        for socket in released {
            station.by_socket.remove(&socket);
        }
        for link in station.by_socket.values() {
            self.links[*link].stream.end_turn(&station.models);
        }
        count
    }

    /// Asks the engine to end, lets everyone read on, and insists that nothing is left.
    pub fn drain(&mut self, mut step: impl FnMut(&mut Self)) {
        for station in &mut self.stations {
            station.commands.send(ShardCommand::Drain(Duration::from_secs(2))).expect("there is room");
            station.simulation().waker().wake();
        }
        let until = self.now + Duration::from_secs(8);
        while self.stations.iter().any(|station| station.state != State::Ended) && self.now < until {
            step(self);
        }
        assert!(self.stations.iter().all(|station| station.state == State::Ended), "a shard does not end");
    }

    /// A shard is drained: it holds nothing, and has accounted for everything.
    fn end(&mut self, at: usize) {
        let station = &mut self.stations[at];
        station.state = State::Ended;
        assert_eq!(station.shard.held(), KernelHeld::default(), "the kernel of shard {at} holds nothing");
        let report = station.shard.report();
        assert_eq!((report.gauges.connections, report.gauges.subscribers), (0, 0), "shard {at}");
        assert_eq!(report.counters.accepted, report.counters.closed, "whoever came to shard {at} is gone");
        for (class, ledger) in report.counters.classes.iter().zip(&station.models.ledgers) {
            assert_eq!(&class.ledger, ledger, "the ledger of shard {at}");
            let sum =
                ledger.delivered + ledger.conflated + ledger.filtered + ledger.expired + ledger.overrun + ledger.lost;
            assert_eq!(ledger.due, sum);
        }
    }
}
