//! Requests as browsers, tools and attackers send them.

use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn limits() -> HeadLimits {
    HeadLimits::from(&Limits::default())
}

fn upgrade_with(lines: &str) -> String {
    format!(
        "GET /v1/ws HTTP/1.1\r\nHost: example.org:8433\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: tidegate.v1\r\n{lines}\r\n"
    )
}

/// What comes of `head`, whole or dripped.
#[track_caller]
fn outcome_for(endpoint: Endpoint, origins: Option<&[String]>, head: &str) -> Result<Request, Refusal> {
    let whole = match Handshake::new(endpoint, limits()).receive(head.as_bytes(), origins) {
        Progress::Request { request, used } => {
            assert_eq!(used, head.len());
            Ok(request)
        }
        Progress::Refused(refusal) => Err(refusal),
        Progress::Incomplete => panic!("incomplete"),
    };
    let mut dripped = Handshake::new(endpoint, limits());
    let progress =
        head.as_bytes().chunks(1).map(|byte| dripped.receive(byte, origins)).find(|p| *p != Progress::Incomplete);
    let dripped = match progress {
        Some(Progress::Request { request, used: 1 }) => Ok(request),
        Some(Progress::Refused(refusal)) => Err(refusal),
        other => panic!("dripped: {other:?}"),
    };
    assert_eq!(dripped, whole);
    whole
}

#[track_caller]
fn outcome(head: &str) -> Result<Request, Refusal> {
    outcome_for(Endpoint::Tidegate, None, head)
}

