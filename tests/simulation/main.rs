//! The production turn of a shard in virtual time: random clients, limits and faults from a seed, and a model that every patch
//! is held against.
//!
//! Which seeds: see `runner`. `tests/simulation/seeds` looks at thousands of them.

#![allow(unreachable_pub, reason = "a test of several files")]

mod client;
mod explain;
mod model;
mod reading;
mod runner;
mod scenario;
mod seeds;
mod stream;
mod tap;
mod world;
