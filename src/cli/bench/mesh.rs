//! `bench mesh`: a publisher on its topic's home shard, all subscribers on others, so that every patch crosses between shards.
//!
//! A client cannot choose its shard, and is not told. So connections are made one by one while nothing else happens, and the
//! admin port says whose number grew: those that are on the wrong one stay, and say nothing.

use std::fmt;
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::failed;
use super::ledger::Balance;
use super::load::Load;
use super::options::{CommonArgs, Cpus, pin};
use super::report::Spread;
use super::runs::{Outcome, repeat};
use super::server::{Metrics, Server};
use super::shape::{Drive, Shape};
use crate::cli::CliError;

/// Topics that are tried until one has its home where its publisher is; with n shards every n-th does.
const TOPICS: usize = 256;
/// For each subscriber that is wanted, so many connections are made at most.
const CONNECTIONS: u32 = 16;

/// The options of `bench mesh`.
#[derive(Debug, Args)]
pub(super) struct MeshArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Shards of the server.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=64))]
    shards: u32,
    /// CPUs of the shards, such as 0,1 [default: as `serve` places them].
    #[arg(long, value_name = "CPUS")]
    shard_cpus: Option<String>,
    /// Subscribers, all on other shards than the publisher.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    subscribers: u32,
    /// Records a second [default: 100].
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "outstanding", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// As fast as it goes, with so many publishes unacknowledged.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    outstanding: Option<u64>,
    /// State: so many keys take turns; 0: events.
    #[arg(long, value_name = "KEYS", default_value_t = 0)]
    keyed: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 128)]
    bytes: usize,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before, which are not.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
}

/// What came of it.
#[derive(Debug, Deserialize, Serialize)]
struct MeshResult {
    scenario: String,
    congestion: String,
    shards: u32,
    /// The shard of publisher and topic.
    home: usize,
    /// Subscribers by shard.
    subscribers_by_shard: Vec<u64>,
    rate: Option<u64>,
    outstanding: Option<u64>,
    seconds: f64,
    delivered_per_second: f64,
    delivered_per_cpu_second: f64,
    cpu_ns_per_delivery: f64,
    /// Of all shards together; the generator may share a CPU with one of them.
    server_busy_percent: f64,
    /// Patches sent from shard to shard, and forwarded untouched to subscribers.
    transfers: u64,
    forwarded_patches: u64,
    latency: Spread,
    verified_records: u64,
    ledger: Balance,
}

/// Runs the scenario.
pub(super) fn run(args: &MeshArgs) -> Result<(), CliError> {
    args.common.no_peer("mesh")?;
    repeat(&args.common, |cpus| once(args, cpus))
}

fn once(args: &MeshArgs, cpus: Cpus) -> Result<MeshResult, CliError> {
    let options = &args.common;
    let server = Server::start_with(options, cpus, args.shards, args.shard_cpus.as_deref())?;
    pin(server.cpus.generator)?;
    let (mut load, home, apart) = at_home(args, &server)?;
    let strangers = subscribe_elsewhere(args, &server, &mut load, home)?;
    load.await_first_patches()?;
    let subscribers_by_shard = server.metrics()?.by_shard("tidegate_subscribers", args.shards);
    if subscribers_by_shard[home] != 0 {
        return Err(failed(format!(
            "subscribers are on shard {home}, where the publisher is: {subscribers_by_shard:?}"
        )));
    }

    let rate = args.outstanding.is_none().then(|| args.rate.unwrap_or(100));
    let drive = rate.map_or(Drive::Outstanding(args.outstanding.unwrap_or(1)), Drive::Rate);
    load.run_for(Duration::from_secs_f64(args.warm_up), drive)?;
    let (totals, metrics, cpu, start) = (load.totals(), server.metrics()?, server.cpu_time()?, Instant::now());
    load.observations.is_measuring = true;
    load.run_for(Duration::from_secs_f64(args.seconds), drive)?;
    load.observations.is_measuring = false;
    let (elapsed, cpu, after) = (start.elapsed().as_secs_f64(), server.cpu_time()? - cpu, load.totals());
    let later = server.metrics()?;
    load.drain()?;

    let of = |name| (later.sum(name, "") - metrics.sum(name, "")) as u64;
    let delivered = after.delivered - totals.delivered;
    let result = MeshResult {
        scenario: "mesh".into(),
        congestion: options.congestion.clone(),
        shards: args.shards,
        home,
        subscribers_by_shard,
        rate,
        outstanding: args.outstanding,
        seconds: elapsed,
        delivered_per_second: delivered as f64 / elapsed,
        delivered_per_cpu_second: delivered as f64 * 1e9 / cpu.used_ns.max(1) as f64,
        cpu_ns_per_delivery: cpu.used_ns as f64 / (after.messages - totals.messages).max(1) as f64,
        server_busy_percent: cpu.busy_percent(elapsed),
        transfers: of("tidegate_transfers_total"),
        forwarded_patches: of("tidegate_forwarded_patches_total"),
        latency: Spread::from(&load.observations.latency),
        verified_records: load.verified().1,
        ledger: load.balance(&server)?,
    };
    drop((load, apart, strangers));
    server.end()?;
    Ok(result)
}

