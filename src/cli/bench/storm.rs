//! `bench storm`: many clients lose their connections and come back at once, while others go on.

use std::fmt;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::failed;
use super::ledger::Balance;
use super::load::Load;
use super::options::{CommonArgs, Cpus, pin};
use super::report::{Spread, shown};
use super::runs::{Outcome, repeat};
use super::server::Server;
use super::shape::{Drive, Shape};
use crate::cli::CliError;
use crate::cli::seconds::seconds;

/// How long the last one may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// After the connections broke the server cleans up; the established ones' usual latency is looked at afterwards.
const CLEAN_UP: Duration = Duration::from_secs(1);

/// The options of `bench storm`.
#[derive(Debug, Args)]
pub(super) struct StormArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Clients that lose their connections and come back. Each takes a descriptor here and one in the server.
    #[arg(long, default_value_t = 8_000, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Subscribers that stay.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    established: u32,
    /// Records a second, all the time.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Keys that take turns; 0: events.
    #[arg(long, default_value_t = 100)]
    keys: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 128)]
    bytes: usize,
    /// Seconds between the moment that they are gone and the moment that they come back.
    #[arg(long, default_value = "3", value_parser = seconds, allow_negative_numbers = true)]
    away: Duration,
}

/// What came of it.
#[derive(Debug, Deserialize, Serialize)]
struct StormResult {
    scenario: String,
    congestion: String,
    clients: u32,
    established: u32,
    rate: u64,
    away_seconds: f64,
    /// Records that each of the clients had missed when it came back.
    missed: u64,
    /// From the first connection to the moment that the last client held what was the newest when the storm began.
    all_current_seconds: f64,
    /// The established ones' latency while the others are away ...
    latency_before: Spread,
    /// ... and during the storm.
    latency_during: Spread,
    /// Patches that the server made for one client alone, in the storm.
    own_patches: u64,
    /// Patches that it made for all who were at the same offset.
    shared_patches: u64,
    /// Turns that the server made in the storm.
    turns: u64,
    /// Patches made, of either kind, in a turn: there is one topic, and those who come back share theirs while they were
    /// left at the same offset, so that it is the number of cursors served in a turn at most.
    patches_made_per_turn: f64,
    /// Runs of records encoded in the storm, from which those patches were cut.
    encodings: u64,
    /// Turns in which something of the topic was encoded.
    encoding_turns: u64,
    /// Both divided: encodings per topic and turn. 1 if nobody was encoded for alone.
    encodings_per_topic_and_turn: f64,
    server_busy_percent: f64,
    server_rss_mb: f64,
    ledger: Balance,
}

/// Runs the scenario.
pub(super) fn run(args: &StormArgs) -> Result<(), CliError> {
    args.common.no_peer("storm")?;
    repeat(&args.common, u64::from(args.clients) + u64::from(args.established) + 1, |cpus| once(args, cpus))
}

fn once(args: &StormArgs, cpus: Cpus) -> Result<StormResult, CliError> {
    let options = &args.common;
    let server = Server::start(options, cpus)?;
    pin(server.cpus.generator)?;
    let (established, all) = (args.established as usize, (args.established + args.clients) as usize);
    let shape = Shape { bytes: args.bytes, keys: args.keys, ..Shape::plain(all) };
    let mut load = Load::connect(&server, options, &shape)?;
    let drive = Drive::Rate(args.rate);
    load.run_for(Duration::from_secs(1), drive)?;
    // Nothing is on its way to a client when its connection breaks, so that the ledger can close.
    load.drain()?;
    let dropped_at = load.published();
    load.drop_connections(established..all);
    load.run_for(CLEAN_UP, drive)?;
    load.observations.is_measuring = true;
    load.run_for(args.away.saturating_sub(CLEAN_UP), drive)?;
    let empty = Histogram::new(3).expect("3 digits are allowed");
    let before = std::mem::replace(&mut load.observations.latency, empty);

    let head = load.published();
    let (metrics, cpu, start) = (server.metrics()?, server.cpu_time()?, Instant::now());
    load.come_back(established..all);
    let is_whole = load.run_while(PATIENCE, drive, |load| {
        load.is_back() && load.current(established..all, head) == all - established
    })?;
    let (elapsed, cpu) = (start.elapsed().as_secs_f64(), server.cpu_time()? - cpu);
    load.observations.is_measuring = false;
    if !is_whole {
        let current = load.current(established..all, head);
        return Err(failed(format!(
            "after {} s {current} of {} clients are current",
            PATIENCE.as_secs(),
            args.clients
        )));
    }
    let later = server.metrics()?;
    load.drain()?;

    let of = |name| (later.sum(name, "") - metrics.sum(name, "")) as u64;
    let (encodings, encoding_turns) = (of("tidegate_encodings_total"), of("tidegate_encoded_topics_total"));
    let result = StormResult {
        scenario: "storm".into(),
        congestion: options.congestion.clone(),
        clients: args.clients,
        established: args.established,
        rate: args.rate,
        away_seconds: args.away.as_secs_f64(),
        missed: head - dropped_at,
        all_current_seconds: elapsed,
        latency_before: Spread::from(&before),
        latency_during: Spread::from(&load.observations.latency),
        own_patches: of("tidegate_own_patches_total"),
        shared_patches: of("tidegate_shared_patches_total"),
        turns: of("tidegate_turns_total"),
        patches_made_per_turn: (of("tidegate_own_patches_total") + of("tidegate_shared_patches_total")) as f64
            / of("tidegate_turns_total").max(1) as f64,
        encodings,
        encoding_turns,
        encodings_per_topic_and_turn: encodings as f64 / encoding_turns.max(1) as f64,
        server_busy_percent: server.busy_percent(&cpu, elapsed)?,
        server_rss_mb: server.memory()?.rss as f64 / 1e6,
        ledger: load.balance(&server)?,
    };
    drop(load);
    server.end()?;
    Ok(result)
}

impl Outcome for StormResult {
    fn ledgers(&self) -> Vec<&Balance> {
        vec![&self.ledger]
    }

    fn figures(&self) -> String {
        format!(
            "{} clients all current after {:.2} s; established ones' p99 {} ms, {} before; {:.2} encodings per topic and turn",
            self.clients,
            self.all_current_seconds,
            shown(self.latency_during.p99_ms(), 2),
            shown(self.latency_before.p99_ms(), 2),
            self.encodings_per_topic_and_turn
        )
    }
}

impl fmt::Display for StormResult {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "storm: {} clients come back after {:.1} s, {} stay, {} records/s, congestion control {}",
            self.clients, self.away_seconds, self.established, self.rate, self.congestion
        )?;
        writeln!(
            out,
            "  storm      the last client was current after {:.2} s; each had missed {} records",
            self.all_current_seconds, self.missed
        )?;
        writeln!(out, "  established latency {} during the storm", self.latency_during)?;
        writeln!(out, "              latency {} before", self.latency_before)?;
        writeln!(
            out,
            "  server     busy {:.1} % of the time, {:.1} MB; made {} patches for one client and {} for many in {} turns, \
             {:.2} a turn",
            self.server_busy_percent,
            self.server_rss_mb,
            self.own_patches,
            self.shared_patches,
            self.turns,
            self.patches_made_per_turn
        )?;
        writeln!(
            out,
            "  encoded    {:.3} times per topic and turn ({} runs of records, in {} turns)",
            self.encodings_per_topic_and_turn, self.encodings, self.encoding_turns
        )?;
        write!(out, "{}", self.ledger)
    }
}
