//! An engine for one test, and a client that does exactly what it is told.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod raw;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use tidegate::config::Config;
use tidegate::engine::Engine;
use tidegate::protocol::wire::{self, client_frame, server_frame::Body};
use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocket};

/// Long enough for whatever a loaded machine may do; reached only when something is broken.
pub const LIMIT: Duration = Duration::from_secs(60);

/// An engine on ports that the kernel chose.
pub fn engine(change: impl FnOnce(&mut Config)) -> Engine {
    let mut config = Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        admin: SocketAddr::from(([127, 0, 0, 1], 0)),
        drain: Duration::from_millis(300),
        ..Config::default()
    };
    change(&mut config);
    Engine::embed(config).expect("the engine starts")
}

/// Waits until something holds that can only be asked for: there is nothing that would say so by itself.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "in vain: {what}");
        // Not sooner again, so that asking is not what keeps the machine busy.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Shuts an engine down and insists that nothing is left over.
pub fn end(engine: Engine) {
    let leftovers = engine.shutdown();
    assert!(leftovers.is_nothing(), "left over: {leftovers:?}");
}

/// A client without a mind of its own. It answers pings only while it reads.
pub struct Client {
    pub socket: WebSocket<TcpStream>,
    pub next_request: u64,
}

impl Client {
    /// Upgrades, and nothing more.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the engine listens");
        stream.set_nodelay(true).expect("TCP");
        stream.set_read_timeout(Some(LIMIT)).expect("TCP");
        stream.set_write_timeout(Some(LIMIT)).expect("TCP");
        let stream = upgrade(stream, "/v1/ws", "Sec-WebSocket-Protocol: tidegate.v1\r\n");
        Self { socket: WebSocket::from_raw_socket(stream, Role::Client, None), next_request: 1 }
    }

    /// Upgrades and says Hello.
    pub fn hello(address: SocketAddr) -> Self {
        Self::hello_with(address, wire::Hello::default()).0
    }

    /// Upgrades and says this Hello.
    pub fn hello_with(address: SocketAddr, hello: wire::Hello) -> (Self, wire::Welcome) {
        let mut client = Self::connect(address);
        client.send(client_frame::Body::Hello(hello));
        let Body::Welcome(welcome) = client.body() else { panic!("no Welcome") };
        (client, welcome)
    }

    /// Sends a frame under the next request number, which it returns.
    pub fn send(&mut self, body: client_frame::Body) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        let frame = wire::ClientFrame { request, body: Some(body) };
        self.socket.send(Message::Binary(frame.encode_to_vec().into())).expect("the connection is open");
        request
    }

    /// The next frame.
    pub fn frame(&mut self) -> wire::ServerFrame {
        self.try_frame().expect("the connection is open")
    }

    /// The next frame, or how the connection ended.
    pub fn try_frame(&mut self) -> Result<wire::ServerFrame, Ending> {
        loop {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => return Ok(wire::ServerFrame::decode(bytes).expect("a ServerFrame")),
                Ok(Message::Close(frame)) => {
                    let (code, reason) =
                        frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
                    return Err(Ending::Closed { code, reason });
                }
                Ok(_) => {}
                Err(error) => return Err(Ending::Broken(error.to_string())),
            }
        }
    }

    /// The next frame, which must be a patch, without its records: for tests with very many clients.
    pub fn head(&mut self) -> PatchHead {
        loop {
            if let Message::Binary(bytes) = self.socket.read().expect("the connection is open") {
                let frame = FrameHead::decode(bytes).expect("a ServerFrame");
                return frame.patch.expect("a patch");
            }
        }
    }

    pub fn body(&mut self) -> Body {
        self.frame().body.expect("a frame has a body")
    }

    /// Subscribes; returns the answer and the first patch.
    pub fn subscribe(&mut self, subscribe: wire::Subscribe) -> (wire::Subscribed, wire::Patch) {
        self.send(client_frame::Body::Subscribe(subscribe));
        let Body::Subscribed(subscribed) = self.body() else { panic!("no Subscribed") };
        (subscribed, self.patch())
    }

    pub fn subscribe_to(&mut self, topic: &str) -> (wire::Subscribed, wire::Patch) {
        self.subscribe(wire::Subscribe { topic: topic.to_owned(), ..wire::Subscribe::default() })
    }

    /// The next frame, which must be a patch.
    pub fn patch(&mut self) -> wire::Patch {
        match self.body() {
            Body::Patch(patch) => patch,
            other => panic!("no patch but {other:?}"),
        }
    }

    /// Publishes, and awaits the acknowledgement; patches that come before it are dropped.
    pub fn publish(&mut self, publish: wire::Publish) -> wire::Published {
        let request = self.send(client_frame::Body::Publish(publish));
        loop {
            let frame = self.frame();
            match frame.body {
                Some(Body::Published(published)) if frame.request == request => return published,
                Some(Body::Patch(_)) => {}
                other => panic!("no Published but {other:?}"),
            }
        }
    }

    /// Publishes records to a topic.
    pub fn publish_records(&mut self, topic: &str, records: Vec<wire::Record>) -> wire::Published {
        self.publish(wire::Publish { topic: topic.to_owned(), records, ..wire::Publish::default() })
    }

    /// The `Error` that answers what was sent last.
    pub fn error(&mut self) -> wire::Error {
        match self.body() {
            Body::Error(error) => error,
            other => panic!("no Error but {other:?}"),
        }
    }
}

/// A `ServerFrame` of which everything but a patch is skipped.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FrameHead {
    #[prost(message, optional, tag = "6")]
    pub patch: Option<PatchHead>,
}

/// A `Patch` whose records are skipped.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PatchHead {
    #[prost(uint64, tag = "2")]
    pub from: u64,
    #[prost(uint64, tag = "3")]
    pub to: u64,
    #[prost(uint64, tag = "5")]
    pub expired: u64,
    #[prost(uint64, tag = "6")]
    pub overrun: u64,
    #[prost(uint64, tag = "11")]
    pub lost: u64,
}

/// How a connection ended.
#[derive(Debug)]
pub enum Ending {
    Closed { code: u16, reason: String },
    Broken(String),
}

impl Ending {
    pub fn code(&self) -> u16 {
        match self {
            Self::Closed { code, .. } => *code,
            Self::Broken(error) => panic!("closed without a code: {error}"),
        }
    }
}

/// A keyed record.
pub fn keyed(key: &str, value: &str) -> wire::Record {
    wire::Record {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..wire::Record::default()
    }
}

/// An event.
pub fn event(value: &str) -> wire::Record {
    wire::Record { value: Bytes::copy_from_slice(value.as_bytes()), ..wire::Record::default() }
}

/// Writes an upgrade request and reads the head of the answer, which must be 101.
pub fn upgrade(mut stream: TcpStream, path: &str, headers: &str) -> TcpStream {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).expect("the engine reads");
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    stream
}

/// Reads up to the empty line.
pub fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8(head).expect("HTTP is ASCII")
}
