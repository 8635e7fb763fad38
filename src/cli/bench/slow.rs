//! `bench slow`: how old is what subscribers hold, when some of them read slowly?

use std::fmt;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::ledger::Balance;
use super::load::{Ages, Drive, Load, Shape};
use super::options::{CommonArgs, pin};
use super::report::{Spread, finish};
use super::server::Server;
use crate::cli::CliError;

/// The options of `bench slow`.
#[derive(Debug, Args)]
pub(super) struct SlowArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Subscribers, slow ones among them.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    subscribers: u32,
    /// Records a second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Keys that take turns; 0: events.
    #[arg(long, default_value_t = 20)]
    keys: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 128)]
    bytes: usize,
    /// Subscribers that read slowly.
    #[arg(long, default_value_t = 30)]
    slow: u32,
    /// Bytes a second that each of them reads.
    #[arg(long, default_value_t = 20_000, value_name = "BYTES")]
    slow_rate: u64,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Seconds before, which are not.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Milliseconds between two looks at what everyone holds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    sample_ms: u64,
    /// Bytes of credit of each subscriber; 0: plain clients, which only answer pings when they read them.
    #[arg(long, default_value_t = 0)]
    credit: u64,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct SlowResult {
    scenario: &'static str,
    /// The other server that was measured; none: Tidegate.
    peer: Option<String>,
    congestion: String,
    subscribers: u32,
    slow: u32,
    slow_rate: u64,
    rate: u64,
    credit: u64,
    seconds: u64,
    /// Age of the newest record that a subscriber holds.
    slow_age: Spread,
    /// ... in the last quarter of the run: larger than in the whole where it grows.
    slow_age_last_quarter: Spread,
    healthy_age: Spread,
    slow_bytes_per_second: f64,
    server_cpu_percent: f64,
    /// Server memory at the beginning, at most, and in the end.
    rss_first_mb: f64,
    rss_max_mb: f64,
    rss_last_mb: f64,
    /// Once a second.
    rss_mb: Vec<f64>,
    verified_records: u64,
    verified_checksums: u64,
    ledger: Balance,
}

/// Runs the scenario.
pub(super) fn run(args: &SlowArgs) -> Result<(), CliError> {
    let options = &args.common;
    let server = Server::start(options)?;
    pin(server.cpus.generator)?;
    let shape = Shape {
        subscribers: args.subscribers as usize,
        slow: args.slow.min(args.subscribers) as usize,
        slow_rate: args.slow_rate,
        bytes: args.bytes,
        keys: args.keys,
        credit: args.credit,
        samples_ages: true,
    };
    let mut load = Load::connect(&server, options, &shape)?;
    let drive = Drive::Rate(args.rate);
    load.run_for(Duration::from_secs_f64(args.warm_up), drive)?;

    let interval = Duration::from_millis(args.sample_ms);
    load.sampling = Some((interval, Ages::new()));
    let (mut whole, mut last) = (Ages::new(), Ages::new());
    let mut rss_mb = vec![server.memory()?.rss as f64 / 1e6];
    let (cpu, slow_bytes) = (server.cpu_time()?, load.slow_bytes());
    for second in 0..args.seconds {
        load.run_for(Duration::from_secs(1), drive)?;
        rss_mb.push(server.memory()?.rss as f64 / 1e6);
        if let Some((_, ages)) = load.sampling.replace((interval, Ages::new())) {
            whole.add(&ages);
            if second >= args.seconds * 3 / 4 {
                last.add(&ages);
            }
        }
    }
    let (cpu, slow_bytes) = (server.cpu_time()? - cpu, load.slow_bytes() - slow_bytes);
    load.drain()?;

    let (_, verified_records, verified_checksums) = load.verified();
    let result = SlowResult {
        scenario: "slow",
        peer: options.peer_name(),
        congestion: options.congestion.clone(),
        subscribers: args.subscribers,
        slow: args.slow,
        slow_rate: args.slow_rate,
        rate: args.rate,
        credit: args.credit,
        seconds: args.seconds,
        slow_age: Spread::from(&whole.slow),
        slow_age_last_quarter: Spread::from(&last.slow),
        healthy_age: Spread::from(&whole.healthy),
        slow_bytes_per_second: slow_bytes as f64 / f64::from(args.slow.max(1)) / args.seconds as f64,
        server_cpu_percent: cpu.used_ns as f64 / args.seconds as f64 / 1e7,
        rss_first_mb: rss_mb[0],
        rss_max_mb: rss_mb.iter().copied().fold(0.0, f64::max),
        rss_last_mb: rss_mb[rss_mb.len() - 1],
        rss_mb,
        verified_records,
        verified_checksums,
        ledger: load.balance(&server)?,
    };
    finish(&result, Some(&result.ledger), options.json)
}

impl fmt::Display for SlowResult {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients = if self.credit > 0 { format!("{} bytes of credit", self.credit) } else { "plain clients".into() };
        writeln!(
            out,
            "slow: {} of {} subscribers read {} bytes/s of {} records/s, {clients}, {} s, congestion control {}",
            self.slow, self.subscribers, self.slow_rate, self.rate, self.seconds, self.congestion
        )?;
        if let Some(peer) = &self.peer {
            writeln!(out, "  server     {peer}")?;
        }
        writeln!(out, "  slow       age {}; they read {:.0} bytes/s", self.slow_age, self.slow_bytes_per_second)?;
        writeln!(out, "             age {} in the last quarter", self.slow_age_last_quarter)?;
        writeln!(out, "  healthy    age {}", self.healthy_age)?;
        writeln!(
            out,
            "  server     {:.1} % of a core; {:.1} MB at first, {:.1} at most, {:.1} at last",
            self.server_cpu_percent, self.rss_first_mb, self.rss_max_mb, self.rss_last_mb
        )?;
        writeln!(out, "  verified   {} records and {} checksums", self.verified_records, self.verified_checksums)?;
        write!(out, "{}", self.ledger)
    }
}
