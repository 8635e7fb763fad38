//! Close codes: what they say, and whether the client should come back.

use std::fmt;

/// The status code of a WebSocket close frame (RFC 6455 §7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The connection has served its purpose.
    pub const NORMAL: Self = Self(1000);
    /// The engine is shutting down.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the WebSocket protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// A kind of message that is not taken here: text, on `tidegate.v1`.
    pub const UNSUPPORTED: Self = Self(1003);
    /// No code was given (RFC 6455 §7.1.5). Never on the wire.
    pub const ABSENT: Self = Self(1005);
    /// The connection was lost without a close frame (RFC 6455 §7.1.5). Never on the wire.
    pub const LOST: Self = Self(1006);
    /// Text that is not UTF-8.
    pub const INVALID_TEXT: Self = Self(1007);
    /// A rule of the engine was broken again and again.
    pub const POLICY: Self = Self(1008);
    /// A message above the limit.
    pub const TOO_BIG: Self = Self(1009);
    /// The client wanted an extension that was not negotiated; only clients send it.
    pub const EXTENSION_MISSING: Self = Self(1010);
    /// The engine failed.
    pub const INTERNAL: Self = Self(1011);
    /// The engine restarts.
    pub const RESTART: Self = Self(1012);
    /// Too much to do: come back later.
    pub const OVERLOADED: Self = Self(1013);
    /// A ping was not answered in time.
    pub const HEARTBEAT_TIMEOUT: Self = Self(4001);
    /// No `Hello` came in time.
    pub const HELLO_TIMEOUT: Self = Self(4002);
    /// The longest time that a session may last is over.
    pub const SESSION_OVER: Self = Self(4003);
    /// The token's time is over: come back with a fresh one.
    pub const TOKEN_EXPIRED: Self = Self(4004);
    /// Another connection took the session over.
    pub const TAKEN_OVER: Self = Self(4500);
    /// What the client was allowed has been revoked.
    pub const REVOKED: Self = Self(4501);
    /// The token is not accepted.
    pub const TOKEN_REFUSED: Self = Self(4502);

    /// Whether a close frame may carry this code (RFC 6455 §7.4.1, §7.4.2 and the IANA registry as of 2026:
    /// 1012 to 1014 were added to it; 1004 is reserved, 1005, 1006 and 1015 are for local use).
    #[must_use]
    pub fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }

    /// Whether a client that still wants its subscriptions should connect again: the fault was passing, or not its own.
    ///
    /// Codes nobody has defined invite it too, because a proxy may have sent them.
    #[must_use]
    pub fn invites_reconnect(self) -> bool {
        // Done, or the same client would only fail in the same way.
        let is_final = matches!(
            self,
            Self::NORMAL
                | Self::PROTOCOL_ERROR
                | Self::UNSUPPORTED
                | Self::INVALID_TEXT
                | Self::POLICY
                | Self::TOO_BIG
                | Self::EXTENSION_MISSING
                | Self(4500..=4999)
        );
        !is_final
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_defined_codes_travel() {
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
            assert!(CloseCode(code).is_sendable(), "{code}");
        }
        for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, u16::MAX] {
            assert!(!CloseCode(code).is_sendable(), "{code}");
        }
    }

    #[test]
    fn four_thousand_comes_back_and_four_and_a_half_does_not() {
        for code in [1001, 1005, 1006, 1011, 1012, 1013, 4000, 4001, 4002, 4003, 4004, 4499] {
            assert!(CloseCode(code).invites_reconnect(), "{code}");
        }
        for code in [1000, 1002, 1003, 1007, 1008, 1009, 1010, 4500, 4501, 4502, 4999] {
            assert!(!CloseCode(code).invites_reconnect(), "{code}");
        }
    }
}
