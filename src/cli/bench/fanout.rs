//! `bench fanout`: one publisher, many subscribers.

use std::fmt;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::bare::{self, BareResult};
use super::ledger::Balance;
use super::load::Load;
use super::options::{CommonArgs, Cpus, pin};
use super::report::Spread;
use super::runs::{Outcome, repeat};
use super::saturation::{Saturation, Watch};
use super::server::Server;
use super::shape::{Drive, Shape};
use crate::cli::CliError;
use crate::cli::seconds::seconds;

/// The options of `bench fanout`.
#[derive(Debug, Args)]
pub(super) struct FanoutArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Subscribers.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    subscribers: u32,
    /// Records a second, due by the clock whatever the server does; without it, as fast as it goes.
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "outstanding", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// As fast as it goes, with so many publishes unacknowledged [default: 64].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    outstanding: Option<u64>,
    /// Bytes of each value.
    #[arg(long, default_value_t = 128)]
    bytes: usize,
    /// Events: each must arrive (the default).
    #[arg(long, conflicts_with = "keyed")]
    events: bool,
    /// State: so many keys take turns.
    #[arg(long, value_name = "KEYS")]
    keyed: Option<u64>,
    /// Leave out the bare send loop that a delivery at --rate is compared with.
    #[arg(long, requires = "rate")]
    no_bare: bool,
    /// Seconds that are measured.
    #[arg(long, default_value = "10", value_parser = seconds, allow_negative_numbers = true)]
    seconds: Duration,
    /// Seconds before, which are not.
    #[arg(long, default_value = "2", value_parser = seconds, allow_negative_numbers = true)]
    warm_up: Duration,
    /// Bytes of credit of each subscriber; 0: plain clients.
    #[arg(long, default_value_t = 0)]
    credit: u64,
}

/// What came of it.
#[derive(Debug, Deserialize, Serialize)]
struct FanoutResult {
    scenario: String,
    /// The other server that was measured; none: Tidegate.
    peer: Option<String>,
    congestion: String,
    subscribers: u32,
    rate: Option<u64>,
    outstanding: Option<u64>,
    seconds: f64,
    delivered: u64,
    patches: u64,
    delivered_per_second: f64,
    delivered_per_cpu_second: f64,
    bytes_per_record: f64,
    records_per_patch: f64,
    /// Server CPU for each patch that a subscriber received.
    cpu_ns_per_delivery: f64,
    bare_ns_per_send: Option<f64>,
    /// By how much a delivery costs more than a bare send.
    ratio_to_bare: Option<f64>,
    #[serde(flatten)]
    saturation: Saturation,
    server_rss_mb: f64,
    sends_per_turn: f64,
    enters_per_turn: f64,
    latency: Spread,
    verifying_subscribers: usize,
    verified_records: u64,
    verified_checksums: u64,
    ledger: Balance,
}

/// Runs the scenario.
pub(super) fn run(args: &FanoutArgs) -> Result<(), CliError> {
    let subscribers = u64::from(args.subscribers);
    // The bare loop's readers are there beside them.
    let bare = if args.rate.is_some() && !args.no_bare { subscribers } else { 0 };
    repeat(&args.common, subscribers + 1 + bare, |cpus| once(args, cpus))
}

