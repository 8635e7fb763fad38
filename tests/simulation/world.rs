//! One shard in virtual time, the clients around it, and the judge between them.

use std::collections::BTreeMap;
use std::time::Duration;

use crossbeam_channel::Sender;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tidegate::clock::{Moment, WallEpoch};
use tidegate::kernel::{Held as KernelHeld, PeerId, Simulation, SimulationConfig, SocketId, Wait};
use tidegate::protocol::wire;
use tidegate::shard::{Ledger, Settings, Shard, ShardCommand};

use crate::client::{Client, Link};
use crate::model::Topic;
use crate::stream::Models;
use crate::tap::{Change, Tap};

/// A turn takes at least so long, so that time passes whatever the shard does.
const TURN: Duration = Duration::from_micros(5);
/// So many turns without a reason are a busy loop.
const IDLE_TURNS: u32 = 200;

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
    pub shard: Shard<Tap>,
    commands: Sender<ShardCommand>,
    pub models: Models,
    pub clients: Vec<Client>,
    pub links: Vec<Link>,
    by_peer: BTreeMap<PeerId, usize>,
    by_address: BTreeMap<std::net::SocketAddr, usize>,
    by_socket: BTreeMap<SocketId, usize>,
    pub publishes: Vec<Publish>,
    /// Which publish a request was.
    pub requests: BTreeMap<u64, usize>,
    pub next_request: u64,
    /// The last offset of each topic that a client saw acknowledged.
    pub acknowledged: BTreeMap<u32, u64>,
    pub random: SmallRng,
    pub now: Moment,
    idle_turns: u32,
    pub traces: bool,
    /// Some class's limit on keys may be reached.
    pub may_refuse: bool,
    /// Connections may end without a word.
    pub is_deadly: bool,
}

impl World {
    pub fn new(config: SimulationConfig, settings: Settings, traces: bool) -> Self {
        let (commands, received) = crossbeam_channel::bounded(8);
        let models = Models {
            classes: settings.classes.clone(),
            ledgers: vec![Ledger::default(); settings.classes.len()],
            ..Models::default()
        };
        let may_refuse = settings.classes.iter().any(|class| class.keys < 100);
        let tap = Tap::new(Simulation::new(config));
        let mut shard = Shard::alone(tap, settings, WallEpoch { boot_us: 1_000_000 }, config.seed, received);
        shard.keep_journal();
        Self {
            shard,
            commands,
            models,
            clients: Vec::new(),
            links: Vec::new(),
            by_peer: BTreeMap::new(),
            by_address: BTreeMap::new(),
            by_socket: BTreeMap::new(),
            publishes: Vec::new(),
            requests: BTreeMap::new(),
            next_request: 1,
            acknowledged: BTreeMap::new(),
            random: SmallRng::seed_from_u64(config.seed),
            now: Moment::default(),
            idle_turns: 0,
            traces,
            may_refuse,
            is_deadly: config.faults.reset > 0 || config.faults.death > 0,
        }
    }

    pub fn simulation(&mut self) -> &mut Simulation {
        &mut self.shard.kernel_mut().simulation
    }

    /// Where a link leads to.
    pub fn simulation_of(&mut self, _link: usize) -> &mut Simulation {
        self.simulation()
    }

    /// ... to look at it only.
    pub fn watched(&mut self, _link: usize) -> &mut Simulation {
        self.simulation()
    }

