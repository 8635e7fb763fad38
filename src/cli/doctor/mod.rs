//! `tidegate doctor`: looks at the host as the engine would find it, and says what to change. It changes nothing.

mod cpus;
mod finding;
pub(super) mod host;
mod interrupts;
mod kernel;
mod limits;
mod memory;
mod network;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::Args;

use self::finding::{Diagnosis, Finding};
use self::host::Host;
use super::exit::{CliError, Exit};
use super::print;
use super::serve::EngineArgs;
use crate::config::Config;
use crate::engine::{self, Placement};
use crate::ids::ShardId;

/// Columns of the report.
const WIDTH: usize = 120;

/// The options of `doctor`. Those of `serve` say what engine the host is judged for; variables (`TIDEGATE_SHARDS`, …) do, too.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Run it as the user, and in the container or unit, that the engine will run in: limits and filters are theirs.

It ends with 0 if there is nothing to do, with 9 if something is advised, and if the engine would not start, with the code that \
it would end with: 8 without io_uring, 3 or 4 where the configuration asks for what this host does not have. Scripts find each \
subject by its name in --json.")]
pub struct DoctorArgs {
    /// The engine that is meant to run here.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Say what is advised and why also where all is well.
    #[arg(long, conflicts_with = "json")]
    pub all: bool,
    /// Look at copies of /proc and /sys below DIR. Making a ring is not tried then.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// What the host is judged for.
#[derive(Debug)]
struct Plan {
    config: Config,
    placement: Placement,
    /// What came of making a ring as a shard would; `None`: not tried.
    ring: Option<Result<(), String>>,
}

impl Plan {
    fn new(host: &Host, config: Config, ring: Option<Result<(), String>>) -> Self {
        let placement = Placement::of(&config, &host.allowed_cpus(), host.usable_cpus());
        Self { config, placement, ring }
    }

    /// The CPUs that shards are pinned to, ascending; empty if they are not.
    fn pinned(&self) -> Vec<usize> {
        let shards = (0..self.placement.shards()).map(ShardId);
        let mut cpus: Vec<_> = shards.filter_map(|shard| self.placement.cpu_of(shard)).collect();
        cpus.sort_unstable();
        cpus.dedup();
        cpus
    }

    /// The CPUs that shards may run on.
    fn runs_on(&self, host: &Host) -> Vec<usize> {
        let pinned = self.pinned();
        if pinned.is_empty() { host.allowed_cpus() } else { pinned }
    }
}

/// Everything that is looked at, in the order in which it is told.
const CHECKS: [fn(&Host, &Plan) -> Finding; 27] = [
    kernel::release,
    kernel::io_uring,
    kernel::io_uring_disabled,
    kernel::seccomp,
    limits::descriptors,
    limits::locked_memory,
    limits::open_files,
    limits::listen_backlog,
    cpus::placement,
    cpus::quota,
    cpus::siblings,
    cpus::isolated,
    cpus::tickless,
    cpus::governor,
    cpus::clock_source,
    cpus::virtualisation,
    cpus::steal,
    interrupts::affinity,
    interrupts::balancing,
    memory::nodes,
    memory::transparent_huge_pages,
    memory::reserved_huge_pages,
    memory::available,
    network::congestion,
    network::migration,
    network::unsent_bytes,
    network::ports,
];

fn examine(host: &Host, plan: &Plan) -> Diagnosis {
    let findings = CHECKS.iter().map(|check| check(host, plan)).collect();
    Diagnosis { placement: plan.placement.to_string(), findings }
}

/// Runs the command. The exit code is the gravest finding's.
///
/// # Errors
/// If the configuration is wrong, or nothing can be looked at.
pub fn run(args: &DoctorArgs) -> Result<Exit, CliError> {
    let config = args.engine.load()?;
    let host = Host::new(args.root.clone().unwrap_or_else(|| "/".into()));
    if host.allowed_cpus().is_empty() {
        let root = args.root.as_deref().unwrap_or("/".as_ref());
        let sentence = format!(
            "{}proc/self/status cannot be read: mount /proc, or give --root a directory with a copy of it",
            root.join("").display()
        );
        return Err(CliError::new(Exit::BadInput, sentence));
    }
    let ring = args.root.is_none().then(|| engine::probe(&config).map_err(|error| error.to_string()));
    let diagnosis = examine(&host, &Plan::new(&host, config, ring));
    if args.json {
        print(&format!("{:#}\n", diagnosis.to_json()))?;
    } else {
        print(&diagnosis.to_text(WIDTH, args.all))?;
    }
    Ok(diagnosis.exit())
}
