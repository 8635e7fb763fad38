//! Boot, pinning, orderly shutdown; also the way to embed the engine in another program.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::Config;
use crate::control::{Control, ControlConfig, ControlError, Signals};
use crate::kernel::{BootError, Held, ListenOptions, Ring, listen};
use crate::protocol::http::Endpoint;
use crate::shard::{Report, ShardCommand};
use crate::topic::Homes;

mod congestion;
mod placement;
mod publisher;
mod shards;

use self::shards::RunningShard;
pub use congestion::{CongestionError, check_congestion};
pub use placement::Placement;
pub use publisher::{PublishError, Publisher, Receipt, Update};

/// A panic in a shard ends the process with this code (`EX_SOFTWARE` of sysexits.h).
pub const EXIT_BROKEN_INVARIANT: i32 = 70;

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
    /// Sockets cannot have the configured congestion control.
    #[error("`congestion`: {0}")]
    Congestion(#[from] CongestionError),
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
        let (local_addr, listeners) = shards::listeners(&config, &placement)?;
        let (homes, clock) = (Homes { shards: placement.shards(), seed: rand::random() }, Clock::start());
        let shards = shards::start(&config, role.endpoint, &placement, listeners, homes, clock)?;
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

/// Makes one ring as a shard would, and lets it go. Nothing else is started; a port of loopback is listened on meanwhile.
///
/// # Errors
/// What would stand in the way of an engine.
pub fn probe(config: &Config) -> Result<(), StartError> {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener =
        listen(address, ListenOptions::default()).map_err(|source| StartError::Listen { address, source })?;
    Ok(Ring::new(shards::ring_config(config), listener).map(drop)?)
}

#[cfg(test)]
mod tests;
