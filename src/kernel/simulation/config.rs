//! What a simulation is made of, and what goes wrong in it.

use std::time::Duration;

/// The sizes of a [`Simulation`](super::Simulation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulationConfig {
    /// All randomness comes from it.
    pub seed: u64,
    /// Receive buffers, shared by all sockets.
    pub buffers: u16,
    /// Bytes of each.
    pub buffer_bytes: u32,
    /// Connections; beyond them accepting pauses.
    pub max_sockets: usize,
    /// Bytes that a socket takes before its peer reads; settable per peer.
    pub capacity: usize,
    /// How long bytes travel, each way; settable per peer.
    pub latency: Duration,
    /// What goes wrong.
    pub faults: Faults,
}

impl Default for SimulationConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            buffers: 256,
            buffer_bytes: 4_096,
            max_sockets: 10_000,
            capacity: 32 * 1_024,
            latency: Duration::from_millis(1),
            faults: Faults::default(),
        }
    }
}

/// How often things go wrong, in cases of 1,000. By default never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A send is cut at some byte although there is room.
    pub short_send: u16,
    /// A send is refused although there is room.
    pub refused_send: u16,
    /// Received bytes are split at some byte.
    pub split_receive: u16,
    /// A completion comes late, by up to [`Faults::longest_delay`]; those of other sockets overtake it.
    pub delay: u16,
    /// See [`Faults::delay`].
    pub longest_delay: Duration,
    /// A receive ends for want of buffers although there are some, and is armed again later.
    pub buffer_shortage: u16,
    /// An accept fails with `EMFILE`.
    pub accept_shortage: u16,
    /// At a send or receive the connection turns out to be reset.
    pub reset: u16,
    /// At a send or receive the peer's host is gone: nothing arrives any more, either way.
    pub death: u16,
    /// A completion of a slot's former holder comes after its release.
    pub stale_completion: u16,
}

impl Faults {
    /// Everything goes wrong now and then, but no connection is lost.
    #[must_use]
    pub fn harsh() -> Self {
        Self {
            short_send: 100,
            refused_send: 50,
            split_receive: 300,
            delay: 200,
            longest_delay: Duration::from_millis(20),
            buffer_shortage: 50,
            accept_shortage: 20,
            stale_completion: 200,
            ..Self::default()
        }
    }

    /// As [`Faults::harsh`], and connections are reset or die at any point.
    #[must_use]
    pub fn deadly() -> Self {
        Self { reset: 5, death: 5, ..Self::harsh() }
    }
}