    /// What its shard holds.
    pub fn models_of(&self, _link: usize) -> &Models {
        &self.models
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

    /// Adds a connection to the world.
    pub fn link(&mut self, link: impl FnOnce(PeerId) -> Link) -> usize {
        let number = u32::try_from(self.links.len()).expect("few links");
        let [_, a, b, c] = number.to_be_bytes();
        let address = std::net::SocketAddr::from(([10, a, b, c], 40_000));
        let peer = self.simulation().connect_from(address);
        self.links.push(link(peer));
        let at = self.links.len() - 1;
        self.by_peer.insert(peer, at);
        self.by_address.insert(address, at);
        at
    }

    /// One turn now; then the clock jumps to what comes next, but not beyond `until`.
    pub fn turn(&mut self, client_wants: Moment, until: Moment) {
        self.models.now = self.now;
        self.models.turn += 1;
        self.shard.kernel_mut().reported = 0;
        let wait = self.shard.prepare(self.now);
        let reported = self.shard.kernel_mut().reported;
        self.follow(true);
        let wait = self.shard.hand_over(wait);
        self.shard.submit(wait).expect("the simulation does not break");
        let sends = self.look();
        self.follow(false);
        let has_inbox = self.shard.kernel_mut().reported > reported;
        let is_idle = reported == 0 && !has_inbox && sends == 0;
        self.idle_turns = if is_idle { self.idle_turns + 1 } else { 0 };
        assert!(self.idle_turns < IDLE_TURNS || wait != Wait::No, "the shard spins");
        let at_once = self.now + TURN;
        let due = match wait {
            _ if has_inbox => at_once,
            Wait::No => at_once,
            Wait::AtMost(wait) => self.now + wait,
            Wait::Forever => Moment::NEVER,
        };
        let event = self.simulation().next_event().unwrap_or(Moment::NEVER);
        if self.idle_turns >= IDLE_TURNS {
            assert!(due > self.now + TURN || event > self.now, "the shard spins on its timers");
        }
        let next = due.min(event).min(client_wants).min(until).max(at_once);
        self.now = next;
        self.simulation().set_now(next);
    }

    /// Brings the models to where the shard is.
    fn follow(&mut self, is_flush: bool) {
        let fresh: Vec<(u32, String)> = self
            .shard
            .topics()
            .iter()
            .filter(|(_, topic)| !self.models.topics.contains_key(&topic.id.0))
            .map(|(_, topic)| (topic.id.0, topic.name.as_str().to_owned()))
            .collect();
        for (id, name) in fresh {
            self.models.topics.insert(id, Topic::new(&name, &self.models.classes));
        }
        for appended in self.shard.journal() {
            let topic = self.models.topics.get_mut(&appended.topic.0).expect("made above");
            let class = &self.models.classes[topic.class];
            let count = if appended.request == 0 {
                topic.expire_keys(appended.at)
            } else {
                let number = self.requests[&appended.request];
                let publish = &mut self.publishes[number];
                // A topic that was forgotten in between is another one, of the same name.
                let is_repeated = publish.applied_to == appended.topic.0 && publish.body.sequence > 0;
                publish.applied_to = appended.topic.0;
                publish.offset = appended.last.0;
                assert!(!is_repeated, "publish {number} was applied twice: {:?}", publish.body);
                topic.apply(&publish.body, class, appended.at)
            };
            assert_eq!((count, topic.head()), (appended.count, appended.last.0), "{}: {appended:?}", topic.name);
        }
        self.models.living.clear();
        for (_, topic) in self.shard.topics().iter() {
            self.models.living.insert(topic.id.0, (topic.epoch.0, topic.log.floor().0));
            let model = self.models.topics.get_mut(&topic.id.0).expect("made above");
            let class = &self.models.classes[model.class];
            assert_eq!(topic.log.head().0, model.head(), "{}: head", model.name);
            model.evict_as(&topic.log, class, self.models.turn, self.now);
            if is_flush {
                // The wheel's ticks are a millisecond.
                let late = self.now.since(model.next_key_deadline());
                assert!(late <= Duration::from_millis(5), "{}: a key is {late:?} past its window", model.name);
            }
        }
    }

    /// Looks at everything that was sent.
    fn look(&mut self) -> usize {
        let tap = self.shard.kernel_mut();
        let (changes, sends) = (std::mem::take(&mut tap.changes), std::mem::take(&mut tap.sends));
        let mut released = Vec::new();
        for change in changes {
            match change {
                Change::Accepted(socket, address) => _ = self.by_socket.insert(socket, self.by_address[&address]),
                Change::Released(socket) => released.push(socket),
            }
        }
        let count = sends.len();
        for (socket, sent) in sends {
            let link = self.by_socket[&socket];
            self.links[link].stream.sent(&sent, &mut self.models);
        }
        for socket in released {
            self.by_socket.remove(&socket);
        }
        for link in self.by_socket.values() {
            self.links[*link].stream.end_turn(&self.models);
        }
        count
    }

    /// Asks the shard to end, lets everyone read on, and insists that nothing is left.
    pub fn drain(&mut self, mut step: impl FnMut(&mut Self)) {
        self.commands.send(ShardCommand::Drain(Duration::from_secs(2))).expect("there is room");
        let until = self.now + Duration::from_secs(8);
        while !self.shard.is_drained() && self.now < until {
            step(self);
        }
        assert_eq!(self.shard.held(), KernelHeld::default(), "the kernel holds nothing");
        assert!(self.shard.is_drained());
        let report = self.shard.report();
        assert_eq!(report.gauges.connections, 0);
        assert_eq!(report.gauges.subscribers, 0);
        assert_eq!(report.counters.accepted, report.counters.closed, "whoever came is gone");
        for (class, ledger) in report.counters.classes.iter().zip(&self.models.ledgers) {
            assert_eq!(&class.ledger, ledger, "the shard's own ledger");
            let sum =
                ledger.delivered + ledger.conflated + ledger.filtered + ledger.expired + ledger.overrun + ledger.lost;
            assert_eq!(ledger.due, sum);
        }
    }
}
