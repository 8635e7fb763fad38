//! `bench ingest`: many publishers to one topic, one subscriber.

use std::fmt;
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ledger::Balance;
use super::load::Load;
use super::options::{CommonArgs, Cpus, pin};
use super::payload::MAX_ORIGINS;
use super::report::Spread;
use super::runs::{Outcome, repeat};
use super::server::Server;
use super::shape::{Drive, Shape};
use crate::cli::CliError;

/// The options of `bench ingest`.
#[derive(Debug, Args)]
pub(super) struct IngestArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Publishers, each on a connection of its own.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..i64::from(MAX_ORIGINS)))]
    publishers: u32,
    /// Records a second of all of them together; without it, as fast as it goes.
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "outstanding", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// As fast as it goes, with so many publishes of each publisher unacknowledged [default: 16].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    outstanding: Option<u64>,
    /// State: so many keys take turns, the same for all publishers; 0: events.
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
struct IngestResult {
    scenario: String,
    congestion: String,
    publishers: u32,
    rate: Option<u64>,
    outstanding: Option<u64>,
    seconds: f64,
    /// Acknowledged.
    publishes: u64,
    publishes_per_second: f64,
    publishes_per_cpu_second: f64,
    server_busy_percent: f64,
    server_rss_mb: f64,
    latency: Spread,
    verified_records: u64,
    ledger: Balance,
}

/// Runs the scenario.
pub(super) fn run(args: &IngestArgs) -> Result<(), CliError> {
    args.common.no_peer("ingest")?;
    repeat(&args.common, |cpus| once(args, cpus))
}

fn once(args: &IngestArgs, cpus: Cpus) -> Result<IngestResult, CliError> {
    let options = &args.common;
    let server = Server::start(options, cpus)?;
    pin(server.cpus.generator)?;
    let shape = Shape { bytes: args.bytes, keys: args.keyed, publishers: args.publishers, ..Shape::plain(1) };
    let mut load = Load::connect(&server, options, &shape)?;
    let outstanding = args.rate.is_none().then(|| args.outstanding.unwrap_or(16));
    let drive = outstanding.map_or(Drive::Rate(args.rate.unwrap_or(1)), Drive::Outstanding);
    load.run_for(Duration::from_secs_f64(args.warm_up), drive)?;
    let (acknowledged, cpu, start) = (load.acknowledged(), server.cpu_time()?, Instant::now());
    load.observations.is_measuring = true;
    load.run_for(Duration::from_secs_f64(args.seconds), drive)?;
    load.observations.is_measuring = false;
    let (elapsed, cpu) = (start.elapsed().as_secs_f64(), server.cpu_time()? - cpu);
    let publishes = load.acknowledged() - acknowledged;
    load.drain()?;
    let result = IngestResult {
        scenario: "ingest".into(),
        congestion: options.congestion.clone(),
        publishers: args.publishers,
        rate: args.rate,
        outstanding,
        seconds: elapsed,
        publishes,
        publishes_per_second: publishes as f64 / elapsed,
        publishes_per_cpu_second: publishes as f64 * 1e9 / cpu.used_ns.max(1) as f64,
        server_busy_percent: cpu.busy_percent(elapsed),
        server_rss_mb: server.memory()?.rss as f64 / 1e6,
        latency: Spread::from(&load.observations.latency),
        verified_records: load.verified().1,
        ledger: load.balance(&server)?,
    };
    drop(load);
    server.end()?;
    Ok(result)
}

impl Outcome for IngestResult {
    fn ledgers(&self) -> Vec<&Balance> {
        vec![&self.ledger]
    }

    fn figures(&self) -> String {
        format!(
            "{:.0} publishes/s, {:.0} thousand per server CPU second, latency {}, server busy {:.1} %",
            self.publishes_per_second,
            self.publishes_per_cpu_second / 1e3,
            self.latency,
            self.server_busy_percent
        )
    }
}

impl fmt::Display for IngestResult {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let drive = match (self.rate, self.outstanding) {
            (Some(rate), _) => format!("{rate} records/s"),
            (None, outstanding) => format!("{} publishes outstanding each", outstanding.unwrap_or(0)),
        };
        writeln!(
            out,
            "ingest: {} publishers, {drive}, {:.1} s, congestion control {}",
            self.publishers, self.seconds, self.congestion
        )?;
        writeln!(
            out,
            "  published  {:.0} records/s, one to a publish and acknowledged; {:.0} thousand per server CPU second",
            self.publishes_per_second,
            self.publishes_per_cpu_second / 1e3
        )?;
        writeln!(out, "  server     busy {:.1} % of the time, {:.1} MB", self.server_busy_percent, self.server_rss_mb)?;
        writeln!(out, "  latency    {} to the subscriber (of the oldest record of each patch)", self.latency)?;
        writeln!(out, "  verified   {} records", self.verified_records)?;
        write!(out, "{}", self.ledger)
    }
}
