//! One connection without any policy: opens the WebSocket, sends what it is told, hands over what comes.
//!
//! The client stands on it. It is public for programs that must do what a well-behaved client never does: tests and
//! load generators that stop reading, leave pings unanswered or send garbage.

use std::io::Cursor;
use std::time::Duration;

use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocketError, WebSocketRead, WebSocketWrite};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncReadExt as _, Chain};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};

use super::names::{Endpoint, PATH};
use super::{ClientError, wire};

/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "tidegate.v1";
/// RFC 6455, section 1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a refusal's body that are looked at.
const REFUSAL_BYTES: usize = 4 * 1024;

/// How a connection is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawOptions {
    /// From the first packet to the open WebSocket.
    pub connect_timeout: Duration,
    /// Size of the kernel's receive buffer; `None`: the system's. A small one makes a slow reader felt soon.
    pub receive_buffer_bytes: Option<u32>,
    /// Longest message that is taken from the server.
    pub message_bytes: usize,
}

impl Default for RawOptions {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(10), receive_buffer_bytes: None, message_bytes: 1024 * 1024 }
    }
}

/// What the server sent.
#[derive(Clone, Debug, PartialEq)]
pub enum RawMessage {
    /// A frame of the protocol, and its length in bytes (what credit counts).
    Frame(Box<wire::ServerFrame>, usize),
    /// A ping, which [`RawWriter::pong`] answers.
    Ping(Bytes),
    /// A pong.
    Pong(Bytes),
    /// The server closes; nothing follows. Code 1005 stands for none (RFC 6455, section 7.1.5).
    Close {
        /// The close code.
        code: u16,
        /// The reason.
        reason: String,
    },
}

/// An open WebSocket whose pings are answered as long as somebody calls [`RawConnection::receive`].
pub struct RawConnection {
    /// What comes.
    pub reader: RawReader,
    /// What goes.
    pub writer: RawWriter,
    /// Whether [`RawConnection::receive`] answers pings.
    pub answers_pings: bool,
}

/// The receiving half.
pub struct RawReader {
    socket: WebSocketRead<Chain<Cursor<Bytes>, OwnedReadHalf>>,
    message_bytes: usize,
    /// The fragments of a message so far.
    partial: Option<BytesMut>,
}

/// The sending half.
pub struct RawWriter {
    socket: WebSocketWrite<OwnedWriteHalf>,
}

impl RawConnection {
    /// Opens a WebSocket to a server. `Hello` is still to be sent.
    ///
    /// # Errors
    ///
    /// [`ClientError::BadUrl`], [`ClientError::NoServer`], [`ClientError::Refused`], or [`ClientError::Protocol`] if
    /// the peer does not speak HTTP.
    pub async fn connect(url: &str, options: &RawOptions) -> Result<Self, ClientError> {
        let endpoint = Endpoint::parse(url)?;
        let opened = tokio::time::timeout(options.connect_timeout, open(&endpoint, options)).await;
        opened.unwrap_or_else(|_| {
            let reason = format!("no answer within {} ms", options.connect_timeout.as_millis());
            Err(ClientError::NoServer { address: endpoint.to_string(), reason })
        })
    }

    /// Sends a frame.
    ///
    /// # Errors
    ///
    /// [`ClientError::Lost`].
    pub async fn send(&mut self, frame: &wire::ClientFrame) -> Result<(), ClientError> {
        self.writer.send(frame).await
    }

    /// The next message; answers pings on the way if `answers_pings`, and hands them over all the same. Dropping the
    /// future in between breaks the connection.
    ///
    /// # Errors
    ///
    /// [`ClientError::Lost`] or [`ClientError::Protocol`].
    pub async fn receive(&mut self) -> Result<RawMessage, ClientError> {
        let message = self.reader.receive().await?;
        if let RawMessage::Ping(payload) = &message
            && self.answers_pings
        {
            self.writer.pong(payload).await?;
        }
        Ok(message)
    }
}

