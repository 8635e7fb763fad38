//! Options that all scenarios share.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::dialect::Peer;
use super::failed;
use crate::cli::{CliError, Exit};

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
        address
            .parse()
            .map(Some)
            .map_err(|_| failed(format!("--url: \"{url}\" is not ws:// and an IP address and port")))
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
    pub(super) fn cpus(&self) -> Cpus {
        let ids: Vec<_> = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
        let has_several = ids.len() > 1;
        let default = |id: Option<&usize>| id.copied().filter(|_| has_several);
        Cpus { server: self.server_cpu.or(default(ids.first())), generator: self.generator_cpu.or(default(ids.last())) }
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
