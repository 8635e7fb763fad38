//! `bench idle`: what a subscribed connection costs on which nothing happens.

use std::fmt;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::failed;
use super::ledger::Balance;
use super::load::Load;
use super::options::{CommonArgs, Cpus, pin};
use super::process;
use super::runs::{Outcome, repeat};
use super::server::Server;
use super::shape::{Drive, Shape};
use crate::cli::seconds::seconds;
use crate::cli::{CliError, Exit};

/// Connections that are there before the memory is first looked at.
const FIRST: u32 = 500;
/// Records that are published to them, so that every receive buffer and every cache has been used once.
const WARM_UP_RECORDS: u64 = 4_000;

/// The options of `bench idle`.
#[derive(Debug, Args)]
pub(super) struct IdleArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Subscribed connections. Each takes a descriptor here and one in the server.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Seconds to wait before the memory is looked at.
    #[arg(long, default_value = "2", value_parser = seconds, allow_negative_numbers = true)]
    settle: Duration,
}

/// What came of it.
#[derive(Debug, Deserialize, Serialize)]
struct IdleResult {
    scenario: String,
    connections: u32,
    rss_before_mb: f64,
    rss_after_mb: f64,
    /// Of the server's resident set.
    bytes_per_connection: f64,
    /// Of its anonymous pages alone.
    anonymous_bytes_per_connection: f64,
    /// Growth of the system's slabs, in which sockets lie: of both ends, since both are on this machine, and of whatever else
    /// it did meanwhile.
    kernel_bytes_per_connection: f64,
    server_cpu_percent: f64,
    ledger: Balance,
}

/// Runs the scenario.
pub(super) fn run(args: &IdleArgs) -> Result<(), CliError> {
    repeat(&args.common, u64::from(FIRST) + u64::from(args.connections) + 1, |cpus| once(args, cpus))
}

fn once(args: &IdleArgs, cpus: Cpus) -> Result<IdleResult, CliError> {
    let options = &args.common;
    let server = Server::start(options, cpus)?;
    if server.pid().is_none() {
        return Err(CliError::new(Exit::Usage, "idle needs --pid to look at the memory of the server at --url"));
    }
    pin(server.cpus.generator)?;
    let shape = Shape { keys: 1, ..Shape::plain(FIRST as usize) };
    let mut load = Load::connect(&server, options, &shape)?;
    load.run_for(Duration::from_secs(1), Drive::Rate(WARM_UP_RECORDS))?;
    load.drain()?;
    load.run_for(args.settle, Drive::Rest)?;
    let kernel_memory = || process::kernel_memory().map_err(failed);
    let (before, kernel_before) = (server.memory()?, kernel_memory()?);
    load.subscribe_more(&server, options, args.connections as usize)?;
    load.run_for(args.settle, Drive::Rest)?;
    let cpu = server.cpu_time()?;
    load.run_for(args.settle, Drive::Rest)?;
    let (cpu, after, kernel_after) = (server.cpu_time()? - cpu, server.memory()?, kernel_memory()?);
    load.drain()?;

    let each = |before: u64, after: u64| (after as f64 - before as f64) / f64::from(args.connections);
    let result = IdleResult {
        scenario: "idle".into(),
        connections: args.connections,
        rss_before_mb: before.rss as f64 / 1e6,
        rss_after_mb: after.rss as f64 / 1e6,
        bytes_per_connection: each(before.rss, after.rss),
        anonymous_bytes_per_connection: each(before.anonymous, after.anonymous),
        kernel_bytes_per_connection: each(kernel_before, kernel_after),
        server_cpu_percent: cpu.used_ns() as f64 / args.settle.as_secs_f64().max(0.001) / 1e7,
        ledger: load.balance(&server)?,
    };
    drop(load);
    server.end()?;
    Ok(result)
}

impl Outcome for IdleResult {
    fn ledgers(&self) -> Vec<&Balance> {
        vec![&self.ledger]
    }

    fn figures(&self) -> String {
        format!(
            "{} connections: {:.0} bytes each in user space, {:.0} in the kernel (both ends), {:.2} % of a core",
            self.connections, self.bytes_per_connection, self.kernel_bytes_per_connection, self.server_cpu_percent
        )
    }
}

impl fmt::Display for IdleResult {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "idle: {} subscribed connections beside {FIRST} that were there before", self.connections)?;
        writeln!(
            out,
            "  memory     {:.0} bytes each, {:.0} of them anonymous; {:.1} MB before, {:.1} after",
            self.bytes_per_connection, self.anonymous_bytes_per_connection, self.rss_before_mb, self.rss_after_mb
        )?;
        writeln!(
            out,
            "  kernel     {:.0} bytes each, the generator's end among them (growth of all slabs of the system)",
            self.kernel_bytes_per_connection
        )?;
        writeln!(out, "  server     {:.2} % of a core", self.server_cpu_percent)?;
        write!(out, "{}", self.ledger)
    }
}
