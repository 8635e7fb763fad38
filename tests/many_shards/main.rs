//! All shards of an engine and the mesh between them, in virtual time: clients that reconnect to any shard, channels that are full,
//! shards that stall and sleep, and for each shard a model of what it may show.
//!
//! Which seeds: see `runner`. `tests/simulation/seeds` looks at thousands of them.

#![allow(unreachable_pub, reason = "a test of several files")]

#[path = "../simulation/client.rs"]
mod client;
#[path = "../simulation/explain.rs"]
mod explain;
mod follow;
#[path = "../simulation/model.rs"]
mod model;
#[path = "../simulation/reading.rs"]
mod reading;
mod rest;
#[path = "../simulation/runner.rs"]
mod runner;
#[path = "../simulation/scenario.rs"]
mod scenario;
mod seeds;
mod station;
#[path = "../simulation/stream.rs"]
mod stream;
#[path = "../simulation/tap.rs"]
mod tap;
mod world;
