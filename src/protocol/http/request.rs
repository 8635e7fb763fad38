//! One complete head, parsed and judged.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use super::{Endpoint, Refusal};
use crate::protocol::SUBPROTOCOL;

/// What a well-formed request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// The WebSocket: answer with [`super::switching_protocols`].
    Upgrade(Upgrade),
    /// `GET /healthz`: answer with [`super::healthy`] or a 503, then close.
    Health,
}

/// An upgrade that may be accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// `Sec-WebSocket-Accept` of the answer.
    pub accept: String,
    /// Whether the answer chooses `tidegate.v1`.
    pub has_subprotocol: bool,
    /// All subprotocols that were offered, in their order. A token may hide among them: never log them.
    pub subprotocols: Vec<String>,
    /// The page's origin, if a browser sent it.
    pub origin: Option<String>,
    /// The authority that the client thinks it talks to.
    pub host: String,
    /// For the operator.
    pub user_agent: Option<String>,
}

const BAD_SYNTAX: Refusal = Refusal::BadRequest("The request is not well-formed HTTP/1.1.");

/// Parses `head`, which ends with its empty line.
pub(super) fn parse(
    head: &[u8],
    endpoint: Endpoint,
    max_headers: usize,
    origins: Option<&[String]>,
) -> Result<Request, Refusal> {
    let mut slots = vec![httparse::EMPTY_HEADER; max_headers];
    let mut parsed = httparse::Request::new(&mut slots);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooManyHeaders),
        Ok(_) | Err(_) => return Err(BAD_SYNTAX),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(BAD_SYNTAX);
    };
    let headers = Headers(parsed.headers);
    headers.check_framing()?;
    let (path, authority) = split_target(target)?;
    let host = headers.host(authority, version)?;

    let is_websocket = match (endpoint, path) {
        (Endpoint::Echo, _) | (Endpoint::Tidegate, "/v1/ws") => true,
        (Endpoint::Tidegate, "/healthz") => false,
        (Endpoint::Tidegate, _) => return Err(Refusal::NotFound),
    };
    if method != "GET" {
        return Err(Refusal::MethodNotAllowed);
    }
    if !is_websocket {
        return Ok(Request::Health);
    }
    headers.upgrade(endpoint, version, host, origins).map(Request::Upgrade)
}

/// The path without its query, and the authority if the target has the absolute form (RFC 9112 §3.2.2).
fn split_target(target: &str) -> Result<(&str, Option<&str>), Refusal> {
    let (authority, path) = match target.strip_prefix("http://") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            (Some(authority), path)
        }
        None => (None, target),
    };
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    // RFC 9112 §3.2: no fragment in a target.
    if !path.starts_with('/') || target.contains('#') {
        return Err(Refusal::BadRequest("The request's target is not a path."));
    }
    Ok((path, authority))
}

struct Headers<'a>(&'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    /// The value of a header that may stand once.
    fn single(&self, name: &'static str, twice: &'static str) -> Result<Option<&'a str>, Refusal> {
        let mut values = self.all(name);
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Refusal::BadRequest(twice));
        }
        // httparse has taken the spaces around it away.
        std::str::from_utf8(value).map(Some).map_err(|_| BAD_SYNTAX)
    }

    /// The elements of a header that is a list (RFC 9110 §5.6.1), over all its lines, without empty ones.
    fn list(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.all(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|e| !e.is_empty())
    }

    /// No request here has a body, so nothing may claim one: what a body's bytes are is where smuggling begins
    /// (RFC 9112 §6.3, §11.2).
    fn check_framing(&self) -> Result<(), Refusal> {
        if self.all("transfer-encoding").next().is_some() {
            return Err(Refusal::BadRequest("A request here has no transfer encoding."));
        }
        match self.single("content-length", "Content-Length stands twice.")? {
            None | Some("0") => Ok(()),
            Some(_) => Err(Refusal::BadRequest("A request here has no body.")),
        }
    }

    /// RFC 9112 §3.2: exactly one `Host`, if only HTTP/1.1; the target's authority goes before it.
    fn host(&self, authority: Option<&str>, version: u8) -> Result<String, Refusal> {
        const BAD_HOST: Refusal = Refusal::BadRequest("Host is not valid.");
        let host = match self.single("host", "Host stands twice.")? {
            Some(host) => host,
            None if version == 0 => "",
            None => return Err(Refusal::BadRequest("Host is missing.")),
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]%~".contains(&byte);
        let host = authority.unwrap_or(host);
        if host.bytes().all(is_plain) { Ok(host.to_owned()) } else { Err(BAD_HOST) }
    }

    /// RFC 6455 §4.2.1, point by point.
    fn upgrade(
        &self,
        endpoint: Endpoint,
        version: u8,
        host: String,
        origins: Option<&[String]>,
    ) -> Result<Upgrade, Refusal> {
        // 3. `Upgrade` has "websocket"; without it this is a plain GET.
        if !self.list("upgrade").any(|protocol| protocol.eq_ignore_ascii_case(b"websocket")) {
            return Err(Refusal::UpgradeRequired);
        }
        // 1. HTTP/1.1 or higher.
        if version != 1 {
            return Err(Refusal::BadRequest("An upgrade takes HTTP/1.1."));
        }
        // 4. `Connection` has "Upgrade".
        if !self.list("connection").any(|option| option.eq_ignore_ascii_case(b"upgrade")) {
            return Err(Refusal::BadRequest("Connection does not say upgrade."));
        }
        // 6. The version is 13; §4.4: others are told so.
        if self.single("sec-websocket-version", "Sec-WebSocket-Version stands twice.")? != Some("13") {
            return Err(Refusal::UpgradeRequired);
        }
        // 5. The key is 16 bytes in base64.
        let key = self
            .single("sec-websocket-key", "Sec-WebSocket-Key stands twice.")?
            .filter(|key| STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16))
            .ok_or(Refusal::BadRequest("Sec-WebSocket-Key is not 16 bytes in base64."))?;
        // 7. The origin; §10.2: checked by whoever is not open to all pages.
        let origin = self.single("origin", "Origin stands twice.")?;
        if let (Some(origin), Some(allowed)) = (origin, origins)
            && !allowed.iter().any(|one| one == origin)
        {
            return Err(Refusal::OriginNotAllowed);
        }
        // 8. Subprotocols. 9. Extensions: none is ever negotiated.
        let subprotocols = self.subprotocols()?;
        let has_subprotocol = endpoint == Endpoint::Tidegate;
        if has_subprotocol && !subprotocols.iter().any(|offered| offered == SUBPROTOCOL) {
            return Err(Refusal::BadRequest("The subprotocol tidegate.v1 must be offered."));
        }
        let user_agent = self.all("user-agent").next().map(|value| String::from_utf8_lossy(value).into_owned());
        Ok(Upgrade {
            accept: accept_of(key),
            has_subprotocol,
            subprotocols,
            origin: origin.map(str::to_owned),
            host,
            user_agent,
        })
    }

    /// RFC 6455 §4.1, point 10: each is a token.
    fn subprotocols(&self) -> Result<Vec<String>, Refusal> {
        let is_token_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        self.list("sec-websocket-protocol")
            .map(|offered| match std::str::from_utf8(offered) {
                Ok(name) if offered.iter().all(is_token_byte) => Ok(name.to_owned()),
                _ => Err(Refusal::BadRequest("Sec-WebSocket-Protocol is not a list of tokens.")),
            })
            .collect()
    }
}

/// RFC 6455 §4.2.2, point 5.
fn accept_of(key: &str) -> String {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}
