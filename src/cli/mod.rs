//! The command line: one file per command.

#![forbid(unsafe_code)]

pub mod bench;
pub mod exit;
pub mod logging;
pub mod serve;

use std::io::{self, Write};
use std::panic::catch_unwind;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use exit::{CliError, Exit};

/// Keeps live state flowing to very many WebSocket clients.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_help = Exit::table(), propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the engine.
    Serve(serve::ServeArgs),
    /// Measures the engine: throughput, latency, age of information, memory.
    Bench(bench::BenchArgs),
}

/// Runs the command that the process was started with. What goes wrong is one line on standard error, and an exit code
/// of [`Exit`].
#[must_use]
pub fn run() -> ExitCode {
    // Wrong usage and `--help` end here (clap writes them): 2 and 0.
    let Cli { command } = Cli::parse();
    // The panic itself has been printed by its hook.
    let result = catch_unwind(|| execute(command)).unwrap_or_else(|_| {
        Err(CliError::new(Exit::Broken, "an error in Tidegate itself, described above: please report it"))
    });
    match result {
        Ok(()) => Exit::Success.into(),
        Err(error) => {
            if let Some(sentence) = error.sentence() {
                // If nobody can read it, the exit code has to do.
                let _ = writeln!(io::stderr(), "tidegate: {sentence}");
            }
            error.exit().into()
        }
    }
}

fn execute(command: Command) -> Result<(), CliError> {
    logging::start()?;
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Bench(args) => bench::run(&args),
    }
}

/// Writes `text` to standard output at once.
///
/// # Errors
/// If it cannot be written; a closed pipe ends the command quietly.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| CliError::output(&error))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
