//! The control thread: everything that is not the data path, on tokio-uring. It serves the admin port and watches signals.
//!
//! It speaks to shards only through their [`ShardHandle`]s, and never waits for one longer than a second.

#![forbid(unsafe_code)]

mod admin;
mod metrics;
mod signals;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::oneshot;

pub use metrics::CONTENT_TYPE;

use crate::shard::ShardHandle;
use admin::Admin;

/// What the control thread is started with.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Where the admin port listens; port 0 takes a free one.
    pub admin: SocketAddr,
    /// Names of the topic classes, in the order of `Counters::classes`: the labels of their metrics.
    pub class_names: Vec<String>,
    /// Whose business signals are.
    pub signals: Signals,
    /// The CPU that the thread is pinned to; `None`: none.
    pub cpu: Option<usize>,
}

/// Whose business SIGINT and SIGTERM are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signals {
    /// Ours: the first asks for an orderly shutdown, the second ends the process at once with exit code 130.
    /// What the process needs to watch them stays for its life: two descriptors.
    Handle,
    /// The embedding program's.
    Ignore,
}

/// Why the control thread cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The admin port's address cannot be listened on: for the operator, who chose it.
    #[error("cannot listen on {address} for the admin port: {source}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No io_uring for its runtime, or no signal handlers.
    #[error("the control thread cannot start: {0}")]
    Runtime(#[source] io::Error),
    /// No thread.
    #[error("cannot start the control thread: {0}")]
    Thread(#[source] io::Error),
}

/// Why the engine should shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownRequest {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// The control thread has ended, by itself or by [`Control::stop`].
    ControlEnded,
}

/// The control thread, running. Dropping it stops it.
#[derive(Debug)]
pub struct Control {
    local_addr: SocketAddr,
    requests: Receiver<ShutdownRequest>,
    is_draining: Arc<AtomicBool>,
    /// Dropping the sender ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Starts the thread. When this returns, the admin port is served and signals are watched.
    ///
    /// # Errors
    /// If the address cannot be bound, or if the kernel refuses a thread or a ring.
    pub fn start(config: ControlConfig, shards: Vec<ShardHandle>) -> Result<Self, ControlError> {
        let ControlConfig { admin: address, class_names, signals, cpu } = config;
        let (listener, local_addr) = bind(address).map_err(|source| ControlError::Listen { address, source })?;
        let is_draining = Arc::new(AtomicBool::new(false));
        let admin = Admin::new(shards, class_names, Arc::clone(&is_draining));
        // Room for both requests that can ever come, so that sending never waits.
        let (request_sender, requests) = crossbeam_channel::bounded(2);
        let (stop, stopped) = oneshot::channel();
        let (started_sender, started) = mpsc::sync_channel(1);
        let draining = Arc::clone(&is_draining);
        let thread = thread::Builder::new().name("tidegate-control".to_owned()).spawn(move || {
            if let Some(id) = cpu {
                core_affinity::set_for_current(core_affinity::CoreId { id });
            }
            let watch = Watch { signals, requests: request_sender.clone(), draining };
            let result = run(listener, admin, watch, stopped, &started_sender);
            if let Err(error) = result {
                tracing::error!(%error, "the control thread ended");
                // Nobody listens any more if the failure came after the start.
                let _ = started_sender.try_send(Err(error));
            }
            let _ = request_sender.try_send(ShutdownRequest::ControlEnded);
        });
        let thread = thread.map_err(ControlError::Thread)?;
        let control = Self { local_addr, requests, is_draining, stop: Some(stop), thread: Some(thread) };
        match started.recv() {
            Ok(Ok(())) => Ok(control),
            Ok(Err(error)) => Err(ControlError::Runtime(error)),
            Err(mpsc::RecvError) => Err(ControlError::Runtime(io::Error::other("the thread panicked while starting"))),
        }
    }

    /// Where the admin port listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Waits until somebody wants the engine to shut down.
    #[must_use]
    pub fn wait_for_shutdown_request(&self) -> ShutdownRequest {
        self.requests.recv().unwrap_or(ShutdownRequest::ControlEnded)
    }

    /// Where requests for shutdown arrive, for `crossbeam_channel::select!`. Closed when the thread has ended.
    #[must_use]
    pub fn shutdown_requests(&self) -> &Receiver<ShutdownRequest> {
        &self.requests
    }

    /// From now on `/readyz` says that no new clients are wanted. (A signal does so, too.)
    pub fn begin_drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Ends the thread and waits for it. Its connections are cut; the port is free again.
    ///
    /// # Panics
    /// If the thread panicked.
    pub fn stop(mut self) {
        if self.end().is_err() {
            panic!("the control thread panicked");
        }
    }

    fn end(&mut self) -> thread::Result<()> {
        self.stop = None;
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A panic of the thread has been printed by itself; a second one while dropping would abort.
        let _ = self.end();
    }
}

/// What watching signals needs.
struct Watch {
    signals: Signals,
    requests: Sender<ShutdownRequest>,
    draining: Arc<AtomicBool>,
}

/// The thread: serves until `stopped`. Reports on `started` when everything is in place.
fn run(
    listener: TcpListener,
    admin: Admin,
    watch: Watch,
    stopped: oneshot::Receiver<()>,
    started: &mpsc::SyncSender<io::Result<()>>,
) -> io::Result<()> {
    // Few operations of it are in flight at a time; a small ring costs little locked memory.
    let mut builder = tokio_uring::builder();
    builder.entries(64);
    let runtime = tokio_uring::Runtime::new(&builder)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let watching = signals::watch(watch.signals, watch.requests, watch.draining)?;
        // The receiver waits for it: there is room.
        let _ = started.try_send(Ok(()));
        tokio::select! {
            () = admin::serve(listener, admin) => {}
            () = watching => {}
            _ = stopped => {}
        }
        Ok(())
    })
}

fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let local_addr = listener.local_addr()?;
    Ok((listener, local_addr))
}
