//! Boot, pinning, orderly shutdown; also the way to embed the engine in another program.

#![forbid(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::AssertUnwindSafe;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use crate::clock::Clock;
use crate::config::{Config, Idle, Shards};
use crate::control::{Control, ControlConfig, ControlError, Signals};
use crate::kernel::{BootError, Held, Kernel, ListenOptions, Ring, RingConfig, Wait, Waker, listen};
use crate::protocol::http::Endpoint;
use crate::shard::{Report, Settings, Shard, ShardCommand, ShardHandle};

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
    shard: Option<RunningShard>,
    drain: Duration,
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
        let address = config.listen;
        // One shard has the port alone: shared, a second engine on it would start, and take half of the clients.
        let options = ListenOptions { shares_port: false, ..ListenOptions::default() };
        let bound = listen(address, options)
            .and_then(|listener| {
                if let Some(name) = &config.congestion {
                    // Accepted sockets inherit it.
                    socket2::SockRef::from(&listener).set_tcp_congestion(name.as_bytes())?;
                }
                Ok((listener.local_addr()?, listener))
            })
            .map_err(|source| StartError::Listen { address, source })?;
        let (local_addr, listener) = bound;
        if let Shards::Count(count @ 2..) = config.shards {
            tracing::warn!(configured = count, "this version runs one shard, whatever is configured");
        }
        let shard = RunningShard::start(&config, role.endpoint, listener)?;
        let control = ControlConfig {
            admin: config.admin,
            class_names: config.classes.iter().map(|class| class.name.clone()).collect(),
            signals: role.signals,
        };
        let mut engine = Self { local_addr, control: None, shard: Some(shard), drain: config.drain };
        let handles = engine.shard.iter().map(|shard| shard.handle.clone()).collect();
        engine.control = Some(Control::start(control, handles).map_err(|error| match error {
            ControlError::Listen { address, source } => StartError::Admin { address, source },
            ControlError::Runtime(error) | ControlError::Thread(error) => StartError::Thread(error),
        })?);
        Ok(engine)
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

    /// What the shard counts and has, at this moment. `None` if it does not answer.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        let (sender, reply) = tokio::sync::oneshot::channel();
        self.shard.as_ref()?.handle.ask(ShardCommand::Report(sender)).then(|| reply.blocking_recv().ok())?
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
        if let Some(shard) = self.shard.take() {
            while !shard.thread.is_finished() && !shard.handle.ask(ShardCommand::Drain(self.drain)) {
                std::thread::yield_now();
            }
            match shard.thread.join() {
                Ok(held) => leftovers.kernel = held,
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

impl RunningShard {
    fn start(config: &Config, endpoint: Endpoint, listener: TcpListener) -> Result<Self, StartError> {
        let settings = Settings {
            limits: config.limits.clone(),
            classes: config.classes.clone(),
            endpoint,
            allowed_origins: config.allowed_origins.clone(),
            trusted: config.trusted.clone(),
        };
        let core = cpu_of_shard(config);
        let ring = RingConfig {
            buffers: BUFFERS,
            buffer_bytes: BUFFER_BYTES,
            // One more for each that is told that there are too many.
            max_sockets: config.limits.connections.saturating_add(1_024).min((1 << 26) - 1),
            ..RingConfig::default()
        };
        let idle = config.idle;
        let (commands, receiver) = bounded(64);
        let (started, start) = bounded(1);
        let thread = std::thread::Builder::new()
            .name("tidegate-shard-0".to_owned())
            .spawn(move || {
                if let Some(core) = core {
                    core_affinity::set_for_current(core);
                }
                // The ring belongs to the thread that makes it.
                match Ring::new(ring, listener) {
                    Err(error) => {
                        let _ = started.send(Err(error));
                        Held::default()
                    }
                    Ok(ring) => {
                        let _ = started.send(Ok(ring.waker()));
                        run(ring, settings, idle, receiver)
                    }
                }
            })
            .map_err(StartError::Thread)?;
        let waker = start.recv().map_err(|_| StartError::Thread(io::Error::other("the shard ended at its start")))?;
        let waker: std::sync::Arc<dyn Waker> = waker?;
        Ok(Self { handle: ShardHandle::new(commands, waker), thread })
    }
}

/// The CPU that the shard is pinned to: the first that was configured; none if nothing was, so that the system can
/// place a single thread well.
fn cpu_of_shard(config: &Config) -> Option<core_affinity::CoreId> {
    let id = *config.cpus.as_ref()?.as_slice().first()?;
    Some(core_affinity::CoreId { id })
}

/// The shard's thread: turns, until a drain is over.
fn run<K: Kernel>(kernel: K, settings: Settings, idle: Idle, commands: Receiver<ShardCommand>) -> Held {
    let clock = Clock::start();
    let seed = rand::random();
    let mut shard = Shard::new(kernel, settings, clock.epoch(), seed, commands);
    let mut turn = 0_u64;
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let mut busy_until = clock.now();
        while !shard.is_drained() {
            turn += 1;
            let begun = clock.now();
            let wait = shard.prepare(begun);
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
            tracing::error!(shard = 0, turn, %error, "the ring is broken");
            std::process::exit(EXIT_BROKEN_INVARIANT);
        }
        Err(_) => {
            // The message and the place were printed by the panic itself.
            eprintln!("tidegate: shard 0 panicked in turn {turn}; the engine ends, since its state cannot be trusted");
            std::process::exit(EXIT_BROKEN_INVARIANT);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use bytes::Bytes;

    use super::*;
    use crate::kernel::{Completion, KernelCounters, Received, SocketId, TcpInfo};

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
        let Config { limits, classes, allowed_origins, trusted, .. } = Config::default();
        let settings = Settings { limits, classes, endpoint: Endpoint::Tidegate, allowed_origins, trusted };
        let (_commands, receiver) = bounded(1);
        run(BreaksInTurnThree { enters: 0 }, settings, Idle::Park, receiver);
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
