//! `bench slow`: how old is what subscribers hold, when some of them read slowly?

use std::fmt;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ages::Ages;
use super::ledger::Balance;
use super::load::Load;
use super::options::{CommonArgs, Cpus, pin};
use super::report::{Spread, shown};
use super::runs::{Outcome, repeat};
use super::server::Server;
use super::shape::{Drive, Shape};
use crate::cli::seconds::seconds;
use crate::cli::{CliError, Exit};

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
    /// Subscribers that read nothing until the end, and then what is left.
    #[arg(long, default_value_t = 0, value_name = "N")]
    stalled: u32,
    /// Leave out the run without slow subscribers that the healthy ones are compared with.
    #[arg(long)]
    no_baseline: bool,
    /// Bytes a second that each slow one reads.
    #[arg(long, default_value_t = 20_000, value_name = "BYTES")]
    slow_rate: u64,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Seconds before, which are not.
    #[arg(long, default_value = "2", value_parser = seconds, allow_negative_numbers = true)]
    warm_up: Duration,
    /// Milliseconds between two looks at what everyone holds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    sample_ms: u64,
    /// Bytes of credit of each subscriber; 0: plain clients, which only answer pings when they read them.
    #[arg(long, default_value_t = 0)]
    credit: u64,
}

/// Server memory's growth is looked at over so many seconds before the end.
const GROWTH_SECONDS: usize = 60;
/// A run without slow subscribers is no longer than this.
const BASELINE_SECONDS: u64 = 20;

/// What came of it.
#[derive(Debug, Deserialize, Serialize)]
struct SlowResult {
    scenario: String,
    /// The other server that was measured; none: Tidegate.
    peer: Option<String>,
    congestion: String,
    subscribers: u32,
    slow: u32,
    stalled: u32,
    slow_rate: u64,
    rate: u64,
    credit: u64,
    seconds: u64,
    /// Age of what a subscriber holds, at a moment: the time since the first record newer than its newest was due to be published,
    /// 0 if there is none.
    slow_age: Spread,
    /// ... in the last quarter of the run: larger than in the whole where it grows.
    slow_age_last_quarter: Spread,
    /// Those that read nothing hold what they held at first.
    stalled_age: Spread,
    healthy_age: Spread,
    /// ... in a run with as many healthy ones, and no others.
    baseline_age: Option<Spread>,
    /// The p99 of both, divided; none where the baseline's is 0.
    healthy_p99_ratio: Option<f64>,
    slow_bytes_per_second: f64,
    server_cpu_percent: f64,
    /// Server memory at the beginning, at most, and in the end.
    rss_first_mb: f64,
    rss_max_mb: f64,
    rss_last_mb: f64,
    /// By how much it grew in the last `growth_seconds`: the mean of their last tenth beside that of the first.
    rss_growth_percent: f64,
    growth_seconds: u64,
    /// Once a second.
    rss_mb: Vec<f64>,
    verified_records: u64,
    verified_checksums: u64,
    ledger: Balance,
    baseline_ledger: Option<Balance>,
}

/// Runs the scenario.
pub(super) fn run(args: &SlowArgs) -> Result<(), CliError> {
    if args.slow + args.stalled > args.subscribers {
        return Err(CliError::new(Exit::Usage, "--slow and --stalled are more than --subscribers"));
    }
    repeat(&args.common, u64::from(args.subscribers) + 1, |cpus| once(args, cpus))
}

fn once(args: &SlowArgs, cpus: Cpus) -> Result<SlowResult, CliError> {
    let options = &args.common;
    let healthy = args.subscribers - args.slow - args.stalled;
    let mut baseline = None;
    if !args.no_baseline && healthy > 0 && healthy < args.subscribers {
        let observed = observe(args, cpus, healthy, (0, 0), args.seconds.min(BASELINE_SECONDS))?;
        baseline = Some((Spread::from(&observed.whole.healthy), observed.ledger));
    }
    let observed = observe(args, cpus, args.subscribers, (args.slow, args.stalled), args.seconds)?;
    let Observed { whole, last, rss_mb, .. } = &observed;
    let healthy_age = Spread::from(&whole.healthy);
    let growth_seconds = GROWTH_SECONDS.min(rss_mb.len() - 1);
    Ok(SlowResult {
        scenario: "slow".into(),
        peer: options.peer_name(),
        congestion: options.congestion.clone(),
        subscribers: args.subscribers,
        slow: args.slow,
        stalled: args.stalled,
        slow_rate: args.slow_rate,
        rate: args.rate,
        credit: args.credit,
        seconds: args.seconds,
        slow_age: Spread::from(&whole.slow),
        slow_age_last_quarter: Spread::from(&last.slow),
        stalled_age: Spread::from(&whole.stalled),
        healthy_age,
        baseline_age: baseline.map(|(age, _)| age),
        healthy_p99_ratio: baseline.and_then(|(age, _)| {
            let without = age.p99_ms().filter(|p99_ms| *p99_ms > 0.0)?;
            Some(healthy_age.p99_ms()? / without)
        }),
        slow_bytes_per_second: observed.slow_bytes as f64 / f64::from(args.slow.max(1)) / args.seconds as f64,
        server_cpu_percent: observed.cpu_ns as f64 / args.seconds as f64 / 1e7,
        rss_first_mb: rss_mb[0],
        rss_max_mb: rss_mb.iter().copied().fold(0.0, f64::max),
        rss_last_mb: rss_mb[rss_mb.len() - 1],
        rss_growth_percent: growth_percent(&rss_mb[rss_mb.len() - 1 - growth_seconds..]),
        growth_seconds: growth_seconds as u64,
        rss_mb: rss_mb.clone(),
        verified_records: observed.verified.1,
        verified_checksums: observed.verified.2,
        ledger: observed.ledger,
        baseline_ledger: baseline.map(|(_, ledger)| ledger),
    })
}

