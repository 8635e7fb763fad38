//! One connection's session: its heartbeat, its rate of messages, what it may be sent again.

#![forbid(unsafe_code)]

mod allowance;
mod heartbeat;
mod rate;

pub use allowance::Allowance;
pub use heartbeat::{Beat, Heartbeat, Verdict};
pub use rate::Rate;

use crate::limits::SESSION_ID_BYTES;

/// Names a session, and is its secret: whoever shows it takes the session over.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; SESSION_ID_BYTES]);

impl SessionId {
    /// Of publishers that have no session; no client is given it.
    pub const NOBODY: Self = Self([0; SESSION_ID_BYTES]);

    /// The id that a client sent.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It is a secret: the first bytes are enough to tell two apart in a log.
        write!(f, "{:02x}{:02x}…", self.0[0], self.0[1])
    }
}
