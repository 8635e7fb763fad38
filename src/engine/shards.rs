//! The shards' threads: their listeners and rings, how they start together, and the loop that each one is.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::{EXIT_BROKEN_INVARIANT, Placement, StartError, congestion};
use crate::clock::Clock;
use crate::config::{Config, Idle};
use crate::ids::ShardId;
use crate::kernel::{
    BootError, Held, Kernel, ListenOptions, Ring, RingConfig, RingHandle, Sharing, Wait, Waker, listen,
};
use crate::mesh::{self, MeshLimits};
use crate::protocol::http::Endpoint;
use crate::shard::{Admission, Settings, Shard, ShardHandle, inlets};
use crate::topic::Homes;

/// Receive buffers of a shard and their size: what can arrive between two turns without a pause.
const BUFFERS: u16 = 1_024;
const BUFFER_BYTES: u32 = 4 * 1_024;
/// A shard that spins looks so long for work before it parks.
const SPIN: Duration = Duration::from_micros(50);

/// A shard's thread, and the way to speak to it.
#[derive(Debug)]
pub(super) struct RunningShard {
    pub(super) handle: ShardHandle,
    pub(super) thread: JoinHandle<Held>,
}

/// A listener for each shard. The first binds the port alone, so that a second engine on it is refused instead of taking half
/// of the clients; then it shares it with the others.
pub(super) fn listeners(config: &Config, placement: &Placement) -> Result<(SocketAddr, Vec<TcpListener>), StartError> {
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
            congestion::set(listener, name)?;
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
pub(super) fn ring_config(config: &Config) -> RingConfig {
    RingConfig {
        buffers: BUFFERS,
        buffer_bytes: BUFFER_BYTES,
        // One more for each that is told that there are too many.
        max_sockets: config.limits.connections.saturating_add(1_024).min((1 << 26) - 1),
        ..RingConfig::default()
    }
}

/// What a shard's thread says when its ring is there.
type Started = Result<(Arc<dyn Waker>, RingHandle), StartError>;

pub(super) fn start(
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
pub(super) fn run<K: Kernel>(mut shard: Shard<K>, id: ShardId, clock: Clock, idle: Idle) -> Held {
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
