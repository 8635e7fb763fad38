//! NATS over its WebSocket listener: the client protocol of docs.nats.io, with PING and PONG as acknowledgement.

use std::net::SocketAddr;

use super::stream::Stream;
use super::{Arrival, Dialect, Duty, Outgoing, Role, take_frames, websocket_request};
use crate::cli::bench::frames::{FIN_BINARY, put_frame};

/// One connection.
pub(super) struct Nats {
    subject: String,
    duty: Duty,
    stream: Stream,
}

impl Nats {
    pub(super) fn new(role: &Role<'_>) -> Self {
        Self { subject: role.topic.to_owned(), duty: role.duty, stream: Stream::default() }
    }
}

impl Dialect for Nats {
    fn request(&self, address: SocketAddr) -> Option<String> {
        Some(websocket_request(address, "/", None))
    }

    fn open(&mut self, _out: &mut Vec<u8>) {
        // The server's INFO comes first.
    }

    fn publish(&mut self, record: &Outgoing<'_>, out: &mut Vec<u8>) {
        let mut message = format!("PUB {} {}\r\n", self.subject, record.value.len()).into_bytes();
        message.extend_from_slice(record.value);
        message.extend_from_slice(b"\r\nPING\r\n");
        put_frame(out, FIN_BINARY, &message);
    }

    fn take(&mut self, bytes: &[u8], arrival: &mut Arrival<'_>) -> Result<usize, String> {
        let Self { subject, duty, stream } = self;
        let used = take_frames(bytes, arrival, |_, payload, arrival| {
            stream.go_on(payload, |bytes| take_one(bytes, subject, *duty, arrival))
        })?;
        Ok(used)
    }
}

/// Takes one protocol message from the front.
fn take_one(bytes: &[u8], subject: &str, duty: Duty, arrival: &mut Arrival<'_>) -> Result<usize, String> {
    let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else { return Ok(0) };
    let (line, head) = (&bytes[..end], end + 2);
    if line.starts_with(b"MSG ") {
        let size = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        let size = std::str::from_utf8(size).ok().and_then(|size| size.parse::<usize>().ok());
        let size = size.ok_or("NATS sent a message without its size")?;
        let Some(value) = bytes.get(head..head + size + 2) else { return Ok(0) };
        arrival.record(&value[..size])?;
        return Ok(head + size + 2);
    }
    match line {
        b"PONG" if !arrival.is_ready() => arrival.ready(),
        b"PONG" => arrival.acknowledged(1),
        b"PING" => put_frame(arrival.out, FIN_BINARY, b"PONG\r\n"),
        b"+OK" => {}
        _ if line.starts_with(b"INFO ") => {
            if !arrival.is_ready() {
                let subscribe = if duty == Duty::Publish { String::new() } else { format!("SUB {subject} 1\r\n") };
                let hello = format!("CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\n{subscribe}PING\r\n");
                put_frame(arrival.out, FIN_BINARY, hello.as_bytes());
            }
        }
        _ => return Err(format!("NATS says: {}", String::from_utf8_lossy(line))),
    }
    Ok(head)
}
