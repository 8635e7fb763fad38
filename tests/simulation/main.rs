//! The production turn of a shard in virtual time: random clients, limits and faults from a seed, and a model that every patch
//! is held against.
//!
//! `TIDEGATE_SEEDS=5000` looks at so many seeds, `TIDEGATE_SEED=17` replays one and says what happens.

#![allow(unreachable_pub, reason = "a test of several files")]

mod client;
mod explain;
mod model;
mod reading;
mod scenario;
mod seeds;
mod stream;
mod tap;
mod world;