#[track_caller]
fn accepted(head: &str) -> Upgrade {
    match outcome(head) {
        Ok(Request::Upgrade(upgrade)) => upgrade,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(head: &str) -> u16 {
    outcome(head).expect_err("must be refused").status()
}

#[test]
fn a_browsers_upgrade_is_accepted() {
    let upgrade = accepted(&upgrade_with("Origin: https://example.org\r\nUser-Agent: A/1\r\nCookie: a=b\r\n"));
    assert_eq!(
        upgrade,
        Upgrade {
            // The example of RFC 6455 §1.3.
            accept: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned(),
            has_subprotocol: true,
            subprotocols: vec!["tidegate.v1".to_owned()],
            origin: Some("https://example.org".to_owned()),
            host: "example.org:8433".to_owned(),
            user_agent: Some("A/1".to_owned()),
        }
    );
    assert_eq!(
        switching_protocols(&upgrade),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: tidegate.v1\r\n\r\n"
    );
}

#[test]
fn names_and_tokens_are_compared_without_case_and_lists_over_lines() {
    let head = format!(
        "GET /v1/ws?token=x HTTP/1.1\r\nhOsT:h\r\nupgrade: h2c, WebSocket\r\nCONNECTION: keep-alive\r\nConnection: ,UPGRADE\r\n\
         sec-websocket-key:   {KEY} \r\nsec-websocket-version: 13\r\nSec-WebSocket-Protocol: other, bearer.abc~1\r\n\
         Sec-WebSocket-Protocol: tidegate.v1\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    );
    assert_eq!(accepted(&head).subprotocols, ["other", "bearer.abc~1", "tidegate.v1"]);
    // An empty line before the request (RFC 9112 §2.2), and the absolute form (§3.2.2), whose authority counts.
    assert_eq!(accepted(&format!("\r\n{}", upgrade_with(""))).host, "example.org:8433");
    assert_eq!(accepted(&upgrade_with("").replace("GET /", "GET http://other:1/")).host, "other:1");
}

#[test]
fn what_is_not_an_upgrade_of_version_13_is_told_so() {
    let good = upgrade_with("");
    assert_eq!(refused("GET /v1/ws HTTP/1.1\r\nHost: h\r\n\r\n"), 426);
    assert_eq!(refused(&good.replace("Upgrade: websocket", "Upgrade: h2c")), 426);
    for version in ["8", "12", "14", "013", "13, 8", ""] {
        assert_eq!(refused(&good.replace("Version: 13", &format!("Version: {version}"))), 426, "{version}");
    }
    assert_eq!(refused(&good.replace("Sec-WebSocket-Version: 13\r\n", "")), 426);
    let response = Refusal::UpgradeRequired.response();
    assert!(std::str::from_utf8(&response).expect("ASCII").contains("\r\nSec-WebSocket-Version: 13\r\n"));
}

#[test]
fn a_broken_upgrade_is_refused() {
    let good = upgrade_with("");
    for (from, to) in [
        ("HTTP/1.1", "HTTP/1.0"),
        ("keep-alive, Upgrade", "keep-alive"),
        ("Connection: keep-alive, Upgrade\r\n", ""),
        (KEY, ""),
        (KEY, "dGhlIHNhbXBsZSBub25jZQ"),
        (KEY, "dGhlIHNhbXBsZSBub25j"),
        (KEY, "dGhlIHNhbXBsZSBub25jZWU="),
        (KEY, "dGhlIHNhbXBsZSBub25jZ*=="),
        ("Sec-WebSocket-Key: ", "X-Key: "),
        ("tidegate.v1", "tidegate.v2"),
        ("tidegate.v1", "Tidegate.v1"),
        ("tidegate.v1", "tidegate.v1 x"),
        ("tidegate.v1", "tidegate.v1, \"x\""),
        ("Sec-WebSocket-Protocol: tidegate.v1\r\n", ""),
    ] {
        assert!(good.contains(from));
        assert_eq!(refused(&good.replace(from, to)), 400, "{from} -> {to}");
    }
    for twice in [
        "Host: example.org:8433\r\n",
        "hOST: other\r\n",
        &format!("Sec-WebSocket-Key: {KEY}\r\n"),
        "Sec-WebSocket-Version: 13\r\n",
        "Origin: a\r\nOrigin: a\r\n",
    ] {
        assert_eq!(refused(&upgrade_with(twice)), 400, "{twice}");
    }
}

#[test]
fn what_smugglers_send_is_refused_on_every_path() {
    for path in ["/v1/ws", "/healthz", "/nothing"] {
        let good = upgrade_with("X: y\r\n").replace("/v1/ws", path);
        for (from, to) in [
            ("X: y", "Content-Length: 5"),
            ("X: y", "Content-Length: 0\r\nContent-Length: 0"),
            ("X: y", "Content-Length: 0\r\nContent-Length: 5"),
            ("X: y", "Content-Length: 0, 0"),
            ("X: y", "Content-Length: +0"),
            ("X: y", "Content-Length: -1"),
            ("X: y", "Transfer-Encoding: chunked"),
            ("X: y", "Transfer-Encoding: identity"),
            ("X: y", "Transfer-Encoding: chunked\r\nContent-Length: 0"),
            ("X: y", "Transfer-Encoding : chunked"),
            ("X: y", "X: a\r\n folded"),
            ("X: y", "X: a\r\n\tTransfer-Encoding: chunked"),
            ("X: y", " Leading: space"),
            ("X: y", "No colon"),
            ("X: y", ": no name"),
            ("X: y", "X: a\0b"),
            ("X: y", "X: a\rb"),
            ("X: y", "X: a\nY: b"),
            ("X: y", "X\u{b}: y"),
            ("Host: example.org:8433\r\n", ""),
            ("example.org:8433", "a, b"),
            ("example.org:8433", "a b"),
            ("example.org:8433", "a/b"),
            ("example.org:8433", "user@a"),
            ("HTTP/1.1", "HTTP/1.2"),
            ("HTTP/1.1", "HTTP/2.0"),
            ("HTTP/1.1", "http/1.1"),
            ("HTTP/1.1\r\n", "\r\n"),
            ("HTTP/1.1", "HTTP/1.1 HTTP/1.1"),
            ("GET ", "GET\t"),
            (path, "*"),
            (path, "v1/ws"),
            (path, "https://h/v1/ws"),
            (path, "/v1/ws#x"),
        ] {
            assert!(good.contains(from), "{from}");
            let head = good.replacen(from, to, 1);
            assert_eq!(refused(&head), 400, "{head}");
        }
    }
    // Lines that end in a bare line feed, all of them or one.
    assert_eq!(refused(&upgrade_with("").replace("\r\n", "\n")), 400);
    assert_eq!(refused(&upgrade_with("").replacen("\r\n", "\n", 1)), 400);
    assert_eq!(refused(&(upgrade_with("").trim_end().to_owned() + "\r\n\n")), 400);
}

#[test]
fn paths_and_methods() {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(outcome(&get("/healthz")), Ok(Request::Health));
    assert_eq!(outcome(&get("/healthz?verbose")), Ok(Request::Health));
    assert_eq!(outcome("GET /healthz HTTP/1.0\r\n\r\n"), Ok(Request::Health));
    for path in ["/", "/v1", "/v1/ws/", "/v1//ws", "/V1/ws", "/v1/%77s", "/v1/ws/../ws", "/healthz/"] {
        assert_eq!(refused(&get(path)), 404, "{path}");
    }
    for method in ["POST", "HEAD", "OPTIONS", "CONNECT", "get"] {
        assert_eq!(refused(&get("/healthz").replace("GET", method)), 405, "{method}");
        assert_eq!(refused(&upgrade_with("").replace("GET", method)), 405, "{method}");
    }
}

#[test]
fn the_echo_endpoint_takes_any_path_and_no_subprotocol() {
    let head = upgrade_with("").replace("/v1/ws", "/any?case=1");
    for head in [head.clone(), head.replace("Sec-WebSocket-Protocol: tidegate.v1\r\n", "")] {
        let Ok(Request::Upgrade(upgrade)) = outcome_for(Endpoint::Echo, None, &head) else { panic!("refused") };
        assert!(!switching_protocols(&upgrade).windows(22).any(|window| window == b"Sec-WebSocket-Protocol"));
    }
}

#[test]
fn only_listed_origins_may_upgrade() {
    let allowed = ["https://app.example.org".to_owned(), "http://localhost:3000".to_owned()];
    let with =
        |origin: &str| outcome_for(Endpoint::Tidegate, Some(&allowed), &upgrade_with(&format!("Origin: {origin}\r\n")));
    assert!(with("https://app.example.org").is_ok());
    assert!(with("http://localhost:3000").is_ok());
    for spoof in [
        "null",
        "",
        "http://app.example.org",
        "https://app.example.org:443",
        "https://app.example.org.evil.org",
        "https://evil-app.example.org",
        "https://example.org",
        "https://App.example.org",
        "https://app.example.org/",
        "https://app.example.org@evil.org",
        "https://app.example.org, https://evil.org",
        "https://app.example.or",
    ] {
        assert_eq!(with(spoof), Err(Refusal::OriginNotAllowed), "{spoof}");
    }
    // Not a browser's page.
    assert!(outcome_for(Endpoint::Tidegate, Some(&allowed), &upgrade_with("")).is_ok());
}

#[test]
fn bytes_behind_the_head_are_left_to_the_caller() {
    let head = upgrade_with("");
    let bytes = [head.as_bytes(), b"\x82\x80abcd\r\n\r\n"].concat();
    let mut handshake = Handshake::new(Endpoint::Tidegate, limits());
    assert_eq!(handshake.receive(&bytes[..100], None), Progress::Incomplete);
    let Progress::Request { used, .. } = handshake.receive(&bytes[100..], None) else { panic!("not complete") };
    assert_eq!(100 + used, head.len());
}

#[test]
fn heads_have_a_limit_to_the_byte_and_to_the_header() {
    let small = HeadLimits { bytes: 1_000, headers: 10 };
    let padded = |len: usize| {
        let empty = upgrade_with("X: \r\n").len();
        upgrade_with(&format!("X: {}\r\n", "x".repeat(len - empty)))
    };
    for (len, is_accepted) in [(999, true), (1_000, true), (1_001, false)] {
        for size in [len, 1, 7] {
            let mut handshake = Handshake::new(Endpoint::Tidegate, small);
            let head = padded(len);
            let end = head
                .as_bytes()
                .chunks(size)
                .map(|piece| handshake.receive(piece, None))
                .find(|p| *p != Progress::Incomplete);
            match end {
                Some(Progress::Request { .. }) => assert!(is_accepted, "{len}"),
                Some(Progress::Refused(refusal)) => {
                    assert!(!is_accepted && refusal == Refusal::HeadTooLarge, "{len}: {refusal:?}")
                }
                other => panic!("{other:?}"),
            }
        }
    }
    // A frame behind a head does not count.
    let mut handshake = Handshake::new(Endpoint::Tidegate, small);
    assert!(matches!(
        handshake.receive(&[padded(1_000).as_bytes(), &[0; 500]].concat(), None),
        Progress::Request { used: 1_000, .. }
    ));
    for (headers, is_accepted) in [(4, true), (5, false)] {
        let head = upgrade_with(&"X: y\r\n".repeat(headers));
        let progress = Handshake::new(Endpoint::Tidegate, small).receive(head.as_bytes(), None);
        assert_eq!(matches!(progress, Progress::Request { .. }), is_accepted, "{headers}: {progress:?}");
        assert!(is_accepted || progress == Progress::Refused(Refusal::TooManyHeaders));
    }
}

#[test]
fn a_dripped_head_costs_linear_time_and_bounded_memory() {
    // Quadratic work on this would not end today.
    let mut handshake = Handshake::new(Endpoint::Tidegate, HeadLimits { bytes: 1 << 20, headers: 64 });
    for _ in 0..1 << 20 {
        assert_eq!(handshake.receive(b"x", None), Progress::Incomplete);
    }
    assert_eq!(handshake.receive(b"x", None), Progress::Refused(Refusal::HeadTooLarge));
    assert!(handshake.head.capacity() <= 1 << 20);
}

#[test]
fn every_refusal_is_a_complete_response_that_closes() {
    for (refusal, status, header) in [
        (Refusal::BadRequest("Something is wrong."), "400 Bad Request", "Something is wrong."),
        (Refusal::OriginNotAllowed, "403 Forbidden", ""),
        (Refusal::NotFound, "404 Not Found", ""),
        (Refusal::MethodNotAllowed, "405 Method Not Allowed", "\r\nAllow: GET\r\n"),
        (Refusal::Timeout, "408 Request Timeout", ""),
        (Refusal::UpgradeRequired, "426 Upgrade Required", "\r\nUpgrade: websocket\r\n"),
        (Refusal::HeadTooLarge, "431 Request Header Fields Too Large", ""),
        (Refusal::TooManyHeaders, "431 Request Header Fields Too Large", ""),
        (Refusal::Overloaded { retry_after_s: 7 }, "503 Service Unavailable", "\r\nRetry-After: 7\r\n"),
    ] {
        let bytes = refusal.response();
        assert!(status.starts_with(&refusal.status().to_string()));
        check_response(&bytes, status);
        assert!(std::str::from_utf8(&bytes).expect("text").contains(header), "{status}");
    }
    check_response(&healthy(), "200 OK");
}

/// By a parser that did not write it.
fn check_response(bytes: &[u8], status: &str) {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes).expect("well-formed") else { panic!("incomplete") };
    assert_eq!(format!("{} {}", response.code.expect("a code"), response.reason.expect("a reason")), status);
    let value = |name: &str| {
        let mut values = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        let value = values.next().map(|header| std::str::from_utf8(header.value).expect("text"));
        assert!(values.next().is_none(), "{name} twice");
        value
    };
    let body = std::str::from_utf8(&bytes[head..]).expect("text");
    assert_eq!(value("content-length"), Some(&*body.len().to_string()));
    assert!(value("connection").is_some_and(|options| options.ends_with("close")));
    assert!(body.ends_with(".\n"), "a sentence: {body}");
}
