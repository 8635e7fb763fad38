//! The server's side of the scripts.

use base64::Engine as _;
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket};
use prost::Message as _;
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::wire::{self, client_frame, server_frame};
use super::super::{Code, Options, ReconnectPolicy, TopicState};
use std::collections::HashMap;
use std::time::Duration;

pub(super) struct Script {
    listener: TcpListener,
}

/// One accepted connection.
pub(super) struct Peer {
    socket: WebSocket<TcpStream>,
    /// What a right client has, for the checksums.
    pub(super) states: HashMap<u32, TopicState>,
}

#[derive(Debug)]
pub(super) enum Got {
    Frame(u64, client_frame::Body),
    Pong(Vec<u8>),
    Close(u16),
    Gone,
}

impl Script {
    pub(super) async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port") }
    }

    pub(super) fn options(&self) -> Options {
        let address = self.listener.local_addr().expect("the listener is bound");
        let (first, most) = (Duration::from_millis(1), Duration::from_millis(4));
        let reconnect = ReconnectPolicy { first, most, ..ReconnectPolicy::default() };
        Options { reconnect, ..Options::new(format!("ws://{address}")) }
    }

    pub(super) async fn accept_tcp(&self) -> (TcpStream, String) {
        let (mut stream, _) = super::soon(self.listener.accept()).await.expect("somebody connects");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("the head is sent whole"));
        }
        (stream, String::from_utf8(head).expect("a head is ASCII"))
    }

    pub(super) async fn accept(&self) -> Peer {
        let (mut stream, head) = self.accept_tcp().await;
        assert!(head.starts_with("GET /v1/ws HTTP/1.1\r\n"), "{head}");
        let header = |name: &str| {
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
            line.and_then(|line| line.split_once(':')).expect("the header is there").1.trim().to_owned()
        };
        assert_eq!(header("sec-websocket-protocol"), "tidegate.v1");
        let key = header("sec-websocket-key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
        let accept = base64::engine::general_purpose::STANDARD.encode(Sha1::digest(key));
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: tidegate.v1\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await.expect("the client reads");
        let mut socket = WebSocket::after_handshake(stream, Role::Server);
        socket.set_auto_close(false);
        socket.set_auto_pong(false);
        Peer { socket, states: HashMap::new() }
    }

    /// Accepts and answers Hello.
    pub(super) async fn welcome(&self, session: &'static [u8]) -> (Peer, wire::Hello) {
        let mut peer = self.accept().await;
        let Got::Frame(request, client_frame::Body::Hello(hello)) = peer.next().await else { panic!("no Hello") };
        let session = session.into();
        let (heartbeat_ms, max_message_bytes) = (1_000, 1_024);
        let welcome = wire::Welcome { session, heartbeat_ms, max_message_bytes, ..wire::Welcome::default() };
        peer.send(request, server_frame::Body::Welcome(welcome)).await;
        (peer, hello)
    }
}

impl Peer {
    pub(super) async fn send(&mut self, request: u64, body: server_frame::Body) -> usize {
        let bytes = wire::ServerFrame { request, body: Some(body) }.encode_to_vec();
        let length = bytes.len();
        self.socket.write_frame(Frame::binary(Payload::Owned(bytes))).await.expect("the client reads");
        length
    }

    pub(super) async fn next(&mut self) -> Got {
        let Ok(frame) = super::soon(self.socket.read_frame()).await else { return Got::Gone };
        match frame.opcode {
            OpCode::Binary => {
                let frame = wire::ClientFrame::decode(&frame.payload[..]).expect("the client sends valid frames");
                Got::Frame(frame.request, frame.body.expect("the client sends no empty frames"))
            }
            OpCode::Pong => Got::Pong(frame.payload.to_vec()),
            OpCode::Close => Got::Close(u16::from_be_bytes([frame.payload[0], frame.payload[1]])),
            other => panic!("unexpected {other:?}"),
        }
    }

    pub(super) async fn ping(&mut self, payload: &[u8]) {
        let ping = Frame::new(true, OpCode::Ping, None, Payload::Owned(payload.to_vec()));
        self.socket.write_frame(ping).await.expect("the client reads");
    }