/// A publisher on the home shard of its topic, that shard, and those publishers that were elsewhere.
fn at_home(args: &MeshArgs, server: &Server) -> Result<(Load, usize, Vec<Load>), CliError> {
    let shape = Shape { bytes: args.bytes, keys: args.keyed, ..Shape::plain(0) };
    let mut apart = Vec::new();
    for _ in 0..TOPICS {
        let before = server.metrics()?;
        let load = Load::connect(server, &args.common, &shape)?;
        let after = server.metrics()?;
        let shard = grown(&before, &after, "tidegate_connections", args.shards)?;
        if shard == grown(&before, &after, "tidegate_topics", args.shards)? {
            return Ok((load, shard, apart));
        }
        apart.push(load);
    }
    Err(failed(format!("of {TOPICS} topics none had its home where its publisher was")))
}

/// Makes subscribers on other shards than `home`; returns the connections that were there.
fn subscribe_elsewhere(
    args: &MeshArgs,
    server: &Server,
    load: &mut Load,
    home: usize,
) -> Result<Vec<super::connection::Connection>, CliError> {
    let mut strangers = Vec::new();
    let mut before = server.metrics()?;
    for _ in 0..args.subscribers.saturating_mul(CONNECTIONS) {
        if load.subscribers.len() == args.subscribers as usize {
            return Ok(strangers);
        }
        let guest = load.guest(server, &args.common)?;
        let after = server.metrics()?;
        if grown(&before, &after, "tidegate_connections", args.shards)? == home {
            strangers.push(guest);
        } else {
            load.adopt(guest)?;
        }
        before = after;
    }
    Err(failed("hardly any connection comes to another shard than the publisher's"))
}

/// The one shard on which a number has grown.
fn grown(before: &Metrics, after: &Metrics, name: &str, shards: u32) -> Result<usize, CliError> {
    let (before, after) = (before.by_shard(name, shards), after.by_shard(name, shards));
    let mut grown = (0..shards as usize).filter(|shard| after[*shard] > before[*shard]);
    match (grown.next(), grown.next()) {
        (Some(shard), None) => Ok(shard),
        _ => Err(failed(format!("{name} went from {before:?} to {after:?}: does somebody else use this server?"))),
    }
}

impl Outcome for MeshResult {
    fn ledgers(&self) -> Vec<&Balance> {
        vec![&self.ledger]
    }

    fn figures(&self) -> String {
        format!(
            "{:.2} million records per server CPU second, {:.2} us CPU per delivery, latency {}",
            self.delivered_per_cpu_second / 1e6,
            self.cpu_ns_per_delivery / 1e3,
            self.latency
        )
    }
}

impl fmt::Display for MeshResult {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let drive = match (self.rate, self.outstanding) {
            (Some(rate), _) => format!("{rate} records/s"),
            (None, outstanding) => format!("{} publishes outstanding", outstanding.unwrap_or(0)),
        };
        writeln!(
            out,
            "mesh: {} shards, publisher on {}, subscribers {:?}, {drive}, {:.1} s, congestion control {}",
            self.shards, self.home, self.subscribers_by_shard, self.seconds, self.congestion
        )?;
        writeln!(
            out,
            "  delivered  {:.0} records/s, {:.2} million per server CPU second",
            self.delivered_per_second,
            self.delivered_per_cpu_second / 1e6
        )?;
        writeln!(
            out,
            "  server     busy {:.1} % of one CPU, {:.2} us CPU per delivery; {} patches from shard to shard, forwarded {} times",
            self.server_busy_percent,
            self.cpu_ns_per_delivery / 1e3,
            self.transfers,
            self.forwarded_patches
        )?;
        writeln!(out, "  latency    {} (of the oldest record of each patch)", self.latency)?;
        writeln!(out, "  verified   {} records", self.verified_records)?;
        write!(out, "{}", self.ledger)
    }
}
