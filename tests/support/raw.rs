//! A client that writes any bytes, sees every frame, and answers nothing by itself.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use prost::Message as _;
use tidegate::protocol::wire::{self, client_frame, server_frame::Body};

use super::{LIMIT, upgrade};

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;
pub const FIN: u8 = 0x80;

/// One WebSocket connection, by the byte.
pub struct Raw {
    pub stream: TcpStream,
}

/// What came next.
#[derive(Debug, PartialEq)]
pub enum Heard {
    Frame(wire::ServerFrame),
    /// Text or a binary message that is no envelope.
    Other(u8, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
    /// FIN, after which nothing comes.
    End,
}

impl Raw {
    /// A TCP connection, and nothing more.
    pub fn tcp(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).expect("the engine listens");
        stream.set_nodelay(true).expect("TCP");
        stream.set_read_timeout(Some(LIMIT)).expect("TCP");
        stream.set_write_timeout(Some(LIMIT)).expect("TCP");
        stream
    }

    /// Upgrades, and nothing more.
    pub fn connect(address: SocketAddr) -> Self {
        Self { stream: upgrade(Self::tcp(address), "/v1/ws", "Sec-WebSocket-Protocol: tidegate.v1\r\n") }
    }

    /// Upgrades and says Hello.
    pub fn hello(address: SocketAddr) -> Self {
        Self::hello_with(address, wire::Hello::default()).0
    }

    /// Upgrades and says this Hello.
    pub fn hello_with(address: SocketAddr, hello: wire::Hello) -> (Self, wire::Welcome) {
        let mut client = Self::connect(address);
        client.send(1, client_frame::Body::Hello(hello));
        let Body::Welcome(welcome) = client.body() else { panic!("no Welcome") };
        (client, welcome)
    }

    /// Sends an envelope.
    pub fn send(&mut self, request: u64, body: client_frame::Body) {
        self.write(&masked(FIN | BINARY, &envelope(request, body)));
    }

    /// Sends one frame, whose first byte is `FIN` or not and the opcode.
    pub fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.write(&masked(first, payload));
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the engine reads");
    }

    /// The next frame of whatever kind. A text or binary message is expected to come whole.
    pub fn hear(&mut self) -> Heard {
        let mut head = [0; 2];
        match self.stream.read(&mut head[..1]) {
            Ok(0) => return Heard::End,
            Ok(_) => {}
            // What was written after the engine had closed is answered by a reset: the end as well.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Heard::End,
            Err(error) => panic!("nothing came: {error}"),
        }
        let mut read = |buffer: &mut [u8]| self.stream.read_exact(buffer).expect("a whole frame");
        read(&mut head[1..]);
        assert_eq!(head[1] & 0x80, 0, "a server does not mask");
        let len = match head[1] {
            126 => {
                let mut len = [0; 2];
                read(&mut len);
                usize::from(u16::from_be_bytes(len))
            }
            127 => {
                let mut len = [0; 8];
                read(&mut len);
                usize::try_from(u64::from_be_bytes(len)).expect("a length")
            }
            len => usize::from(len),
        };
        let mut payload = vec![0; len];
        read(&mut payload);
        match head[0] {
            0x82 => match wire::ServerFrame::decode(&payload[..]) {
                Ok(frame) => Heard::Frame(frame),
                Err(_) => Heard::Other(BINARY, payload),
            },
            0x81 => Heard::Other(TEXT, payload),
            0x88 => {
                let (code, reason) = payload.split_first_chunk().expect("an engine gives a code");
                Heard::Close(u16::from_be_bytes(*code), String::from_utf8(reason.to_vec()).expect("UTF-8"))
            }
            0x89 => Heard::Ping(payload),
            0x8A => Heard::Pong(payload),
            first => panic!("a frame that begins with {first:#x}"),
        }
    }

    /// The next envelope; pings before it are not answered.
    pub fn frame(&mut self) -> wire::ServerFrame {
        loop {
            match self.hear() {
                Heard::Frame(frame) => return frame,
                Heard::Ping(_) => {}
                other => panic!("no envelope but {other:?}"),
            }
        }
    }

    /// What the next envelope says.
    pub fn body(&mut self) -> Body {
        self.frame().body.expect("a frame has a body")
    }

    /// The next envelope, which must be an Error: its code and sentence.
    pub fn error(&mut self) -> (wire::Code, String) {
        match self.body() {
            Body::Error(error) => (error.code(), error.message),
            other => panic!("no Error but {other:?}"),
        }
    }

    /// The next envelope, which must be a GoAway: its reason, and whether the client is to come back.
    pub fn go_away(&mut self) -> (wire::Code, bool) {
        match self.body() {
            Body::GoAway(go_away) => (go_away.reason(), go_away.reconnect_after_ms > 0),
            other => panic!("no GoAway but {other:?}"),
        }
    }

    /// The close frame that comes next, and FIN behind it. Returns its code.
    pub fn closed(&mut self) -> u16 {
        let code = loop {
            match self.hear() {
                Heard::Close(code, _) => break code,
                Heard::Ping(_) => {}
                other => panic!("no close frame but {other:?}"),
            }
        };
        assert_eq!(self.hear(), Heard::End, "behind a close frame comes nothing");
        code
    }

    /// Insists that the engine still answers.
    pub fn is_served(&mut self) {
        self.send(77, client_frame::Body::Ping(wire::Ping { client_time_us: 5 }));
        let frame = self.frame();
        assert!(matches!((frame.request, &frame.body), (77, Some(Body::Pong(_)))), "{frame:?}");
    }
}

/// An encoded `ClientFrame`.
pub fn envelope(request: u64, body: client_frame::Body) -> Vec<u8> {
    wire::ClientFrame { request, body: Some(body) }.encode_to_vec()
}

/// One frame of a client, in the shortest form. Its mask is all zeroes, which is as good as any other here.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, payload.len());
    frame.extend_from_slice(payload);
    frame
}

/// The head of a client's frame that says that so many bytes follow.
pub fn head(first: u8, len: usize) -> Vec<u8> {
    let mut head = vec![first];
    match len {
        0..126 => head.push(0x80 | u8::try_from(len).expect("below 126")),
        126..0x1_0000 => {
            head.push(0x80 | 126);
            head.extend(u16::try_from(len).expect("below 2^16").to_be_bytes());
        }
        _ => {
            head.push(0x80 | 127);
            head.extend((len as u64).to_be_bytes());
        }
    }
    head.extend([0; 4]);
    head
}