impl RawReader {
    /// The next message. Dropping the future in between breaks the connection.
    ///
    /// # Errors
    ///
    /// [`ClientError::Lost`] or [`ClientError::Protocol`].
    pub async fn receive(&mut self) -> Result<RawMessage, ClientError> {
        let protocol = |sentence: &str| ClientError::Protocol(sentence.to_owned());
        loop {
            let mut no_answer = |_: Frame<'_>| async { Ok::<(), std::convert::Infallible>(()) };
            let frame = self.socket.read_frame(&mut no_answer).await.map_err(|e| lost(&e))?;
            let (opcode, is_final) = (frame.opcode, frame.fin);
            let payload = match frame.payload {
                Payload::Bytes(bytes) => bytes,
                other => BytesMut::from(&other[..]),
            };
            match opcode {
                OpCode::Ping => return Ok(RawMessage::Ping(payload.freeze())),
                OpCode::Pong => return Ok(RawMessage::Pong(payload.freeze())),
                OpCode::Close => {
                    let (code, reason) = match payload.split_at_checked(2) {
                        Some((code, reason)) => (u16::from_be_bytes([code[0], code[1]]), reason),
                        None => (1005, &[][..]),
                    };
                    return Ok(RawMessage::Close { code, reason: String::from_utf8_lossy(reason).into_owned() });
                }
                OpCode::Text => return Err(protocol("it sent text")),
                OpCode::Binary if self.partial.is_some() => return Err(protocol("a message began inside another")),
                OpCode::Binary if is_final => return decode(payload.freeze()),
                OpCode::Binary => self.partial = Some(payload),
                OpCode::Continuation => {
                    let Some(mut message) = self.partial.take() else {
                        return Err(protocol("a fragment without a beginning"));
                    };
                    if message.len() + payload.len() > self.message_bytes {
                        return Err(protocol("its message is too long"));
                    }
                    message.extend_from_slice(&payload);
                    if is_final {
                        return decode(message.freeze());
                    }
                    self.partial = Some(message);
                }
            }
        }
    }
}

impl RawWriter {
    /// Sends a frame.
    ///
    /// # Errors
    ///
    /// [`ClientError::Lost`].
    pub async fn send(&mut self, frame: &wire::ClientFrame) -> Result<(), ClientError> {
        self.send_bytes(frame.encode_to_vec()).await
    }

    /// Sends a binary message of any bytes.
    ///
    /// # Errors
    ///
    /// [`ClientError::Lost`].
    pub async fn send_bytes(&mut self, message: Vec<u8>) -> Result<(), ClientError> {
        self.write(Frame::binary(Payload::Owned(message))).await
    }

    /// Sends a pong.
    ///
    /// # Errors
    ///
    /// [`ClientError::Lost`].
    pub async fn pong(&mut self, payload: &[u8]) -> Result<(), ClientError> {
        self.write(Frame::pong(Payload::Owned(payload.to_vec()))).await
    }

    /// Sends a ping.
    ///
    /// # Errors
    ///
    /// [`ClientError::Lost`].
    pub async fn ping(&mut self, payload: &[u8]) -> Result<(), ClientError> {
        self.write(Frame::new(true, OpCode::Ping, None, Payload::Owned(payload.to_vec()))).await
    }

    /// Sends a close frame; nothing may follow.
    ///
    /// # Errors
    ///
    /// [`ClientError::Lost`].
    pub async fn close(&mut self, code: u16, reason: &str) -> Result<(), ClientError> {
        self.write(Frame::close(code, reason.as_bytes())).await
    }

    async fn write(&mut self, frame: Frame<'static>) -> Result<(), ClientError> {
        self.socket.write_frame(frame).await.map_err(|e| lost(&e))
    }
}

fn decode(message: Bytes) -> Result<RawMessage, ClientError> {
    let length = message.len();
    match wire::ServerFrame::decode(message) {
        Ok(frame) => Ok(RawMessage::Frame(Box::new(frame), length)),
        Err(error) => Err(ClientError::Protocol(format!("a frame cannot be decoded ({error})"))),
    }
}

fn lost(error: &WebSocketError) -> ClientError {
    match error {
        WebSocketError::UnexpectedEOF | WebSocketError::ConnectionClosed => {
            ClientError::Lost("the server ended it without a word".into())
        }
        WebSocketError::IoError(error) => ClientError::Lost(error.to_string()),
        other => ClientError::Protocol(other.to_string()),
    }
}

