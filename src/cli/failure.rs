//! Why a command that talks to a server failed: a sentence for people, and a kind that decides the exit code.

use crate::client::{ClientError, Code};

/// Ends a command.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct Failure {
    /// What happened, and what to do.
    pub sentence: String,
    /// Whose fault it is.
    pub kind: FailureKind,
}

/// What kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Nothing listens at the address, or the connection was lost.
    NoServer,
    /// A server answered and does not want this client.
    Refused,
    /// An argument breaks a rule.
    BadArgument,
    /// A line of the input breaks a rule.
    BadInput {
        /// Counted from 1.
        line: u64,
    },
    /// The server refused what was asked.
    Server(Code),
    /// Standard input or output failed.
    Io,
    /// Stopped by the user before it was done.
    Interrupted,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), kind }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let kind = match &error {
            ClientError::NoServer { .. } | ClientError::Lost(_) => FailureKind::NoServer,
            ClientError::BadUrl { .. } | ClientError::Invalid(_) => FailureKind::BadArgument,
            ClientError::Server { code, .. } => FailureKind::Server(*code),
            ClientError::Stopped => FailureKind::Interrupted,
            ClientError::Refused { .. }
            | ClientError::Protocol(_)
            | ClientError::Closed { .. }
            | ClientError::SentAway { .. } => FailureKind::Refused,
        };
        let sentence = match &error {
            ClientError::NoServer { .. } => {
                format!("{error}; start one with `tidegate serve`, or name another by --url")
            }
            _ => error.to_string(),
        };
        // Reasons come from the other side: nothing in them may move the terminal's cursor.
        Self { sentence: super::text::shown(sentence.as_bytes()).to_string(), kind }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(FailureKind::Io, error.to_string())
    }
}
