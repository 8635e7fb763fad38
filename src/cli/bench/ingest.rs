//! `bench ingest`: many publishers to one topic, one subscriber.

use std::fmt;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ledger::Balance;
use super::load::Load;
use super::options::{CommonArgs, Cpus, pin};
use super::pace::PaceArgs;
use super::payload::MAX_ORIGINS;
use super::report::Spread;
use super::runs::{Outcome, repeat};
use super::saturation::Saturation;
use super::server::Server;
use super::shape::{Drive, Shape, pace};
use crate::cli::CliError;

/// The options of `bench ingest`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --rate and --outstanding: as fast as it goes, with 16 publishes of each publisher outstanding."
)]
pub(super) struct IngestArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Publishers, each on a connection of its own.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..i64::from(MAX_ORIGINS)))]
    publishers: u32,
    #[command(flatten)]
    pace: PaceArgs,
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
    #[serde(flatten)]
    saturation: Saturation,
    server_rss_mb: f64,
    latency: Spread,
    verified_records: u64,
    ledger: Balance,
}

/// Runs the scenario.
pub(super) fn run(args: &IngestArgs) -> Result<(), CliError> {
    args.common.no_peer("ingest")?;
    repeat(&args.common, u64::from(args.publishers) + 1, |cpus| once(args, cpus))
}

fn once(args: &IngestArgs, cpus: Cpus) -> Result<IngestResult, CliError> {
    let options = &args.common;
    let server = Server::start(options, cpus)?;
    pin(server.cpus.generator)?;
    let PaceArgs { bytes, keyed: keys, .. } = args.pace;
    let shape = Shape { bytes, keys, publishers: args.publishers, ..Shape::plain(1) };
    let mut load = Load::connect(&server, options, &shape)?;
    let drive = args.pace.drive(Drive::Outstanding(16));
    let measured = args.pace.measure(&mut load, &server, drive)?;
    let publishes = measured.acknowledged;
    let result = IngestResult {
        scenario: "ingest".into(),
        congestion: options.congestion.clone(),
        publishers: args.publishers,
        rate: drive.rate(),
        outstanding: drive.outstanding(),
        seconds: measured.spent.seconds,
        publishes,
        publishes_per_second: publishes as f64 / measured.spent.seconds,
        publishes_per_cpu_second: publishes as f64 * 1e9 / measured.spent.server.used_ns().max(1) as f64,
        saturation: Saturation::of(&measured.spent, &server, drive)?,
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
            "{:.0} publishes/s, {:.0} thousand per server CPU second, latency {}, server busy {:.1} %{}",
            self.publishes_per_second,
            self.publishes_per_cpu_second / 1e3,
            self.latency,
            self.saturation.server_busy_percent,
            self.saturation.remark()
        )
    }
}

impl fmt::Display for IngestResult {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let drive = pace(self.rate, self.outstanding);
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
        writeln!(out, "  server     {:.1} MB", self.server_rss_mb)?;
        writeln!(out, "{}", self.saturation)?;
        writeln!(out, "  latency    {} to the subscriber (of the oldest record of each patch)", self.latency)?;
        writeln!(out, "  verified   {} records", self.verified_records)?;
        write!(out, "{}", self.ledger)
    }
}
