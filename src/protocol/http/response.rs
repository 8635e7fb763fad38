//! The answers: complete responses, ready to send.

use bytes::Bytes;

use super::Upgrade;
use crate::protocol::SUBPROTOCOL;

/// Why a request is answered by something else than what it asked for. The connection closes behind the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400: what was wrong with it, in a sentence.
    BadRequest(&'static str),
    /// 403: a page of this origin may not connect.
    OriginNotAllowed,
    /// 404.
    NotFound,
    /// 405: only GET is served.
    MethodNotAllowed,
    /// 408: the head took too long.
    Timeout,
    /// 426: the path is a WebSocket and the request no upgrade, or one of another version.
    UpgradeRequired,
    /// 431: the head has too many bytes.
    HeadTooLarge,
    /// 431: the head has too many headers.
    TooManyHeaders,
    /// 503: a limit on connections is reached.
    Overloaded {
        /// Seconds after which to try again.
        retry_after_s: u32,
    },
}

impl Refusal {
    /// The status code.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::OriginNotAllowed => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Timeout => 408,
            Self::UpgradeRequired => 426,
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            Self::Overloaded { .. } => 503,
        }
    }

    /// The whole response.
    #[must_use]
    pub fn response(self) -> Bytes {
        let none = String::new();
        match self {
            Self::BadRequest(sentence) => response("400 Bad Request", &none, sentence),
            Self::OriginNotAllowed => response(
                "403 Forbidden",
                &none,
                "Pages of this origin may not connect; the server's operator can allow it.",
            ),
            Self::NotFound => response("404 Not Found", &none, "There is nothing here; the WebSocket is at /v1/ws."),
            Self::MethodNotAllowed => response("405 Method Not Allowed", "Allow: GET\r\n", "Only GET is served here."),
            Self::Timeout => response("408 Request Timeout", &none, "The request's head took too long to arrive."),
            // RFC 9110 §15.5.22: 426 names the protocol; RFC 6455 §4.4: and its version. `Upgrade` is hop by hop.
            Self::UpgradeRequired => response(
                "426 Upgrade Required",
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
                "This is a WebSocket of version 13; a GET must ask for the upgrade.",
            ),
            Self::HeadTooLarge => {
                response("431 Request Header Fields Too Large", &none, "The request's head has too many bytes.")
            }
            Self::TooManyHeaders => {
                response("431 Request Header Fields Too Large", &none, "The request has too many headers.")
            }
            Self::Overloaded { retry_after_s } => response(
                "503 Service Unavailable",
                &format!("Retry-After: {retry_after_s}\r\n"),
                "Too many connections; try again later.",
            ),
        }
    }
}

/// 101 (RFC 6455 §4.2.2), with the subprotocol if the upgrade has one.
#[must_use]
pub fn switching_protocols(upgrade: &Upgrade) -> Bytes {
    let subprotocol =
        if upgrade.has_subprotocol { format!("Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n") } else { String::new() };
    Bytes::from(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n{subprotocol}\r\n",
        upgrade.accept
    ))
}

/// 200, for `/healthz`.
#[must_use]
pub fn healthy() -> Bytes {
    response("200 OK", "Cache-Control: no-store\r\n", "The engine is serving.")
}

/// `headers` are whole lines.
fn response(status: &str, headers: &str, sentence: &str) -> Bytes {
    // 426 lists `Upgrade` in `Connection` (RFC 9110 §7.8).
    let connection = if headers.starts_with("Upgrade:") { "upgrade, close" } else { "close" };
    Bytes::from(format!(
        "HTTP/1.1 {status}\r\nConnection: {connection}\r\n{headers}Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\n\r\n{sentence}\n",
        sentence.len() + 1
    ))
}