async fn open(endpoint: &Endpoint, options: &RawOptions) -> Result<RawConnection, ClientError> {
    let address = endpoint.to_string();
    let stream = dial(endpoint, options)
        .await
        .map_err(|error| ClientError::NoServer { address: address.clone(), reason: error.to_string() })?;
    let protocol = |what: &str, error: hyper::Error| ClientError::Protocol(format!("{what} ({error})"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| protocol("it does not speak HTTP", e))?;
    // Ends by itself: with the upgrade, or when `sender` is dropped.
    tokio::spawn(connection.with_upgrades());
    let key = fastwebsockets::handshake::generate_key();
    let request = hyper::Request::get(PATH)
        .header(header::HOST, &address)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header(header::SEC_WEBSOCKET_KEY, &key)
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
        .body(Empty::<Bytes>::new())
        .map_err(|error| ClientError::Invalid(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|e| protocol("it does not speak HTTP", e))?;
    if response.status() != hyper::StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(address, response).await);
    }
    check_upgrade(response.headers(), &key)?;
    let upgraded = hyper::upgrade::on(response).await.map_err(|e| protocol("the upgrade failed", e))?;
    let parts = upgraded
        .downcast::<TokioIo<TcpStream>>()
        .map_err(|_| ClientError::Protocol("the upgraded stream is no TCP stream".into()))?;
    let (read, write) = parts.io.into_inner().into_split();
    // What came behind the response's head was read with it.
    let read = Cursor::new(parts.read_buf).chain(read);
    let (mut read, write) = fastwebsockets::after_handshake_split(read, write, Role::Client);
    // The reader never writes: who answers, and when, is the caller's decision.
    read.set_auto_pong(false);
    read.set_auto_close(false);
    read.set_max_message_size(options.message_bytes);
    Ok(RawConnection {
        reader: RawReader { socket: read, message_bytes: options.message_bytes, partial: None },
        writer: RawWriter { socket: write },
        answers_pings: true,
    })
}

async fn dial(endpoint: &Endpoint, options: &RawOptions) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((endpoint.host.as_str(), endpoint.port)).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(bytes) = options.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        match socket.connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn refusal(address: String, response: hyper::Response<hyper::body::Incoming>) -> ClientError {
    let status = response.status();
    let retry_after = response.headers().get(header::RETRY_AFTER);
    let retry_after = retry_after.and_then(|v| v.to_str().ok()?.parse().ok()).map(Duration::from_secs);
    let body = Limited::new(response.into_body(), REFUSAL_BYTES).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let body = String::from_utf8_lossy(&body);
    // One line and nothing that moves a terminal's cursor: it comes from whoever listens there.
    let line: String = body.lines().next().unwrap_or("").chars().filter(|c| !c.is_control()).take(200).collect();
    let sentence =
        if line.is_empty() { status.canonical_reason().unwrap_or("no reason given").to_owned() } else { line };
    ClientError::Refused { address, status: status.as_u16(), sentence, retry_after }
}

/// RFC 6455, section 4.1: what the client must check in the server's answer.
fn check_upgrade(headers: &header::HeaderMap, key: &str) -> Result<(), ClientError> {
    let value = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok()).unwrap_or("");
    let wrong = |what: &str| Err(ClientError::Protocol(format!("its answer to the upgrade has {what}")));
    if !value(header::UPGRADE).eq_ignore_ascii_case("websocket") {
        return wrong("another Upgrade");
    }
    if !value(header::CONNECTION).split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")) {
        return wrong("another Connection");
    }
    let digest = Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize();
    if value(header::SEC_WEBSOCKET_ACCEPT) != base64::engine::general_purpose::STANDARD.encode(digest) {
        return wrong("a wrong Sec-WebSocket-Accept");
    }
    if value(header::SEC_WEBSOCKET_PROTOCOL) != SUBPROTOCOL {
        return wrong("another subprotocol: it is no Tidegate server");
    }
    Ok(())
}