    pub(super) async fn close(&mut self, code: u16) {
        self.socket.write_frame(Frame::close(code, b"scripted")).await.expect("the client reads");
    }

    pub(super) async fn subscribe(&mut self) -> (u64, wire::Subscribe) {
        match self.next().await {
            Got::Frame(request, client_frame::Body::Subscribe(subscribe)) => (request, subscribe),
            other => panic!("no Subscribe: {other:?}"),
        }
    }

    pub(super) async fn unsubscribe(&mut self) -> String {
        match self.next().await {
            Got::Frame(_, client_frame::Body::Unsubscribe(unsubscribe)) => unsubscribe.topic,
            other => panic!("no Unsubscribe: {other:?}"),
        }
    }

    pub(super) async fn publish(&mut self) -> (u64, wire::Publish) {
        match self.next().await {
            Got::Frame(request, client_frame::Body::Publish(publish)) => (request, publish),
            other => panic!("no Publish: {other:?}"),
        }
    }

    pub(super) async fn credit(&mut self) -> u64 {
        match self.next().await {
            Got::Frame(0, client_frame::Body::Credit(credit)) => credit.bytes,
            other => panic!("no Credit: {other:?}"),
        }
    }

    /// The order of the two is free.
    pub(super) async fn credit_after_unsubscribe(&mut self) -> u64 {
        let (mut bytes, mut is_unsubscribed) = (0, false);
        while bytes == 0 || !is_unsubscribed {
            match self.next().await {
                Got::Frame(_, client_frame::Body::Unsubscribe(_)) => is_unsubscribed = true,
                Got::Frame(_, client_frame::Body::Credit(credit)) => bytes += credit.bytes,
                other => panic!("neither Credit nor Unsubscribe: {other:?}"),
            }
        }
        bytes
    }

    pub(super) async fn subscribed(&mut self, request: u64, topic_id: u32, topic: &str, resumed: bool) {
        let topic = topic.to_owned();
        let subscribed = wire::Subscribed { topic_id, topic, epoch: 5, resumed, matching: 1, ..Default::default() };
        self.send(request, server_frame::Body::Subscribed(subscribed)).await;
    }

    pub(super) async fn unsubscribed(&mut self, topic: &str, reason: Code) {
        let unsubscribed = wire::Unsubscribed { topic: topic.to_owned(), reason: reason.into() };
        self.send(0, server_frame::Body::Unsubscribed(unsubscribed)).await;
    }

    pub(super) async fn error(&mut self, request: u64, code: Code, message: &str) {
        let error = wire::Error { code: code.into(), message: message.to_owned(), retry_after_ms: 0 };
        self.send(request, server_frame::Body::Error(error)).await;
    }

    pub(super) async fn published(&mut self, request: u64, offset: u64, duplicate: bool) {
        self.send(request, server_frame::Body::Published(wire::Published { offset, duplicate })).await;
    }

    /// A patch to the head with the checksum of all patches that made a chain here; its frame's length.
    pub(super) async fn patch(&mut self, topic_id: u32, from: u64, to: u64, writes: &[(&str, &str)]) -> usize {
        let first = to + 1 - writes.len() as u64;
        let record = |(index, (key, value)): (usize, &(&str, &str))| wire::Record {
            key: key.as_bytes().to_vec().into(),
            value: value.as_bytes().to_vec().into(),
            offset: first + index as u64,
            ..wire::Record::default()
        };
        let records = writes.iter().enumerate().map(record).collect();
        let mut patch = wire::Patch { topic_id, from, to, records, reset: from == 0, ..wire::Patch::default() };
        let state = self.states.entry(topic_id).or_default();
        if state.apply(&patch).is_ok() {
            patch.checksum = Some(state.checksum());
        }
        self.send(0, server_frame::Body::Patch(patch)).await
    }

    /// Ends the connection without a word; what the client has stays known.
    pub(super) fn cut(self) -> HashMap<u32, TopicState> {
        self.states
    }
}
