//! The command line: one file per command.

#![forbid(unsafe_code)]

pub mod bench;
pub mod demo;
pub mod doctor;
pub mod echo;
pub mod exit;
pub mod failure;
pub mod logging;
mod play;
pub mod publish;
pub mod replay;
mod seconds;
pub mod serve;
pub mod sub;
mod text;

use std::io::{self, Write};
use std::panic::catch_unwind;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use exit::{CliError, Exit};
use failure::{Failure, FailureKind};

/// Keeps live state flowing to very many WebSocket clients.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_help = Exit::table(), propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the engine at work on a live market; needs no set-up.
    Demo(demo::DemoArgs),
    /// Runs the engine.
    Serve(serve::ServeArgs),
    /// Subscribes, and prints what comes.
    Sub(sub::SubArgs),
    /// Publishes records.
    Pub(publish::PubArgs),
    /// Publishes a recording.
    Replay(replay::ReplayArgs),
    /// Echoes text and binary messages, for conformance tests.
    Echo(echo::EchoArgs),
    /// Looks at this host as the engine would find it, and says what to change.
    Doctor(doctor::DoctorArgs),
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
        Ok(exit) => exit.into(),
        Err(error) => {
            if let Some(sentence) = error.sentence() {
                // If nobody can read it, the exit code has to do.
                let _ = writeln!(io::stderr(), "tidegate: {sentence}");
            }
            error.exit().into()
        }
    }
}

fn execute(command: Command) -> Result<Exit, CliError> {
    logging::start()?;
    match command {
        Command::Doctor(args) => return doctor::run(&args),
        Command::Demo(args) => demo::run(&args)?,
        Command::Serve(args) => serve::run(&args)?,
        Command::Sub(args) => block_on(sub::run(args, &mut io::stdout()))?,
        Command::Pub(args) => {
            let input = tokio::io::BufReader::new(tokio::io::stdin());
            block_on(publish::run(args, input, &mut io::stdout()))?;
        }
        Command::Replay(args) => block_on(replay::run(args, &mut io::stderr()))?,
        Command::Echo(args) => echo::run(&args)?,
        Command::Bench(args) => bench::run(&args)?,
    }
    Ok(Exit::Success)
}

/// Runs a command that talks to a server, on this thread.
fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(FailureKind::Io, format!("cannot start: {error}")))?;
    let result = runtime.block_on(command);
    // A read of standard input that is under way cannot be cancelled, and must not be waited for.
    runtime.shutdown_background();
    result
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
