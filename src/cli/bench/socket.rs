//! Connections of the load generator up to the point where they stop blocking.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::skim::FIN_BINARY;
use crate::protocol::envelope;
use crate::protocol::wire::{self, client_frame};

/// How long connecting and each step of the handshake may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// RFC 6455 section 5.3 wants masks that cannot be foretold, for the sake of proxies; there are none here.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x19, 0x77];

/// A blocking connection with everything set that the run wants.
pub(super) fn connect(address: SocketAddr, congestion: Option<&str>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(name) = congestion {
        socket.set_tcp_congestion(name.as_bytes())?;
    }
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    Ok(socket.into())
}

/// A connection that has been upgraded and does not block any more.
pub(super) fn upgraded(address: SocketAddr, congestion: Option<&str>) -> io::Result<TcpStream> {
    let mut stream = connect(address, congestion)?;
    let request = format!(
        "GET /v1/ws HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: tidegate.v1\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    let mut chunk = [0; 1_024];
    // The server says nothing behind its answer before it was greeted, so the chunk ends with the head.
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => head.extend_from_slice(&chunk[..n]),
        }
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
        return Err(io::Error::other(format!("the server did not upgrade: {line}")));
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Appends a masked frame.
pub(super) fn put_frame(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    out.push(first);
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    let start = out.len();
    out.extend_from_slice(payload);
    for (byte, mask) in out[start..].iter_mut().zip(MASK.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends a client's message.
pub(super) fn put_message(out: &mut Vec<u8>, request: u64, body: client_frame::Body) {
    let message = envelope::encode_client(&wire::ClientFrame { request, body: Some(body) });
    put_frame(out, FIN_BINARY, &message);
}

/// Writes what `out` holds, as far as the socket takes it.
pub(super) fn write_out(stream: &mut impl Write, out: &mut Vec<u8>) -> io::Result<()> {
    while !out.is_empty() {
        match stream.write(out) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => drop(out.drain(..n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
