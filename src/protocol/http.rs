//! The one HTTP/1.1 request that a connection begins with (RFC 9112), and the upgrade it may ask for (RFC 6455 §4.2).
//!
//! Strict where leniency would let two parsers disagree about where a request ends: bare line feeds, folds, bodies and
//! duplicates of what decides anything are refused, and the connection is closed behind every answer but 101.

mod request;
mod response;
#[cfg(test)]
mod tests;

pub use request::{Request, Upgrade};
pub use response::{Refusal, healthy, switching_protocols};

use crate::limits::Limits;

/// What a request may ask for here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/ws` with the subprotocol `tidegate.v1`, and `/healthz`.
    Tidegate,
    /// Conformance: every path is a WebSocket without a subprotocol.
    Echo,
}

/// What a request head may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes, from the request line to the empty line.
    pub bytes: usize,
    /// Headers.
    pub headers: usize,
}

impl From<&Limits> for HeadLimits {
    fn from(limits: &Limits) -> Self {
        Self { bytes: limits.head_bytes, headers: limits.head_headers }
    }
}

/// How far a [`Handshake`] has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The head has not ended.
    Incomplete,
    /// It has.
    Request {
        /// What it asks for.
        request: Request,
        /// How many of the bytes just received it took; those behind are already the client's frames.
        used: usize,
    },
    /// Answer with [`Refusal::response`], then close.
    Refused(Refusal),
}

/// Collects a request's head and looks for its end in new bytes only, so that dripped bytes cost linear time.
/// Parsed once, when it is complete.
#[derive(Debug)]
pub struct Handshake {
    endpoint: Endpoint,
    limits: HeadLimits,
    /// The head so far. Never more than `limits.bytes`.
    head: Vec<u8>,
}

impl Handshake {
    /// Nothing received yet.
    #[must_use]
    pub fn new(endpoint: Endpoint, limits: HeadLimits) -> Self {
        Self { endpoint, limits, head: Vec::new() }
    }

    /// Takes bytes that arrived. `origins` lists who may upgrade, exactly as browsers name them; `None`: anyone.
    /// Requests without an `Origin` do not come from a browser's page and are not subject to it.
    ///
    /// After [`Progress::Request`] or [`Progress::Refused`] the handshake is over.
    pub fn receive(&mut self, bytes: &[u8], origins: Option<&[String]>) -> Progress {
        let before = self.head.len();
        let room = self.limits.bytes - before;
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        match head_end(&self.head, before) {
            Ok(Some(end)) => match request::parse(&self.head[..end], self.endpoint, self.limits.headers, origins) {
                Ok(request) => Progress::Request { request, used: end - before },
                Err(refusal) => Progress::Refused(refusal),
            },
            Ok(None) if bytes.len() > room => Progress::Refused(Refusal::HeadTooLarge),
            Ok(None) => Progress::Incomplete,
            Err(refusal) => Progress::Refused(refusal),
        }
    }
}

/// Where the head ends, if it does. The bytes before `from` have been looked at already.
fn head_end(head: &[u8], from: usize) -> Result<Option<usize>, Refusal> {
    for (i, _) in head.iter().enumerate().skip(from).filter(|&(_, &byte)| byte == b'\n') {
        // RFC 9112 §2.2 allows a bare line feed; it is refused because another parser may not see a line's end in it.
        if i == 0 || head[i - 1] != b'\r' {
            return Err(Refusal::BadRequest("Lines end with CR LF."));
        }
        if head[..i - 1].ends_with(b"\r\n") {
            return Ok(Some(i + 1));
        }
    }
    Ok(None)
}
