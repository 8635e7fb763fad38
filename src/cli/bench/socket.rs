//! Connections of the load generator up to the point where they stop blocking.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// How long connecting and each step of the handshake may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// A longer answer to an upgrade request is none.
const HEAD_LIMIT: usize = 16 * 1024;

/// A socket with everything set that the run wants.
fn socket(address: SocketAddr, congestion: Option<&str>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(name) = congestion {
        socket.set_tcp_congestion(name.as_bytes())?;
    }
    Ok(socket)
}

/// A blocking connection.
pub(super) fn connect(address: SocketAddr, congestion: Option<&str>) -> io::Result<TcpStream> {
    let socket = socket(address, congestion)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    Ok(socket.into())
}

/// A connection that is being made, and does not block.
pub(super) fn begin(address: SocketAddr, congestion: Option<&str>) -> io::Result<TcpStream> {
    let socket = socket(address, congestion)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Sends an upgrade request; returns what came behind the answer.
pub(super) fn upgrade(stream: &mut TcpStream, request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    let mut chunk = [0; 1_024];
    loop {
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => head.extend_from_slice(&chunk[..n]),
        }
        if let Some(behind) = behind_upgrade(&head)? {
            return Ok(head.split_off(behind));
        }
    }
}

/// Where the answer to an upgrade request ends; `None` if it does not yet.
pub(super) fn behind_upgrade(bytes: &[u8]) -> io::Result<Option<usize>> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    if end.is_some() && !bytes.starts_with(b"HTTP/1.1 101 ") {
        let line = String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned();
        return Err(io::Error::other(format!("the server did not upgrade: {line}")));
    }
    if end.is_none() && bytes.len() > HEAD_LIMIT {
        return Err(io::Error::other("the server's answer to the upgrade request does not end"));
    }
    Ok(end.map(|at| at + 4))
}

/// Writes what `out` holds, as far as the socket takes it.
pub(super) fn write_out(stream: &mut impl Write, out: &mut Vec<u8>) -> io::Result<()> {
    while !out.is_empty() {
        match stream.write(out) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => drop(out.drain(..n)),
            Err(error) if is_not_yet(&error) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The socket takes nothing now, or is not connected yet.
fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}
