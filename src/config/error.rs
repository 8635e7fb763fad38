//! What is wrong with a configuration, where, and under which key.

use std::fmt;
use std::path::PathBuf;

use super::cpus::CpuSetError;
use super::network::IpNetworkError;
use crate::topic::NameError;

/// A configuration that cannot be used. Reads as one sentence: where, which key, what is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where the setting was given.
    pub origin: Origin,
    /// The setting's key, as in the file (`limits.message_bytes`); empty if it concerns no single one.
    pub key: String,
    /// What is wrong.
    pub problem: Problem,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        // A flag is its own key.
        if !self.key.is_empty() && !matches!(self.origin, Origin::Flag(_)) {
            write!(f, "`{}`: ", self.key)?;
        }
        self.problem.fmt(f)
    }
}

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the file, on this line (from 1).
    File(PathBuf, usize),
    /// In this variable of the environment.
    Variable(String),
    /// By this flag.
    Flag(&'static str),
    /// Nowhere.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A file that could not be read has no line.
            Self::File(path, 0) => write!(f, "{}", path.display()),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(flag) => f.write_str(flag),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What is wrong with a setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("cannot read the file: {0}")]
    Unreadable(String),
    /// It is not TOML.
    #[error("not valid TOML: {0}")]
    Syntax(String),
    /// There is no such setting.
    #[error("unknown setting{}", did_you_mean(.nearest.as_deref()))]
    Unknown {
        /// The known one that is spelled most alike.
        nearest: Option<String>,
    },
    /// The value is of another type.
    #[error("expected {expected}, found {found}")]
    Type {
        /// Of which type it has to be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// The number is too small or too large.
    #[error("{value} is not between {least} and {most}")]
    Range {
        /// What was given.
        value: i128,
        /// The smallest allowed.
        least: u64,
        /// The largest allowed.
        most: u64,
    },
    /// None of the words that it may be.
    #[error("expected {expected}, found \"{found}\"")]
    Word {
        /// The words.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// Not CPUs.
    #[error(transparent)]
    Cpus(#[from] CpuSetError),
    /// Not a network.
    #[error(transparent)]
    Network(#[from] IpNetworkError),
    /// Not a topic pattern.
    #[error("not a topic pattern: {0}")]
    Pattern(#[from] NameError),
    /// A topic class lacks what it needs.
    #[error("this class has no `{0}`")]
    Missing(&'static str),
    /// Two settings that do not go together; says which and what to do.
    #[error("{0}")]
    Conflict(String),
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |key| format!("; did you mean `{key}`?"))
}
