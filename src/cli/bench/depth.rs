//! `bench depth`: a market's books, at a multiple of its speed, to many dashboards.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::failed;
use super::feed::Feed;
use super::ledger::Balance;
use super::load::Load;
use super::options::{CommonArgs, Cpus, pin};
use super::runs::{Outcome, repeat};
use super::server::Server;
use super::shape::{Drive, Shape};
use crate::cli::CliError;
use crate::cli::failure::Failure;
use crate::cli::seconds::seconds;
use crate::feed::market::Instrument;
use crate::feed::recorded::recorded;
use crate::feed::source::Source;

/// The capture that is played where it is there.
const CAPTURE: &str = "depth/binance_spot_btcusdt_20240808.gz";
/// Of the simulated market: where it begins, in Unix nanoseconds, and its seed.
const MARKET: (u64, u64) = (1_723_161_253_000_000_000, 1);

/// The options of `bench depth`.
#[derive(Debug, Args)]
pub(super) struct DepthArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// The capture to play [default: depth/binance_spot_btcusdt_20240808.gz in the directory TIDEGATE_DATA, else a simulated market].
    #[arg(long, value_name = "FILE", conflicts_with = "simulated")]
    replay: Option<PathBuf>,
    /// Play the simulated market, though a capture may be there.
    #[arg(long)]
    simulated: bool,
    /// Recorded seconds in a second.
    #[arg(long, default_value_t = 20.0, value_name = "N")]
    speed: f64,
    /// Subscribers, each to all topics of the market.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    dashboards: u32,
    /// Seconds that are measured; less, if the capture ends before.
    #[arg(long, default_value = "10", value_parser = seconds, allow_negative_numbers = true)]
    seconds: Duration,
    /// Seconds before, which are not.
    #[arg(long, default_value = "2", value_parser = seconds, allow_negative_numbers = true)]
    warm_up: Duration,
    /// Bytes of credit of each dashboard; 0: plain clients.
    #[arg(long, default_value_t = 0)]
    credit: u64,
}

/// What came of it.
#[derive(Debug, Deserialize, Serialize)]
struct DepthResult {
    scenario: String,
    congestion: String,
    /// What was played.
    source: String,
    speed: f64,
    dashboards: u32,
    seconds: f64,
    updates_per_second: f64,
    records_per_second: f64,
    /// On the wire, WebSocket headers and control frames included, to each dashboard.
    bytes_per_dashboard_second: f64,
    /// What the same updates are as JSON, one WebSocket message each.
    json_bytes_per_dashboard_second: f64,
    ratio_to_json: f64,
    patches_per_dashboard_second: f64,
    server_busy_percent: f64,
    server_rss_mb: f64,
    verified_records: u64,
    verified_checksums: u64,
    ledger: Balance,
}

/// Runs the scenario.
pub(super) fn run(args: &DepthArgs) -> Result<(), CliError> {
    args.common.no_peer("depth")?;
    if !(args.speed.is_finite() && args.speed > 0.0) {
        return Err(CliError::new(crate::cli::Exit::Usage, "--speed is a positive number"));
    }
    repeat(&args.common, u64::from(args.dashboards) + 1, |cpus| once(args, cpus))
}

