//! One shard and its thread, as far as a thread matters: when it runs, when it sleeps, and what wakes it.

use std::collections::BTreeMap;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use tidegate::clock::{Moment, WallEpoch};
use tidegate::kernel::{Kernel as _, Simulation, SimulationConfig, SocketId, Wait};
use tidegate::mesh::Endpoint;
use tidegate::shard::{Inlets, Ledger, Settings, Shard, ShardCommand, ShardMessage};

use crate::stream::Models;
use crate::tap::Tap;

/// A turn takes at least so long, so that time passes whatever the shard does.
pub const TURN: Duration = Duration::from_micros(5);
/// So many turns without a reason are a busy loop.
const IDLE_TURNS: u32 = 300;

/// No stall lasts so long.
pub const PATIENT: Duration = Duration::from_secs(20);

/// What the thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It takes a turn.
    Awake,
    /// It is about to sleep, until then at most; the others may say something before it has looked once more.
    Drowsy(Moment),
    /// Nobody runs it before then, unless a completion comes.
    Asleep(Moment),
    /// It was drained, and is gone.
    Ended,
}

/// A turn that has not told anybody what it did.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted {
    pub wait: Wait,
    /// Completions that the kernel had reported.
    pub reported: u64,
}

pub struct Station {
    pub shard: Shard<Tap>,
    pub commands: Sender<ShardCommand>,
    pub models: Models,
    pub by_socket: BTreeMap<SocketId, usize>,
    pub state: State,
    /// The host runs something else until then.
    pub stalled_until: Moment,
    /// The turn that the host interrupted may wait so long in its end.
    pub interrupted: Option<Interrupted>,
    /// A peer did something: its kernel has to look.
    pub is_touched: bool,
    idle_turns: u32,
}

impl Station {
    pub fn new(config: SimulationConfig, settings: &Settings, mesh: Endpoint<ShardMessage>) -> Self {
        let (commands, received) = bounded(8);
        let models = Models {
            classes: settings.classes.clone(),
            ledgers: vec![Ledger::default(); settings.classes.len()],
            is_impatient: settings.limits.shard_answer < PATIENT,
            ..Models::default()
        };
        let inlets = Inlets { commands: received, publishes: crossbeam_channel::never() };
        let (tap, wall) = (Tap::new(Simulation::new(config)), WallEpoch { boot_us: 1_000_000 });
        let mut shard = Shard::new(tap, settings.clone(), mesh, wall, config.seed, inlets);
        shard.keep_journal();
        Self {
            shard,
            commands,
            models,
            by_socket: BTreeMap::new(),
            state: State::Awake,
            stalled_until: Moment::default(),
            interrupted: None,
            is_touched: false,
            idle_turns: 0,
        }
    }

    pub fn simulation(&mut self) -> &mut Simulation {
        &mut self.shard.kernel_mut().simulation
    }

    /// When the thread has to be looked at again.
    pub fn due(&mut self) -> Moment {
        let now = self.simulation().now();
        let event = if self.is_touched { Some(now) } else { self.simulation().next_event() };
        let event = event.unwrap_or(Moment::NEVER);
        let due = match self.state {
            State::Awake | State::Drowsy(_) => Moment::default(),
            State::Asleep(until) => until.min(event),
            State::Ended => return event,
        };
        due.max(self.stalled_until)
    }

    /// Whether it takes a turn now. A sleeping shard is woken by a timer or by a completion, and by nothing else: bytes that
    /// reach a peer are none.
    pub fn wakes(&mut self, now: Moment) -> bool {
        match self.state {
            State::Asleep(until) if until > now => {
                self.is_touched = false;
                let simulation = self.simulation();
                simulation.enter(Wait::No).expect("the simulation does not break");
                let is_woken = simulation.next_event() == Some(now);
                if is_woken {
                    self.state = State::Awake;
                }
                is_woken
            }
            State::Asleep(_) => {
                self.state = State::Awake;
                true
            }
            State::Awake => true,
            State::Drowsy(_) => false,
            State::Ended => {
                self.is_touched = false;
                // Its peers' last bytes arrive all the same.
                self.simulation().enter(Wait::No).expect("the simulation does not break");
                false
            }
        }
    }

    /// The last look before sleeping.
    pub fn fall_asleep(&mut self, until: Moment) {
        self.state = if self.shard.fall_asleep() { State::Asleep(until) } else { State::Awake };
    }

    /// What the thread does after a turn that said `wait` and had `work` to do.
    pub fn rest(&mut self, wait: Wait, has_inbox: bool, has_worked: bool, now: Moment) {
        // One that looks every now and then for room on the way to a shard that stands still does not spin.
        let is_idle = wait == Wait::No && !has_worked && !has_inbox;
        self.idle_turns = if is_idle { self.idle_turns + 1 } else { 0 };
        assert!(self.idle_turns < IDLE_TURNS, "shard {:?} spins", self.shard.unfinished());
        self.state = match wait {
            _ if has_inbox => State::Awake,
            Wait::No => State::Awake,
            Wait::AtMost(wait) => State::Drowsy(now + wait),
            Wait::Forever => State::Drowsy(Moment::NEVER),
        };
    }
}
