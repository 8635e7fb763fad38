//! What can go wrong between an application and a server, each as one sentence.

use std::time::Duration;

use crate::protocol::wire::Code;

/// Why something could not be done. The sentence is meant for people; the variant says who can act on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be used: correct it.
    #[error("{url:?} is not an address this client can use: {problem}; write it as ws://HOST:PORT")]
    BadUrl {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An argument breaks a rule of the protocol: correct it. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// Nothing listens there, or the network does not reach it.
    #[error("no server at {address}: {reason}")]
    NoServer {
        /// Host and port.
        address: String,
        /// What the operating system said.
        reason: String,
    },
    /// An HTTP server answered, but did not open a WebSocket.
    #[error("the server at {address} refused the connection with HTTP status {status}: {sentence}")]
    Refused {
        /// Host and port.
        address: String,
        /// The HTTP status.
        status: u16,
        /// The body of the answer, its first line.
        sentence: String,
        /// The answer's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// What the peer sent is not this protocol.
    #[error("the server does not keep to the protocol: {0}")]
    Protocol(String),
    /// The server answered with an `Error` frame.
    #[error("the server refused: {message} ({})", code.as_str_name())]
    Server {
        /// What kind of refusal.
        code: Code,
        /// The server's sentence.
        message: String,
        /// When to try again; 0: not said.
        retry_after_ms: u32,
    },
    /// The connection broke; the client reconnects by itself.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The server ended the connection for good (close codes 4500 to 4999).
    #[error("the server closed the connection for good with code {code}: {reason}")]
    Closed {
        /// The WebSocket close code.
        code: u16,
        /// The close frame's reason.
        reason: String,
    },
    /// The server said goodbye and asked not to come back (`GoAway` without a time).
    #[error("the server sent the client away for good ({})", reason.as_str_name())]
    SentAway {
        /// Why.
        reason: Code,
    },
    /// The application closed the client, or unsubscribed.
    #[error("the client was closed")]
    Stopped,
}

impl ClientError {
    /// Whether trying again later can help without anybody changing anything.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NoServer { .. } | Self::Refused { .. } | Self::Lost(_) | Self::Protocol(_) => true,
            Self::Server { code, .. } => matches!(
                code,
                Code::RateLimited | Code::Overloaded | Code::ShuttingDown | Code::LimitReached | Code::Internal
            ),
            Self::BadUrl { .. } | Self::Invalid(_) | Self::Closed { .. } | Self::SentAway { .. } | Self::Stopped => {
                false
            }
        }
    }

    /// How long the server asked to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Server { retry_after_ms, .. } if *retry_after_ms > 0 => {
                Some(Duration::from_millis(u64::from(*retry_after_ms)))
            }
            _ => None,
        }
    }
}