/// What was seen of one server.
struct Observed {
    whole: Ages,
    /// The last quarter.
    last: Ages,
    rss_mb: Vec<f64>,
    cpu_ns: u64,
    slow_bytes: u64,
    verified: (usize, u64, u64),
    ledger: Balance,
}

fn observe(
    args: &SlowArgs,
    cpus: Cpus,
    subscribers: u32,
    (slow, stalled): (u32, u32),
    seconds: u64,
) -> Result<Observed, CliError> {
    let options = &args.common;
    let server = Server::start(options, cpus)?;
    pin(server.cpus.generator)?;
    let shape = Shape {
        subscribers: subscribers as usize,
        slow: slow as usize,
        stalled: stalled as usize,
        slow_rate: args.slow_rate,
        bytes: args.bytes,
        keys: args.keys,
        credit: args.credit,
        samples_ages: true,
        publishers: 1,
        publishers_later: 0,
    };
    let mut load = Load::connect(&server, options, &shape)?;
    let drive = Drive::Rate(args.rate);
    load.run_for(args.warm_up, drive)?;

    let interval = Duration::from_millis(args.sample_ms);
    load.sampling = Some((interval, Ages::new()));
    let (mut whole, mut last) = (Ages::new(), Ages::new());
    let mut rss_mb = vec![server.memory()?.rss as f64 / 1e6];
    let (cpu, slow_bytes) = (server.cpu_time()?, load.slow_bytes());
    for second in 0..seconds {
        load.run_for(Duration::from_secs(1), drive)?;
        rss_mb.push(server.memory()?.rss as f64 / 1e6);
        if let Some((_, ages)) = load.sampling.replace((interval, Ages::new())) {
            whole.add(&ages);
            if second >= seconds * 3 / 4 {
                last.add(&ages);
            }
        }
    }
    let (cpu, slow_bytes) = (server.cpu_time()? - cpu, load.slow_bytes() - slow_bytes);
    load.drain()?;
    let (verified, ledger) = (load.verified(), load.balance(&server)?);
    drop(load);
    server.end()?;
    Ok(Observed { whole, last, rss_mb, cpu_ns: cpu.used_ns(), slow_bytes, verified, ledger })
}

/// The mean of the last tenth beside that of the first, one value at least: a single look may fall on a peak.
fn growth_percent(rss_mb: &[f64]) -> f64 {
    let tenth = (rss_mb.len() / 10).max(1);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&rss_mb[..tenth]), mean(&rss_mb[rss_mb.len() - tenth..]));
    if first > 0.0 { (last / first - 1.0) * 100.0 } else { 0.0 }
}

impl Outcome for SlowResult {
    fn ledgers(&self) -> Vec<&Balance> {
        std::iter::once(&self.ledger).chain(&self.baseline_ledger).collect()
    }

    fn figures(&self) -> String {
        let ratio =
            self.healthy_p99_ratio.map_or_else(String::new, |ratio| format!(" ({ratio:.2} x without slow ones)"));
        format!(
            "age p99: slow {} ms ({} in the last quarter), healthy {}{ratio}; server {:.1} MB, {:+.1} % in {} s",
            shown(self.slow_age.p99_ms(), 0),
            shown(self.slow_age_last_quarter.p99_ms(), 0),
            shown(self.healthy_age.p99_ms(), 2),
            self.rss_last_mb,
            self.rss_growth_percent,
            self.growth_seconds
        )
    }
}

impl fmt::Display for SlowResult {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients = if self.credit > 0 { format!("{} bytes of credit", self.credit) } else { "plain clients".into() };
        writeln!(
            out,
            "slow: {} of {} subscribers read {} bytes/s, {} nothing, of {} records/s, {clients}, {} s, congestion control {}",
            self.slow, self.subscribers, self.slow_rate, self.stalled, self.rate, self.seconds, self.congestion
        )?;
        if let Some(peer) = &self.peer {
            writeln!(out, "  server     {peer}")?;
        }
        writeln!(out, "  slow       age {}; they read {:.0} bytes/s", self.slow_age, self.slow_bytes_per_second)?;
        writeln!(out, "             age {} in the last quarter", self.slow_age_last_quarter)?;
        if self.stalled > 0 {
            writeln!(out, "  stalled    age {}", self.stalled_age)?;
        }
        writeln!(out, "  healthy    age {}", self.healthy_age)?;
        if let Some(age) = self.baseline_age {
            let ratio =
                self.healthy_p99_ratio.map_or_else(String::new, |ratio| format!(": the p99 is {ratio:.2} times that"));
            writeln!(out, "             age {age} without slow ones{ratio}")?;
        }
        writeln!(
            out,
            "  server     {:.1} % of a core; {:.1} MB at first, {:.1} at most, {:.1} at last, {:+.1} % in the last {} s",
            self.server_cpu_percent,
            self.rss_first_mb,
            self.rss_max_mb,
            self.rss_last_mb,
            self.rss_growth_percent,
            self.growth_seconds
        )?;
        writeln!(out, "  verified   {} records and {} checksums", self.verified_records, self.verified_checksums)?;
        if let Some(ledger) = &self.baseline_ledger {
            writeln!(out, "{ledger}, without slow ones")?;
        }
        write!(out, "{}", self.ledger)
    }
}
