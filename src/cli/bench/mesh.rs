//! `bench mesh`: publishers on their topic's home shard, all subscribers on others, so that every patch crosses between shards.
//!
//! A client cannot choose its shard, and is not told. So connections are made one by one while nothing else happens, and the
//! admin port says whose number grew: those that are on the wrong one stay, and say nothing.

use std::fmt;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::connection::Connection;
use super::failed;
use super::ledger::Balance;
use super::load::Load;
use super::options::{CommonArgs, Cpus, check_cpus, pin};
use super::pace::{Measured, PaceArgs};
use super::payload::MAX_ORIGINS;
use super::report::Spread;
use super::runs::{Outcome, repeat};
use super::saturation::Saturation;
use super::server::{Metrics, Server};
use super::shape::{Drive, Shape, pace};
use crate::cli::CliError;

/// Topics that are tried until one has its home where its publisher is; with n shards every n-th does.
const TOPICS: usize = 256;
/// For each publisher and subscriber that is wanted, so many connections are made at most.
const CONNECTIONS: u32 = 16;

/// Descriptors are asked for so many connections more of each shard.
const STRAYS_PER_SHARD: u64 = 16;

/// The options of `bench mesh`.
#[derive(Debug, Args)]
#[command(after_help = "Without --rate and --outstanding: 100 records a second.")]
pub(super) struct MeshArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Shards of the server.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=64))]
    shards: u32,
    /// CPUs of the shards, such as 0,1 [default: as `serve` places them].
    #[arg(long, value_name = "CPUS")]
    shard_cpus: Option<String>,
    /// Publishers, all on the home shard of their topic, each on a connection of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..i64::from(MAX_ORIGINS)))]
    publishers: u32,
    /// Subscribers, all on other shards than the publishers.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    subscribers: u32,
    #[command(flatten)]
    pace: PaceArgs,
}

/// What came of it.
#[derive(Debug, Deserialize, Serialize)]
struct MeshResult {
    scenario: String,
    congestion: String,
    shards: u32,
    publishers: u32,
    /// The shard of the publishers and their topic.
    home: usize,
    /// Subscribers by shard.
    subscribers_by_shard: Vec<u64>,
    rate: Option<u64>,
    outstanding: Option<u64>,
    seconds: f64,
    delivered_per_second: f64,
    delivered_per_cpu_second: f64,
    cpu_ns_per_delivery: f64,
    /// The generator may share a CPU with one of the shards.
    #[serde(flatten)]
    saturation: Saturation,
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
    if let Some(cpus) = &args.shard_cpus {
        check_cpus("--shard-cpus", cpus)?;
    }
    let (shards, publishers) = (u64::from(args.shards), u64::from(args.publishers));
    let subscribers = u64::from(args.subscribers);
    // Shards are given connections in turn: as many come to each one that cannot be used there, and a few look for the home.
    let elsewhere = publishers * (shards - 1) + subscribers.div_ceil(shards - 1) + STRAYS_PER_SHARD * shards;
    repeat(&args.common, publishers + subscribers + elsewhere, |cpus| once(args, cpus))
}

fn once(args: &MeshArgs, cpus: Cpus) -> Result<MeshResult, CliError> {
    let options = &args.common;
    let server = Server::start_with(options, cpus, args.shards, args.shard_cpus.as_deref())?;
    pin(server.cpus.generator)?;
    let PaceArgs { bytes, keyed: keys, .. } = args.pace;
    let shape = Shape { bytes, keys, publishers_later: args.publishers - 1, ..Shape::plain(0) };
    let (mut load, home, apart) = at_home(args, &shape, &server)?;
    let strangers = place(args, &shape, &server, &mut load, home)?;
    load.await_first_patches()?;
    let subscribers_by_shard = server.metrics()?.by_shard("tidegate_subscribers", args.shards);
    if subscribers_by_shard[home] != 0 {
        return Err(failed(format!(
            "subscribers are on shard {home}, where the publishers are: {subscribers_by_shard:?}"
        )));
    }
    let drive = args.pace.drive(Drive::Rate(100));
    let measured = args.pace.measure(&mut load, &server, drive)?;
    let frames = measured.growth_by_shard("tidegate_frames_received_total", args.shards);
    if frames.iter().sum::<u64>() != frames[home] {
        return Err(failed(format!("not all that was published came in on shard {home}: {frames:?}")));
    }

    let Measured { spent, totals, .. } = &measured;
    let (seconds, cpu_ns) = (spent.seconds, spent.server.used_ns());
    let result = MeshResult {
        scenario: "mesh".into(),
        congestion: options.congestion.clone(),
        shards: args.shards,
        publishers: args.publishers,
        home,
        subscribers_by_shard,
        rate: drive.rate(),
        outstanding: drive.outstanding(),
        seconds,
        delivered_per_second: totals.delivered as f64 / seconds,
        delivered_per_cpu_second: totals.delivered as f64 * 1e9 / cpu_ns.max(1) as f64,
        cpu_ns_per_delivery: cpu_ns as f64 / totals.messages.max(1) as f64,
        saturation: Saturation::of(spent, &server, drive)?,
        transfers: measured.growth("tidegate_transfers_total"),
        forwarded_patches: measured.growth("tidegate_forwarded_patches_total"),
        latency: Spread::from(&load.observations.latency),
        verified_records: load.verified().1,
        ledger: load.balance(&server)?,
    };
    drop((load, apart, strangers));
    server.end()?;
    Ok(result)
}

