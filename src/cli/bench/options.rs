//! Options that all scenarios share.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::dialect::Peer;
use super::failed;
use crate::cli::doctor::host::{Host, shown_list};
use crate::cli::{CliError, Exit};
use crate::config::CpuSet;
use crate::engine;

/// Descriptors of the server or the load generator beside those of connections: rings, listeners, logs, the admin port.
const OTHER_DESCRIPTORS: u64 = 64;

/// Where the server is, and who runs on which CPU.
#[derive(Clone, Debug, Args)]
pub(super) struct CommonArgs {
    /// Measure the server that listens there instead of one started for the run; wants --admin, and --pid for CPU and memory.
    #[arg(long, value_name = "ws://ADDRESS")]
    pub(super) url: Option<String>,
    /// The admin port of the server at --url.
    #[arg(long, value_name = "ADDRESS", requires = "url")]
    pub(super) admin: Option<SocketAddr>,
    /// The process of the server at --url, if it runs on this machine.
    #[arg(long, value_name = "PID", requires = "url")]
    pub(super) pid: Option<u32>,
    /// The server at --url is another one than Tidegate, and speaks so. Its ledger is what was sent against what came.
    #[arg(long, value_name = "NAME", requires = "url", conflicts_with = "admin", value_enum)]
    pub(super) peer: Option<Peer>,
    /// The CPU of the server, and of the bare loop [default: the first].
    #[arg(long, value_name = "CPU")]
    pub(super) server_cpu: Option<usize>,
    /// The CPU of the load generator [default: the last].
    #[arg(long, value_name = "CPU")]
    pub(super) generator_cpu: Option<usize>,
    /// Congestion control of all sockets; "system" leaves what the system gives.
    #[arg(long, value_name = "NAME", default_value = "cubic")]
    pub(super) congestion: String,
    /// Runs, each with a server of its own; the medians of their figures are printed.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) runs: u32,
    /// Append a row with date, machine, kernel, command and figures to a Markdown table.
    #[arg(long, value_name = "FILE")]
    pub(super) record: Option<PathBuf>,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    pub(super) json: bool,
}

impl CommonArgs {
    /// What can be known to be wrong before anything is started. `connections` is how many this process has at once.
    ///
    /// # Errors
    /// If an address, a CPU or the congestion control is none, or there are too few descriptors.
    pub(super) fn check(&self, connections: u64) -> Result<Cpus, CliError> {
        self.address()?;
        if let Some(name) = self.congestion() {
            let checked = engine::check_congestion(name);
            checked.map_err(|error| CliError::new(Exit::Usage, format!("--congestion: {error}")))?;
        }
        let (limit, wanted) = (Host::new("/").soft_limit("Max open files"), connections + OTHER_DESCRIPTORS);
        if let Some(limit) = limit.filter(|limit| *limit < wanted) {
            return Err(failed(format!(
                "{connections} connections at once take {wanted} descriptors, and the limit is {limit}: raise it by `ulimit -n {wanted}`, or ask for fewer"
            )));
        }
        self.cpus()
    }

    /// The address in `--url`.
    pub(super) fn address(&self) -> Result<Option<SocketAddr>, CliError> {
        let Some(url) = &self.url else { return Ok(None) };
        if self.peer.is_none() && self.admin.is_none() {
            return Err(CliError::new(
                Exit::Usage,
                "--url wants --admin too, the server's side of the ledger is read there",
            ));
        }
        let address = url.strip_prefix("ws://").unwrap_or(url);
        let address = address.split('/').next().unwrap_or(address);
        address.parse().map(Some).map_err(|_| {
            CliError::new(Exit::Usage, format!("--url: \"{url}\" is not ws:// and an IP address and port"))
        })
    }

    /// For scenarios that only Tidegate's protocol has.
    pub(super) fn no_peer(&self, scenario: &str) -> Result<(), CliError> {
        match self.peer {
            Some(_) => Err(CliError::new(Exit::Usage, format!("{scenario} has no --peer: fanout, slow and idle have"))),
            None => Ok(()),
        }
    }

    /// The name in `--peer`.
    pub(super) fn peer_name(&self) -> Option<String> {
        self.peer.and_then(|peer| Some(peer.to_possible_value()?.get_name().to_owned()))
    }

    /// The congestion control to set; `None`: the system's.
    pub(super) fn congestion(&self) -> Option<&str> {
        (self.congestion != "system").then_some(self.congestion.as_str())
    }

    /// The CPUs of server and generator. To be asked before this thread is pinned: the system names only those that it may run on.
    fn cpus(&self) -> Result<Cpus, CliError> {
        let ids = allowed_cpus();
        for (flag, cpu) in [("--server-cpu", self.server_cpu), ("--generator-cpu", self.generator_cpu)] {
            may_run_on(flag, cpu.as_slice(), &ids)?;
        }
        let has_several = ids.len() > 1;
        let default = |id: Option<&usize>| id.copied().filter(|_| has_several);
        Ok(Cpus {
            server: self.server_cpu.or(default(ids.first())),
            generator: self.generator_cpu.or(default(ids.last())),
        })
    }
}

/// Whether `text`, the value of `flag`, is a list of CPUs that this process may run on.
pub(super) fn check_cpus(flag: &str, text: &str) -> Result<(), CliError> {
    let cpus: CpuSet = text.parse().map_err(|error| CliError::new(Exit::Usage, format!("{flag}: {error}")))?;
    may_run_on(flag, cpus.as_slice(), &allowed_cpus())
}

/// The CPUs that this thread may run on.
fn allowed_cpus() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Whether this process may run on all `wanted` CPUs, those of `flag`.
fn may_run_on(flag: &str, wanted: &[usize], allowed: &[usize]) -> Result<(), CliError> {
    match wanted.iter().find(|cpu| !allowed.contains(cpu)) {
        Some(cpu) => Err(CliError::new(
            Exit::Usage,
            format!("{flag}: nothing here can run on CPU {cpu}: choose from {}", shown_list(allowed)),
        )),
        None => Ok(()),
    }
}

/// Who runs where; `None` where there is only one CPU, so that the system may place them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpus {
    pub(super) server: Option<usize>,
    pub(super) generator: Option<usize>,
}

/// Pins this thread.
///
/// # Errors
/// If it may not run there: figures of a run in which server and generator share a CPU mean nothing.
pub(super) fn pin(cpu: Option<usize>) -> Result<(), CliError> {
    match cpu {
        Some(id) if !core_affinity::set_for_current(core_affinity::CoreId { id }) => {
            Err(failed(format!("this process may not run on CPU {id}")))
        }
        _ => Ok(()),
    }
}
