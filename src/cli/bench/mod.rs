//! `tidegate bench`: measures the engine, and ends each run with the ledger.
//!
//! The server is a process of its own on one core; the load generator is this process, one thread on another core: plain
//! non-blocking sockets, and of each patch only what has to be known. One subscriber in 50 decodes and verifies every record.

#![forbid(unsafe_code)]

mod ages;
mod bare;
mod connection;
mod depth;
mod dialect;
mod fanout;
mod feed;
mod frames;
mod idle;
mod ingest;
mod ledger;
mod load;
mod mesh;
mod options;
mod pace;
mod payload;
mod process;
mod publisher;
mod report;
mod runs;
mod saturation;
mod server;
mod shape;
mod slow;
mod socket;
mod storm;

use clap::{Args, Subcommand};

use super::exit::{CliError, Exit};

/// The options of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// One publisher, many subscribers: records per second and per CPU second, latency, CPU per delivery.
    Fanout(fanout::FanoutArgs),
    /// Some subscribers read slowly: how old is the newest record that each of them holds?
    Slow(slow::SlowArgs),
    /// Publishers on one shard, subscribers on others: what it costs that patches cross between shards.
    Mesh(mesh::MeshArgs),
    /// Many publishers, one subscriber: records per second and per CPU second.
    Ingest(ingest::IngestArgs),
    /// Subscribed connections on which nothing happens: memory for each.
    Idle(idle::IdleArgs),
    /// Many clients come back at once: how long until all are current, and what do the others feel?
    Storm(storm::StormArgs),
    /// A market's books at a multiple of its speed, to many dashboards: bytes on the wire beside JSON.
    Depth(depth::DepthArgs),
    /// The other side of `fanout --rate`: sends as many bytes to as many sockets, and nothing else.
    #[command(hide = true)]
    BareSend(bare::BareSendArgs),
}

/// Runs the command.
///
/// # Errors
/// If the server cannot be started or reached, a connection breaks, a record is wrong, or the ledger does not close.
pub fn run(args: &BenchArgs) -> Result<(), CliError> {
    match &args.scenario {
        Scenario::Fanout(args) => fanout::run(args),
        Scenario::Slow(args) => slow::run(args),
        Scenario::Mesh(args) => mesh::run(args),
        Scenario::Ingest(args) => ingest::run(args),
        Scenario::Idle(args) => idle::run(args),
        Scenario::Storm(args) => storm::run(args),
        Scenario::Depth(args) => depth::run(args),
        Scenario::BareSend(args) => bare::send(args),
    }
}

/// What went wrong while measuring.
fn failed(what: impl std::fmt::Display) -> CliError {
    CliError::new(Exit::Failure, what)
}
