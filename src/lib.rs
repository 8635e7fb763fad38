//! Tidegate: live state to very many WebSocket clients.

#![cfg_attr(not(feature = "server"), forbid(unsafe_code))]

pub mod clock;
pub mod ids;
pub mod protocol;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "cli")]
pub mod feed;

#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod control;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(feature = "server")]
pub mod fanout;
#[cfg(feature = "server")]
pub mod kernel;
#[cfg(feature = "server")]
pub mod limits;
#[cfg(feature = "server")]
pub mod session;
#[cfg(feature = "server")]
pub mod shard;
#[cfg(feature = "server")]
pub mod topic;
