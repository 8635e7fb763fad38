//! `tidegate serve`: runs the engine until it is told to stop.

use std::path::PathBuf;

use clap::Args;

use super::exit::{CliError, Exit};
use super::print;
use crate::config::{Config, Flag};
use crate::engine::{Engine, StartError};

/// What engine: the options that `serve`, `demo` and `doctor` share.
#[derive(Clone, Debug, Default, Args)]
pub struct EngineArgs {
    /// The configuration, in TOML; `tidegate serve --print-config` shows every setting.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// The public port [default: 127.0.0.1:8433].
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// The admin port: metrics and health [default: 127.0.0.1:8434].
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<String>,
    /// Threads that serve: "auto", one for each CPU, or how many [default: auto].
    #[arg(long, value_name = "auto|N")]
    pub shards: Option<String>,
    /// CPUs that shards are pinned to, such as 0-3,6.
    #[arg(long, value_name = "CPUS")]
    pub cpus: Option<String>,
    /// What a shard without work does [default: park].
    #[arg(long, value_name = "park|spin")]
    pub idle: Option<String>,
    /// Serve more than loopback though nobody has to prove who they are.
    #[arg(long)]
    pub insecure: bool,
}

/// The options of `serve`. A flag wins over its variable (`TIDEGATE_LISTEN`, …), and that over the file.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArgs {
    /// Which engine.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Check the configuration, print every limit and what happens beyond it, and end.
    #[arg(long, conflicts_with = "print_config")]
    pub check: bool,
    /// Print the effective configuration as TOML, and end.
    #[arg(long)]
    pub print_config: bool,
}

impl EngineArgs {
    /// The configuration from file, variables and these flags.
    ///
    /// # Errors
    /// With [`Exit::Configuration`].
    pub fn load(&self) -> Result<Config, CliError> {
        let given = |flag, key, value: &Option<String>| value.clone().map(|value| Flag { flag, key, value });
        let insecure = self.insecure.then(|| "true".to_owned());
        let flags: Vec<_> = [
            given("--listen", "listen", &self.listen),
            given("--admin", "admin", &self.admin),
            given("--shards", "shards", &self.shards),
            given("--cpus", "cpus", &self.cpus),
            given("--idle", "idle", &self.idle),
            given("--insecure", "insecure", &insecure),
        ]
        .into_iter()
        .flatten()
        .collect();
        // Variables that are not text are named lossily and, if they are settings, refused for what they are.
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let variables = std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value)));
        Ok(Config::load(self.config.as_deref(), variables, &flags)?)
    }
}

/// Runs the command.
///
/// # Errors
/// If the configuration is wrong, or the engine cannot start.
pub fn run(args: &ServeArgs) -> Result<(), CliError> {
    let config = args.engine.load()?;
    if args.print_config {
        return print(&config.to_toml());
    }
    if args.check {
        return print(&format!("the configuration is valid\n\n{}", config.explained_limits()));
    }
    run_until_shutdown(Engine::start(config)?)
}

/// Says where `engine` listens, and serves until a signal ends it.
///
/// # Errors
/// If the address cannot be printed, or the engine held something to the end.
pub(super) fn run_until_shutdown(engine: Engine) -> Result<(), CliError> {
    // Orderly shutdown also where nobody reads the line any more.
    let result = print(&format!("listening on {}\nadmin port on {}\n", engine.local_addr(), engine.admin_addr()));
    if result.is_ok() {
        engine.run_until_shutdown();
    }
    result.and(shut_down(engine))
}

/// Shuts the engine down in an orderly way.
///
/// # Errors
/// If something was not given back, which is an error in Tidegate.
pub(super) fn shut_down(engine: Engine) -> Result<(), CliError> {
    let leftovers = engine.shutdown();
    if leftovers.is_nothing() {
        return Ok(());
    }
    Err(CliError::new(Exit::Broken, format!("not everything was given back: {leftovers:?}; please report it")))
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        match &error {
            StartError::Listen { address, source } => Self::listen("--listen", *address, source),
            StartError::Admin { address, source } => Self::listen("--admin", *address, source),
            StartError::Congestion(_) => Self::new(Exit::Configuration, error),
            StartError::Cpu { .. } => Self::new(Exit::Configuration, format_args!("--cpus: {error}")),
            StartError::Kernel(_) => Self::new(Exit::NoIoUring, error),
            StartError::Thread(_) => Self::new(Exit::Failure, error),
        }
    }
}