/// The first publisher, on the home shard of its topic; that shard; and those publishers that were elsewhere.
fn at_home(args: &MeshArgs, shape: &Shape, server: &Server) -> Result<(Load, usize, Vec<Load>), CliError> {
    let mut apart = Vec::new();
    for _ in 0..TOPICS {
        let before = server.metrics()?;
        let load = Load::connect(server, &args.common, shape)?;
        let after = server.metrics()?;
        let shard = grown(&before, &after, "tidegate_connections", args.shards)?;
        if shard == grown(&before, &after, "tidegate_topics", args.shards)? {
            return Ok((load, shard, apart));
        }
        apart.push(load);
    }
    Err(failed(format!("of {TOPICS} topics none had its home where its publisher was")))
}

/// Makes the other publishers of connections to `home`, and subscribers of those to other shards; returns those that neither
/// needs.
fn place(
    args: &MeshArgs,
    shape: &Shape,
    server: &Server,
    load: &mut Load,
    home: usize,
) -> Result<Vec<Connection>, CliError> {
    let mut strangers = Vec::new();
    let mut before = server.metrics()?;
    for _ in 0..args.subscribers.saturating_add(args.publishers).saturating_mul(CONNECTIONS) {
        let has_publishers = load.publishers.len() == args.publishers as usize;
        let has_subscribers = load.subscribers.len() == args.subscribers as usize;
        if has_publishers && has_subscribers {
            return Ok(strangers);
        }
        let guest = load.guest(server, &args.common)?;
        let after = server.metrics()?;
        let is_at_home = grown(&before, &after, "tidegate_connections", args.shards)? == home;
        match (is_at_home, has_publishers, has_subscribers) {
            (true, false, _) => load.make_publisher(guest, shape)?,
            (false, _, false) => load.make_subscriber(guest)?,
            _ => strangers.push(guest),
        }
        before = after;
    }
    Err(failed("hardly any connection comes to the publishers' shard, or to another one"))
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
            "{:.2} million records per server CPU second, {:.2} us CPU per delivery, latency {}, server busy {:.1} %{}",
            self.delivered_per_cpu_second / 1e6,
            self.cpu_ns_per_delivery / 1e3,
            self.latency,
            self.saturation.server_busy_percent,
            self.saturation.remark()
        )
    }
}

impl fmt::Display for MeshResult {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let drive = pace(self.rate, self.outstanding);
        writeln!(
            out,
            "mesh: {} shards, {} publishers on {}, subscribers {:?}, {drive}, {:.1} s, congestion control {}",
            self.shards, self.publishers, self.home, self.subscribers_by_shard, self.seconds, self.congestion
        )?;
        writeln!(
            out,
            "  delivered  {:.0} records/s, {:.2} million per server CPU second",
            self.delivered_per_second,
            self.delivered_per_cpu_second / 1e6
        )?;
        writeln!(
            out,
            "  server     {:.2} us CPU per delivery; {} patches from shard to shard, forwarded {} times",
            self.cpu_ns_per_delivery / 1e3,
            self.transfers,
            self.forwarded_patches
        )?;
        writeln!(out, "{}", self.saturation)?;
        writeln!(out, "  latency    {} (of the oldest record of each patch)", self.latency)?;
        writeln!(out, "  verified   {} records", self.verified_records)?;
        write!(out, "{}", self.ledger)
    }
}
