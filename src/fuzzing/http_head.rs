//! The request's head, against a reading of its lines that knows no leniency.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use crate::protocol::http::{Endpoint, Handshake, HeadLimits, Progress, Refusal, Request, Upgrade};

const LIMITS: HeadLimits = HeadLimits { bytes: 1_024, headers: 16 };
const ORIGIN: &str = "https://app.example.org";

/// The first byte chooses the endpoint, and whether origins are listed; the second how the rest is cut.
pub fn check(data: &[u8]) {
    let Some((&[options, seed], bytes)) = data.split_first_chunk() else { return };
    let endpoint = if options & 1 == 0 { Endpoint::Tidegate } else { Endpoint::Echo };
    let listed = [ORIGIN.to_owned()];
    let origins = (options & 2 != 0).then_some(&listed[..]);
    let whole = receive(endpoint, origins, bytes, |_| bytes.len());
    let mut choose = super::choices(u32::from(seed));
    let cut = receive(endpoint, origins, bytes, |left| choose(left.min(40) + 1));
    assert_eq!(whole, cut, "it depends on where the bytes are cut");
    match whole {
        Progress::Incomplete => {
            assert!(bytes.len() <= LIMITS.bytes && !bytes.windows(4).any(|window| window == b"\r\n\r\n"));
        }
        Progress::Request { request, used } => {
            assert!(used <= LIMITS.bytes);
            let head = Head::read(&bytes[..used]);
            head.check_framing();
            match request {
                Request::Health => assert_eq!(head.path(), "/healthz"),
                Request::Upgrade(upgrade) => head.check_upgrade(&upgrade, endpoint, origins.is_some()),
            }
        }
        Progress::Refused(refusal) => check_refusal(refusal, bytes),
    }
}

/// Feeds the bytes in pieces. [`Progress::Request::used`] counts from the first byte of all.
fn receive(
    endpoint: Endpoint,
    origins: Option<&[String]>,
    bytes: &[u8],
    mut piece: impl FnMut(usize) -> usize,
) -> Progress {
    let mut handshake = Handshake::new(endpoint, LIMITS);
    let mut at = 0;
    while at < bytes.len() {
        let end = at + piece(bytes.len() - at).min(bytes.len() - at);
        match handshake.receive(&bytes[at..end], origins) {
            Progress::Incomplete => at = end,
            Progress::Request { request, used } => return Progress::Request { request, used: at + used },
            Progress::Refused(refusal) => return Progress::Refused(refusal),
        }
    }
    Progress::Incomplete
}

/// A head that was accepted, read by the letter: lines end with CR LF, a name stands before a colon, nothing else.
struct Head<'a> {
    request_line: &'a str,
    headers: Vec<(String, &'a [u8])>,
}

impl<'a> Head<'a> {
    fn read(head: &'a [u8]) -> Self {
        let end = head.windows(4).position(|window| window == b"\r\n\r\n").expect("an empty line");
        assert_eq!(end + 4, head.len(), "it ends at its first empty line");
        // RFC 9112 §2.2: an empty line before the request line is passed over.
        let mut lines = split(&head[..end]).into_iter().skip_while(|line| line.is_empty());
        let request_line = std::str::from_utf8(lines.next().expect("a request line")).expect("text");
        let headers = lines.map(|line| {
            assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "a byte that ends a line elsewhere");
            let colon = line.iter().position(|byte| *byte == b':').expect("a colon");
            let is_token = |byte: &u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(byte);
            assert!(colon > 0 && line[..colon].iter().all(is_token), "a name is a token");
            let name = String::from_utf8(line[..colon].to_ascii_lowercase()).expect("ASCII");
            (name, line[colon + 1..].trim_ascii())
        });
        Self { request_line, headers: headers.collect() }
    }

    fn values(&self, name: &str) -> Vec<&'a [u8]> {
        self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| *value).collect()
    }

    fn path(&self) -> &str {
        let target = self.request_line.split(' ').nth(1).expect("a target");
        let target = target.strip_prefix("http://").map_or(target, |rest| &rest[rest.find('/').expect("a path")..]);
        target.split('?').next().expect("a split gives something")
    }

    /// What two parsers could disagree about.
    fn check_framing(&self) {
        let parts: Vec<&str> = self.request_line.split(' ').collect();
        let [method, target, version] = parts[..] else { panic!("{:?}", self.request_line) };
        assert!(method == "GET" && matches!(version, "HTTP/1.1" | "HTTP/1.0"));
        assert!(!target.contains('#') && !target.bytes().any(|byte| byte.is_ascii_control()));
        assert!(self.headers.len() <= LIMITS.headers);
        assert_eq!(self.values("transfer-encoding"), Vec::<&[u8]>::new());
        assert!(matches!(self.values("content-length")[..], [] | [b"0"]), "a body");
        let hosts = self.values("host").len();
        assert!(hosts == 1 || (hosts == 0 && version == "HTTP/1.0"), "{hosts} hosts");
    }

    /// RFC 6455 §4.2.1.
    fn check_upgrade(&self, upgrade: &Upgrade, endpoint: Endpoint, has_origins: bool) {
        assert!(self.request_line.ends_with(" HTTP/1.1"));
        let lists = |name: &str, wanted: &str| {
            let values = self.values(name).join(&b","[..]);
            values.split(|byte| *byte == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
        };
        assert!(lists("upgrade", "websocket") && lists("connection", "upgrade"));
        assert_eq!(self.values("sec-websocket-version"), [b"13"]);
        let [key] = self.values("sec-websocket-key")[..] else { panic!("one key") };
        assert_eq!(STANDARD.decode(key).expect("base64").len(), 16);
        let digest = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
        assert_eq!(upgrade.accept, STANDARD.encode(digest));
        if endpoint == Endpoint::Tidegate {
            assert!(upgrade.has_subprotocol && lists("sec-websocket-protocol", "tidegate.v1"));
            assert_eq!(self.path(), "/v1/ws");
        }
        match self.values("origin")[..] {
            [] => assert_eq!(upgrade.origin, None),
            [origin] => {
                assert_eq!(upgrade.origin.as_deref().map(str::as_bytes), Some(origin));
                assert!(!has_origins || origin == ORIGIN.as_bytes(), "a page that is not listed");
            }
            _ => panic!("two origins"),
        }
    }
}

fn split(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        lines.push(&bytes[..end]);
        bytes = &bytes[end + 2..];
    }
    lines.push(bytes);
    lines
}

/// The answer is whole, and says nothing that the client said.
fn check_refusal(refusal: Refusal, bytes: &[u8]) {
    let response = refusal.response();
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(_) = parsed.parse(&response).expect("well-formed") else { panic!("incomplete") };
    assert_eq!(parsed.code, Some(refusal.status()));
    match refusal {
        Refusal::HeadTooLarge => assert!(bytes.len() > LIMITS.bytes),
        Refusal::OriginNotAllowed => {
            assert!(bytes.to_ascii_lowercase().windows(7).any(|window| window == b"origin:"));
        }
        _ => {}
    }
}
