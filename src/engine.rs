//! Boot, pinning, orderly shutdown; also the way to embed the engine in another program.

#![forbid(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::clock::Clock;
use crate::config::{Config, Idle};
use crate::control::{Control, ControlConfig, ControlError, Signals};
use crate::ids::ShardId;
use crate::kernel::{
    BootError, Held, Kernel, ListenOptions, Ring, RingConfig, RingHandle, Sharing, Wait, Waker, listen,
};
use crate::mesh::{self, MeshLimits};
use crate::protocol::http::Endpoint;
use crate::shard::{Admission, Report, Settings, Shard, ShardCommand, ShardHandle, inlets};
use crate::topic::Homes;

mod placement;
mod publisher;

pub use placement::Placement;
pub use publisher::{PublishError, Publisher, Receipt, Update};

/// A panic in a shard ends the process with this code (`EX_SOFTWARE` of sysexits.h).
pub const EXIT_BROKEN_INVARIANT: i32 = 70;
/// Receive buffers of a shard and their size: what can arrive between two turns without a pause.
const BUFFERS: u16 = 1_024;
const BUFFER_BYTES: u32 = 4 * 1_024;
/// A shard that spins looks so long for work before it parks.
const SPIN: Duration = Duration::from_micros(50);

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The public port cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The admin port cannot be listened on.
    #[error("cannot listen on {address} for the admin port: {source}")]
    Admin {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A shard cannot be pinned to its CPU.
    #[error(
        "no shard can run on CPU {cpu}: it is offline, not there or outside the cpuset (`lscpu --extended` lists CPUs), or a seccomp filter refuses pinning"
    )]
    Cpu {
        /// Which.
        cpu: usize,
    },
    /// No io_uring, or not enough of it.
    #[error("{0}")]
    Kernel(#[from] BootError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// What the engine still held when it had shut down: all zero, or something leaked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Kernel operations, sockets, buffers, descriptors.
    pub kernel: Held,
    /// Threads that did not end.
    pub threads: usize,
}

impl Leftovers {
    /// Whether nothing was held.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A running engine. Dropping it shuts it down.
#[derive(Debug)]
pub struct Engine {
    local_addr: SocketAddr,
    control: Option<Control>,
    shards: Vec<RunningShard>,
    drain: Duration,
    placement: Placement,
    publisher: Publisher,
}

#[derive(Debug)]
struct RunningShard {
    handle: ShardHandle,
    thread: JoinHandle<Held>,
}

/// What an engine is started as, beside its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role {
    /// Tidegate, or the echo of the conformance tests.
    pub endpoint: Endpoint,
    /// Whether SIGINT and SIGTERM are the engine's business.
    pub signals: Signals,
}

