//! Every setting, with its unit. Sources in order, later ones win: a TOML file, `TIDEGATE_*` variables, flags.
//!
//! ```toml
//! listen = "127.0.0.1:8433"
//!
//! [limits]
//! message_bytes = 65536
//!
//! [[class]]
//! name = "depth"
//! pattern = "depth/**"
//! priority = "high"
//! ```
//!
//! The variable of a setting is its key in capitals: `TIDEGATE_LISTEN`, `TIDEGATE_LIMITS_MESSAGE_BYTES`. Topic classes
//! come from the file alone.

#![forbid(unsafe_code)]

mod cpus;
mod error;
mod network;
mod print;
mod settings;
mod sources;
mod value;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

pub use cpus::CpuSet;
pub use error::{ConfigError, Origin, Problem};
pub use network::IpNetwork;
pub use sources::Flag;

use crate::limits::Limits;
use crate::topic::TopicClass;

/// Everything that can be set. [`Config::load`] reads it, and whatever it returns is valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The public port.
    pub listen: SocketAddr,
    /// The admin port: metrics and health.
    pub admin: SocketAddr,
    /// How many shards.
    pub shards: Shards,
    /// The CPUs that shards are pinned to, in turn; `None`: those that the process may run on.
    pub cpus: Option<CpuSet>,
    /// What a shard without work does.
    pub idle: Idle,
    /// Congestion control of connections (`TCP_CONGESTION`); `None`: the system's.
    pub congestion: Option<String>,
    /// Gives each shard the connections whose packets its CPU receives (`SO_INCOMING_CPU`).
    pub incoming_cpu: bool,
    /// Serves addresses other than loopback though nobody has to prove who they are.
    pub insecure: bool,
    /// Origins of web pages that may connect, compared exactly; `None`: all. Clients that send no `Origin` are no browsers and may.
    pub allowed_origins: Option<Vec<String>>,
    /// Addresses exempt from the limits per address, on accepts and on messages.
    pub trusted: Vec<IpNetwork>,
    /// How long an orderly shutdown waits for connections to close.
    pub drain: Duration,
    /// The limits.
    pub limits: Limits,
    /// Topic classes in the order in which they are matched; the last one matches every topic.
    pub classes: Vec<TopicClass>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8433)),
            admin: SocketAddr::from(([127, 0, 0, 1], 8434)),
            shards: Shards::Auto,
            cpus: None,
            idle: Idle::Park,
            congestion: None,
            incoming_cpu: false,
            insecure: false,
            allowed_origins: None,
            trusted: IpNetwork::loopback(),
            drain: Duration::from_secs(10),
            limits: Limits::default(),
            classes: vec![TopicClass::catch_all()],
        }
    }
}

/// How many shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shards {
    /// One for each CPU.
    Auto,
    /// So many; not 0.
    Count(u16),
}

/// What a shard does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Sleeps in the ring.
    Park,
    /// Looks again for a while before it sleeps: shorter latency for more CPU.
    Spin,
}