fn once(args: &DepthArgs, cpus: Cpus) -> Result<DepthResult, CliError> {
    let options = &args.common;
    let (source, name) = source(args)?;
    let server = Server::start(options, cpus)?;
    pin(server.cpus.generator)?;
    let shape = Shape { credit: args.credit, ..Shape::plain(args.dashboards as usize) };
    let mut load = Load::connect_feed(&server, options, &shape, "**", Feed::new(source, args.speed))?;
    load.run_for(args.warm_up, Drive::Feed)?;

    let figures = |load: &Load| {
        let feed = load.feed().expect("it was connected with one");
        (load.totals(), feed.updates, feed.records, feed.json_bytes)
    };
    let (before, cpu, start) = (figures(&load), server.cpu_time()?, Instant::now());
    load.run_while(args.seconds, Drive::Feed, |load| load.feed().is_some_and(Feed::is_over))?;
    // What was published is to have arrived, so that both sides of the comparison are the same updates.
    load.drain()?;
    let (elapsed, cpu, after) = (start.elapsed().as_secs_f64(), server.cpu_time()? - cpu, figures(&load));
    if after.1 == before.1 {
        return Err(failed("the capture is over before the measurement: shorten --warm-up or lower --speed"));
    }

    let each = |count: u64| count as f64 / f64::from(args.dashboards) / elapsed;
    let (bytes, json) = (after.0.bytes - before.0.bytes, after.3 - before.3);
    let (_, verified_records, verified_checksums) = load.verified();
    let result = DepthResult {
        scenario: "depth".into(),
        congestion: options.congestion.clone(),
        source: name,
        speed: args.speed,
        dashboards: args.dashboards,
        seconds: elapsed,
        updates_per_second: (after.1 - before.1) as f64 / elapsed,
        records_per_second: (after.2 - before.2) as f64 / elapsed,
        bytes_per_dashboard_second: each(bytes),
        json_bytes_per_dashboard_second: json as f64 / elapsed,
        ratio_to_json: each(bytes) * elapsed / json as f64,
        patches_per_dashboard_second: each(after.0.messages - before.0.messages),
        server_busy_percent: server.busy_percent(&cpu, elapsed)?,
        server_rss_mb: server.memory()?.rss as f64 / 1e6,
        verified_records,
        verified_checksums,
        ledger: load.balance(&server)?,
    };
    drop(load);
    server.end()?;
    Ok(result)
}

fn source(args: &DepthArgs) -> Result<(Source, String), CliError> {
    let capture = args.replay.clone().or_else(|| recorded(CAPTURE).filter(|_| !args.simulated));
    if let Some(path) = capture {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Ok((Source::open(&path).map_err(Failure::from)?, format!("the recording {name}")));
    }
    let (start_ns, seed) = MARKET;
    let instruments = Instrument::examples();
    let name = format!("a simulated market of {} instruments, seed {seed}", instruments.len());
    Ok((Source::market(seed, start_ns, instruments), name))
}

impl Outcome for DepthResult {
    fn ledgers(&self) -> Vec<&Balance> {
        vec![&self.ledger]
    }

    fn figures(&self) -> String {
        format!(
            "{} x{}: {:.1} kB/s to each dashboard, {:.3} x the JSON of the same updates ({:.1}); server busy {:.1} %",
            self.source,
            self.speed,
            self.bytes_per_dashboard_second / 1e3,
            self.ratio_to_json,
            self.json_bytes_per_dashboard_second / 1e3,
            self.server_busy_percent
        )
    }
}

impl fmt::Display for DepthResult {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "depth: {}, {} times its speed, to {} dashboards, {:.1} s, congestion control {}",
            self.source, self.speed, self.dashboards, self.seconds, self.congestion
        )?;
        writeln!(
            out,
            "  published  {:.0} updates/s of {:.0} records/s",
            self.updates_per_second, self.records_per_second
        )?;
        writeln!(
            out,
            "  wire       {:.1} kB/s to each dashboard in {:.0} patches/s",
            self.bytes_per_dashboard_second / 1e3,
            self.patches_per_dashboard_second
        )?;
        writeln!(
            out,
            "  JSON       {:.1} kB/s, one message for each update: the wire has {:.3} times that",
            self.json_bytes_per_dashboard_second / 1e3,
            self.ratio_to_json
        )?;
        writeln!(out, "  server     busy {:.1} % of the time, {:.1} MB", self.server_busy_percent, self.server_rss_mb)?;
        writeln!(out, "  verified   {} records and {} checksums", self.verified_records, self.verified_checksums)?;
        write!(out, "{}", self.ledger)
    }
}