impl Engine {
    /// Starts an engine that handles the process's signals: for a program whose main job it is.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::start_as(config, Role { endpoint: Endpoint::Tidegate, signals: Signals::Handle })
    }

    /// Starts an engine inside another program, whose business signals are.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn embed(config: Config) -> Result<Self, StartError> {
        Self::start_as(config, Role { endpoint: Endpoint::Tidegate, signals: Signals::Ignore })
    }

    /// Starts an engine in a given role.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn start_as(config: Config, role: Role) -> Result<Self, StartError> {
        let placement = Placement::choose(&config);
        let (local_addr, listeners) = listeners(&config, &placement)?;
        let (homes, clock) = (Homes { shards: placement.shards(), seed: rand::random() }, Clock::start());
        let shards = start_shards(&config, role.endpoint, &placement, listeners, homes, clock)?;
        let control = ControlConfig {
            admin: config.admin,
            class_names: config.classes.iter().map(|class| class.name.clone()).collect(),
            signals: role.signals,
            cpu: placement.control_cpu(),
        };
        let handles: Vec<_> = shards.iter().map(|shard| shard.handle.clone()).collect();
        let publisher = Publisher::new(publisher::Shared {
            homes,
            classes: config.classes,
            limits: config.limits,
            clock,
            shards: handles.clone(),
        });
        let mut engine = Self { local_addr, control: None, shards, drain: config.drain, placement, publisher };
        engine.control = Some(Control::start(control, handles).map_err(|error| match error {
            ControlError::Listen { address, source } => StartError::Admin { address, source },
            ControlError::Runtime(error) | ControlError::Thread(error) => StartError::Thread(error),
        })?);
        tracing::info!(placement = %engine.placement, "running");
        Ok(engine)
    }

    /// A handle that publishes without a socket.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// How many shards run, and where.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Where the public port listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where the admin port listens.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.control.as_ref().expect("there from start to shutdown").local_addr()
    }

    /// What the shards count and have at this moment, added up. `None` if one does not answer.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        let mut sum: Option<Report> = None;
        for report in self.reports()? {
            match &mut sum {
                None => sum = Some(report),
                Some(sum) => *sum += report,
            }
        }
        sum
    }

    /// ... of each shard by itself.
    #[must_use]
    pub fn reports(&self) -> Option<Vec<Report>> {
        let ask = |shard: &RunningShard| {
            let (sender, reply) = tokio::sync::oneshot::channel();
            shard.handle.ask(ShardCommand::Report(sender)).then_some(reply)
        };
        let asked: Option<Vec<_>> = self.shards.iter().map(ask).collect();
        asked?.into_iter().map(|reply| reply.blocking_recv().ok()).collect()
    }

    /// Waits for SIGINT or SIGTERM.
    pub fn run_until_shutdown(&self) {
        if let Some(control) = &self.control {
            let request = control.wait_for_shutdown_request();
            tracing::info!(?request, "shutting down");
        }
    }

    /// Waits for SIGINT or SIGTERM, but not longer than `limit`; whether one came.
    #[must_use]
    pub fn wait_for_shutdown(&self, limit: Duration) -> bool {
        let requests = self.control.as_ref().expect("there from start to shutdown").shutdown_requests();
        !matches!(requests.recv_timeout(limit), Err(crossbeam_channel::RecvTimeoutError::Timeout))
    }

    /// Says goodbye to every client, waits until they are gone (`drain` of the configuration at most), and stops all threads.
    #[must_use = "what is left over is a leak"]
    pub fn shutdown(mut self) -> Leftovers {
        self.stop()
    }

    fn stop(&mut self) -> Leftovers {
        let mut leftovers = Leftovers::default();
        if let Some(control) = &self.control {
            control.begin_drain();
        }
        let shards = std::mem::take(&mut self.shards);
        for shard in &shards {
            while !shard.thread.is_finished() && !shard.handle.ask(ShardCommand::Drain(self.drain)) {
                std::thread::yield_now();
            }
        }
        for shard in shards {
            match shard.thread.join() {
                Ok(held) => leftovers.kernel += held,
                Err(_) => leftovers.threads += 1,
            }
        }
        if let Some(control) = self.control.take() {
            control.stop();
        }
        leftovers
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// A listener for each shard. The first binds the port alone, so that a second engine on it is refused instead of taking half
/// of the clients; then it shares it with the others.
fn listeners(config: &Config, placement: &Placement) -> Result<(SocketAddr, Vec<TcpListener>), StartError> {
    let shards = placement.shards();
    let failed = |source| StartError::Listen { address: config.listen, source };
    let options = ListenOptions {
        sharing: if shards == 1 { Sharing::Alone } else { Sharing::First },
        ..ListenOptions::default()
    };
    let first = listen(config.listen, options).map_err(failed)?;
    let local_addr = first.local_addr().map_err(failed)?;
    let mut listeners = vec![first];
    for _ in 1..shards {
        let options = ListenOptions { sharing: Sharing::Further, ..ListenOptions::default() };
        listeners.push(listen(local_addr, options).map_err(failed)?);
    }
    if let Some(name) = &config.congestion {
        for listener in &listeners {
            // Accepted sockets inherit it.
            socket2::SockRef::from(listener).set_tcp_congestion(name.as_bytes()).map_err(failed)?;
        }
    }
    if config.incoming_cpu {
        for (shard, listener) in (0..).map(ShardId).zip(&listeners) {
            if let Some(cpu) = placement.cpu_of(shard) {
                socket2::SockRef::from(listener).set_cpu_affinity(cpu).map_err(failed)?;
            }
        }
    }
    Ok((local_addr, listeners))
}

/// A shard's ring.
fn ring_config(config: &Config) -> RingConfig {
    RingConfig {
        buffers: BUFFERS,
        buffer_bytes: BUFFER_BYTES,
        // One more for each that is told that there are too many.
        max_sockets: config.limits.connections.saturating_add(1_024).min((1 << 26) - 1),
        ..RingConfig::default()
    }
}

/// Makes one ring as a shard would, and lets it go. Nothing else is started; a port of loopback is listened on meanwhile.
///
/// # Errors
/// What would stand in the way of an engine.
pub fn probe(config: &Config) -> Result<(), StartError> {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener =
        listen(address, ListenOptions::default()).map_err(|source| StartError::Listen { address, source })?;
    Ok(Ring::new(ring_config(config), listener).map(drop)?)
}

/// What a shard's thread says when its ring is there.
type Started = Result<(Arc<dyn Waker>, RingHandle), StartError>;

fn start_shards(
    config: &Config,
    endpoint: Endpoint,
    placement: &Placement,
    listeners: Vec<TcpListener>,
    homes: Homes,
    clock: Clock,
) -> Result<Vec<RunningShard>, StartError> {
    let count = homes.shards;
    let settings = Settings {
        limits: config.limits.clone(),
        classes: config.classes.clone(),
        endpoint,
        allowed_origins: config.allowed_origins.clone(),
        trusted: config.trusted.clone(),
        homes,
        admission: Arc::new(Admission::new(count)),
    };
    let ring = ring_config(config);
    // What nobody asked for may be refused.
    let is_placed_by_hand = config.cpus.is_some();
    let mut begun = Vec::new();
    for (mesh, listener) in mesh::connect(count, MeshLimits::for_shards(count)).into_iter().zip(listeners) {
        let (shard, settings, idle) = (mesh.shard(), settings.clone(), config.idle);
        let core = placement.cpu_of(shard).map(|id| core_affinity::CoreId { id });
        let (outlets, inlets) = inlets();
        let (started, start) = bounded::<Started>(1);
        let (peers_sender, peers) = bounded::<Vec<RingHandle>>(1);
        let thread = std::thread::Builder::new()
            .name(format!("tidegate-shard-{}", shard.0))
            .spawn(move || {
                if let Some(core) = core.filter(|&core| !core_affinity::set_for_current(core)) {
                    if is_placed_by_hand {
                        let _ = started.send(Err(StartError::Cpu { cpu: core.id }));
                        return Held::default();
                    }
                    tracing::warn!(shard = shard.0, cpu = core.id, "pinning is refused: the shard runs on any CPU");
                }
                // The ring belongs to the thread that makes it.
                let mut ring = match Ring::new(ring, listener) {
                    Ok(ring) => ring,
                    Err(error) => {
                        let _ = started.send(Err(error.into()));
                        return Held::default();
                    }
                };
                let handle = match ring.handle() {
                    Ok(handle) => handle,
                    Err(error) => {
                        let error = BootError::Other { step: "duplicating the ring's descriptor", error };
                        let _ = started.send(Err(error.into()));
                        return Held::default();
                    }
                };
                let _ = started.send(Ok((ring.waker(), handle)));
                // Without peers another shard failed to start.
                let Ok(peers) = peers.recv() else { return Held::default() };
                ring.connect(peers);
                let seed = rand::random();
                let shard_id = shard;
                run(Shard::new(ring, settings, mesh, clock.epoch(), seed, inlets), shard_id, clock, idle)
            })
            .map_err(StartError::Thread)?;
        begun.push((thread, outlets, start, peers_sender));
    }
    let mut shards = Vec::new();
    let mut rings = Vec::new();
    let mut senders = Vec::new();
    for (thread, outlets, start, peers) in begun {
        let started = start.recv().map_err(|_| StartError::Thread(io::Error::other("a shard ended at its start")))?;
        let (waker, ring) = started?;
        shards.push(RunningShard { handle: ShardHandle::new(outlets, waker), thread });
        rings.push(ring);
        senders.push(peers);
    }
    for sender in senders {
        // It waits for this.
        let _ = sender.send(rings.clone());
    }
    Ok(shards)
}

/// A shard's thread: turns, until a drain is over.
fn run<K: Kernel>(mut shard: Shard<K>, id: ShardId, clock: Clock, idle: Idle) -> Held {
    let mut turn = 0_u64;
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let mut busy_until = clock.now();
        while !shard.is_drained() {
            turn += 1;
            let begun = clock.now();
            let wait = shard.prepare(begun);
            let wait = shard.hand_over(wait);
            let may_wait = idle == Idle::Park || clock.now() > busy_until;
            shard.note_turn(clock.now().since(begun).as_nanos() as u64);
            if wait == Wait::No {
                busy_until = begun + SPIN;
            }
            shard.submit(if may_wait { wait } else { Wait::No })?;
        }
        io::Result::Ok(())
    }));
    match ended {
        Ok(Ok(())) => shard.held(),
        Ok(Err(error)) => {
            tracing::error!(shard = id.0, turn, %error, "the ring is broken");
            std::process::exit(EXIT_BROKEN_INVARIANT);
        }
        Err(_) => {
            // The message and the place were printed by the panic itself.
            let shard = id.0;
            eprintln!(
                "tidegate: shard {shard} panicked in turn {turn}; the engine ends, since its state cannot be trusted"
            );
            std::process::exit(EXIT_BROKEN_INVARIANT);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use bytes::Bytes;

    use super::*;
    use crate::kernel::{Completion, Handed, KernelCounters, Received, SocketId, TcpInfo};

    /// Nobody ever connects, and the third enter finds an invariant broken.
    struct BreaksInTurnThree {
        enters: u32,
    }

    impl Kernel for BreaksInTurnThree {
        fn enter(&mut self, _: Wait) -> io::Result<()> {
            self.enters += 1;
            assert!(self.enters < 3, "an invariant is broken");
            Ok(())
        }

        fn completion(&mut self) -> Option<Completion> {
            None
        }

        fn held(&self) -> Held {
            Held::default()
        }

        fn counters(&self) -> KernelCounters {
            KernelCounters::default()
        }

        fn bytes(&mut self, _: &Received) -> &mut [u8] {
            &mut []
        }

        fn tcp_info(&mut self, _: SocketId) -> Option<TcpInfo> {
            None
        }

        fn release(&mut self, _: Received) {}
        fn send(&mut self, _: SocketId, _: &[Bytes]) {}
        fn await_writable(&mut self, _: SocketId) {}
        fn pause_receive(&mut self, _: SocketId) {}
        fn resume_receive(&mut self, _: SocketId) {}
        fn finish(&mut self, _: SocketId) {}
        fn close(&mut self, _: SocketId) {}
        fn abort(&mut self, _: SocketId) {}
        fn stop_accepting(&mut self) {}
        fn pause_accept(&mut self) {}
        fn resume_accept(&mut self) {}
        fn ring(&mut self, _: u16) {}
        fn hand_over(&mut self, _: SocketId) -> Option<Handed> {
            None
        }
        fn adopt(&mut self, _: Handed) -> Option<SocketId> {
            None
        }
    }

    #[test]
    fn a_second_engine_on_the_same_port_is_refused() {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config { listen: free, admin: free, ..Config::default() };
        let first = Engine::embed(config.clone()).expect("the first one starts");
        let second = Engine::embed(Config { listen: first.local_addr(), ..config });
        assert!(matches!(second, Err(StartError::Listen { .. })), "{second:?}");
        assert_eq!(first.shutdown(), Leftovers::default());
    }

    #[test]
    #[ignore = "ends the process: started by the next test, in one of its own"]
    fn a_shard_that_panics() {
        let (_commands, receiver) = bounded(1);
        let clock = Clock::start();
        let shard = Shard::alone(BreaksInTurnThree { enters: 0 }, Settings::default(), clock.epoch(), 1, receiver);
        run(shard, ShardId(0), clock, Idle::Park);
    }

    #[test]
    fn a_panic_in_a_shard_ends_the_process_and_names_shard_and_turn() {
        let child = Command::new(std::env::current_exe().expect("a test has a file"))
            .args(["--exact", "engine::tests::a_shard_that_panics", "--ignored", "--nocapture"])
            .output()
            .expect("a test can be started");
        assert_eq!(child.status.code(), Some(EXIT_BROKEN_INVARIANT));
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(said.contains("shard 0 panicked in turn 3"), "{said}");
    }
}
