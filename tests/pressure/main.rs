//! Relevance under pressure: four priorities at equal rates to a reader of 20 kB/s. Low loses most, normal less, high what its
//! window says, critical nothing; a reader that keeps up loses nothing.
//!
//! In virtual time with figures, on real sockets by the outcome alone.

mod account;
mod freshness;
mod hot_keys;
mod link;
mod sockets;
#[path = "../support/mod.rs"]
mod support;
mod virtual_time;
