//! How a command ends: exit codes and the sentence that goes with them.

use std::fmt;
use std::io;
use std::process::ExitCode;

use super::failure::{Failure, FailureKind};
use crate::config::ConfigError;

/// The exit codes. They are part of the interface: a number keeps its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or shut down in an orderly way.
    Success = 0,
    /// Something else failed.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is wrong.
    Configuration = 3,
    /// An address cannot be listened on.
    CannotListen = 4,
    /// No server answers.
    NoServer = 5,
    /// The server refused.
    Refused = 6,
    /// The input is not what it should be.
    BadInput = 7,
    /// The kernel lacks io_uring, or does not let us use it.
    NoIoUring = 8,
    /// `doctor` advises something for this host; the engine runs all the same.
    Advised = 9,
    /// A broken invariant: an error in Tidegate.
    Broken = 70,
    /// Interrupted a second time.
    Interrupted = 130,
}

impl Exit {
    /// All of them, ascending.
    pub const ALL: [Self; 12] = [
        Self::Success,
        Self::Failure,
        Self::Usage,
        Self::Configuration,
        Self::CannotListen,
        Self::NoServer,
        Self::Refused,
        Self::BadInput,
        Self::NoIoUring,
        Self::Advised,
        Self::Broken,
        Self::Interrupted,
    ];

    /// That of a child that ended with `code`, if it is one of the table.
    #[must_use]
    pub fn of_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| i32::from(exit.code()) == code)
    }

    /// The number that the process ends with.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What it means, for the table in `--help`.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Success => "done, or shut down in an orderly way",
            Self::Failure => "something else failed",
            Self::Usage => "the command line is wrong",
            Self::Configuration => "the configuration is wrong",
            Self::CannotListen => "an address cannot be listened on: in use, not allowed, not ours",
            Self::NoServer => "no server answers at that address",
            Self::Refused => "the server refused",
            Self::BadInput => "the input is not what it should be",
            Self::NoIoUring => "the kernel lacks io_uring, or does not let us use it",
            Self::Advised => "`doctor` advises something for this host",
            Self::Broken => "an error in Tidegate itself: please report it",
            Self::Interrupted => "interrupted a second time, without an orderly shutdown",
        }
    }

    /// The table of all exit codes, for `--help`.
    #[must_use]
    pub fn table() -> String {
        let lines: Vec<_> = Self::ALL.iter().map(|exit| format!("  {:>3}  {}", exit.code(), exit.meaning())).collect();
        format!("Exit codes:\n{}", lines.join("\n"))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command ends before it is done.
#[derive(Debug)]
pub struct CliError {
    /// What happened and what to do, for people: one line. `None` ends quietly.
    sentence: Option<String>,
    exit: Exit,
}

impl CliError {
    /// Ends with `exit`, saying `sentence`.
    #[must_use]
    pub fn new(exit: Exit, sentence: impl fmt::Display) -> Self {
        Self { sentence: Some(sentence.to_string()), exit }
    }

    /// Ends with `exit`, where somebody else has said why.
    #[must_use]
    pub fn quiet(exit: Exit) -> Self {
        Self { sentence: None, exit }
    }

    /// An error in writing to standard output. That nobody reads it any more (`tidegate sub … | head`) is no failure.
    #[must_use]
    pub fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::quiet(Exit::Success),
            _ => Self::new(Exit::Failure, format_args!("cannot write to standard output: {error}")),
        }
    }

    /// An address that cannot be listened on, with what to do about it; `flag` chooses another.
    #[must_use]
    pub fn listen(flag: &str, address: std::net::SocketAddr, error: &io::Error) -> Self {
        let port = address.port();
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "another process listens there; stop it (`ss -ltnp 'sport = :{port}'` names it) or choose another port with {flag}"
            ),
            io::ErrorKind::PermissionDenied => format!(
                "ports below 1024 need a privilege; choose a higher one with {flag}, or give the program CAP_NET_BIND_SERVICE"
            ),
            io::ErrorKind::AddrNotAvailable => format!(
                "no interface of this machine has that address; choose one with {flag} (`ip address` lists them)"
            ),
            _ => format!("choose another address with {flag}: {error}"),
        };
        Self::new(Exit::CannotListen, format_args!("cannot listen on {address}: {advice}"))
    }

    /// How the process ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What to print on standard error, if anything.
    #[must_use]
    pub fn sentence(&self) -> Option<&str> {
        self.sentence.as_deref()
    }
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        let exit = match failure.kind {
            FailureKind::NoServer => Exit::NoServer,
            FailureKind::Refused | FailureKind::Server(_) => Exit::Refused,
            FailureKind::BadArgument => Exit::Usage,
            FailureKind::BadInput { .. } => Exit::BadInput,
            FailureKind::Io => Exit::Failure,
            FailureKind::Interrupted => Exit::Interrupted,
        };
        Self::new(exit, failure)
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Configuration, error)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_distinct_and_in_the_table() {
        let table = Exit::table();
        let codes: BTreeSet<_> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes.len(), Exit::ALL.len());
        for exit in Exit::ALL {
            assert!(table.contains(&format!("{:>3}  {}", exit.code(), exit.meaning())), "{exit:?}");
        }
    }

    #[test]
    fn a_closed_pipe_is_a_quiet_success_and_a_full_disk_is_not() {
        let closed = CliError::output(&io::ErrorKind::BrokenPipe.into());
        assert_eq!((closed.exit(), closed.sentence()), (Exit::Success, None));
        let full = CliError::output(&io::ErrorKind::StorageFull.into());
        assert_eq!(full.exit(), Exit::Failure);
        assert!(full.sentence().is_some());
    }
}