fn once(args: &FanoutArgs, cpus: Cpus) -> Result<FanoutResult, CliError> {
    let options = &args.common;
    let server = Server::start(options, cpus)?;
    pin(server.cpus.generator)?;
    let keys = args.keyed.unwrap_or(0);
    let shape = Shape { bytes: args.bytes, keys, credit: args.credit, ..Shape::plain(args.subscribers as usize) };
    let mut load = Load::connect(&server, options, &shape)?;
    let outstanding = args.rate.is_none().then(|| args.outstanding.unwrap_or(64));
    let drive = outstanding.map_or(Drive::Rate(args.rate.unwrap_or(1)), Drive::Outstanding);

    load.run_for(args.warm_up, drive)?;
    let mut bare = None;
    let compared = args.rate.filter(|_| !args.no_bare);
    if let Some(rate) = compared {
        bare = Some(measure_bare(args, &server, &load, rate)?);
        // The connections were idle meanwhile: they are as warm again before the measurement.
        load.run_for(args.warm_up.min(Duration::from_secs(1)), drive)?;
    }
    let (totals, metrics) = (load.totals(), server.metrics()?);
    let watch = Watch::start(&server)?;
    load.observations.is_measuring = true;
    load.run_for(args.seconds, drive)?;
    load.observations.is_measuring = false;
    let spent = watch.stop(&server)?;
    let after = load.totals();
    let later = server.metrics()?;
    if let (Some(first), Some(rate)) = (bare.take(), compared) {
        // Before and after, so that what else the machine does weighs on both.
        bare = Some(first.and(&measure_bare(args, &server, &load, rate)?));
    }
    load.drain()?;

    let (delivered, patches) = (after.delivered - totals.delivered, after.messages - totals.messages);
    let per_turn = |name| {
        let of = |name| later.sum(name, "") - metrics.sum(name, "");
        of(name) / of("tidegate_turns_total").max(1.0)
    };
    let (verifying_subscribers, verified_records, verified_checksums) = load.verified();
    let (elapsed, cpu_ns) = (spent.seconds, spent.server.used_ns());
    let cpu_ns_per_delivery = cpu_ns as f64 / patches.max(1) as f64;
    let result = FanoutResult {
        scenario: "fanout".into(),
        peer: options.peer_name(),
        congestion: options.congestion.clone(),
        subscribers: args.subscribers,
        rate: args.rate,
        outstanding,
        seconds: elapsed,
        delivered,
        patches,
        delivered_per_second: delivered as f64 / elapsed,
        delivered_per_cpu_second: delivered as f64 * 1e9 / cpu_ns.max(1) as f64,
        bytes_per_record: (after.bytes - totals.bytes) as f64 / delivered.max(1) as f64,
        records_per_patch: delivered as f64 / patches.max(1) as f64,
        cpu_ns_per_delivery,
        bare_ns_per_send: bare.as_ref().map(BareResult::ns_per_send),
        ratio_to_bare: bare.as_ref().map(|bare| cpu_ns_per_delivery / bare.ns_per_send()),
        saturation: Saturation::of(&spent, &server, drive)?,
        server_rss_mb: server.memory()?.rss as f64 / 1e6,
        sends_per_turn: per_turn("tidegate_kernel_sends_total"),
        enters_per_turn: per_turn("tidegate_kernel_enters_total"),
        latency: Spread::from(&load.observations.latency),
        verifying_subscribers,
        verified_records,
        verified_checksums,
        ledger: load.balance(&server)?,
    };
    drop(load);
    server.end()?;
    Ok(result)
}

/// Half of the bare loop's share: it runs before and after.
fn measure_bare(args: &FanoutArgs, server: &Server, load: &Load, rate: u64) -> Result<BareResult, CliError> {
    let totals = load.totals();
    let bytes = (totals.bytes / totals.messages.max(1)).max(1) as usize;
    bare::measure(&args.common, server, args.subscribers as usize, bytes, rate, args.seconds / 2)
}

impl Outcome for FanoutResult {
    fn ledgers(&self) -> Vec<&Balance> {
        vec![&self.ledger]
    }

    fn figures(&self) -> String {
        let bare = self.ratio_to_bare.map_or_else(String::new, |ratio| format!(" ({ratio:.3} x a bare send)"));
        format!(
            "{:.2} million records per server CPU second, {:.2} us CPU per delivery{bare}, latency {}, server busy {:.1} %{}",
            self.delivered_per_cpu_second / 1e6,
            self.cpu_ns_per_delivery / 1e3,
            self.latency,
            self.saturation.server_busy_percent,
            self.saturation.remark()
        )
    }
}

impl fmt::Display for FanoutResult {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subscribers, congestion, seconds, .. } = self;
        let drive = match (self.rate, self.outstanding) {
            (Some(rate), _) => format!("{rate} records/s"),
            (None, outstanding) => format!("{} publishes outstanding", outstanding.unwrap_or(0)),
        };
        writeln!(out, "fanout: {subscribers} subscribers, {drive}, {seconds:.1} s, congestion control {congestion}")?;
        writeln!(
            out,
            "  delivered  {:.0} records/s, {:.2} million per server CPU second, {:.1} records and {:.0} bytes per patch, \
             {:.1} bytes per record",
            self.delivered_per_second,
            self.delivered_per_cpu_second / 1e6,
            self.records_per_patch,
            self.bytes_per_record * self.records_per_patch,
            self.bytes_per_record
        )?;
        if let Some(peer) = &self.peer {
            writeln!(out, "  server     {peer}")?;
        }
        writeln!(
            out,
            "  server     {:.2} us CPU per delivery, {:.1} MB, {:.1} sends and {:.2} enters per turn",
            self.cpu_ns_per_delivery / 1e3,
            self.server_rss_mb,
            self.sends_per_turn,
            self.enters_per_turn
        )?;
        writeln!(out, "{}", self.saturation)?;
        if let (Some(bare), Some(ratio)) = (self.bare_ns_per_send, self.ratio_to_bare) {
            writeln!(out, "  bare send  {:.2} us CPU per send: a delivery costs {ratio:.3} times that", bare / 1e3)?;
        }
        writeln!(out, "  latency    {} (of the oldest record of each patch)", self.latency)?;
        writeln!(
            out,
            "  verified   {} records and {} checksums by {} subscribers",
            self.verified_records, self.verified_checksums, self.verifying_subscribers
        )?;
        write!(out, "{}", self.ledger)
    }
}
