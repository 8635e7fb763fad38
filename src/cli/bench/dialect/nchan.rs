//! Nchan: subscribers over WebSocket, the publisher by pipelined HTTP requests on one connection. The configuration is the one in
//! `benches/peers/servers/`.

use std::net::SocketAddr;

use super::{Arrival, Dialect, Duty, Outgoing, Role, websocket_request};
use crate::cli::bench::frames::{self, FIN_BINARY, FIN_CLOSE, FIN_PING, FIN_PONG, put_frame};

/// One connection.
pub(super) struct Nchan {
    topic: String,
    duty: Duty,
}

impl Nchan {
    pub(super) fn new(role: &Role<'_>) -> Self {
        Self { topic: role.topic.to_owned(), duty: role.duty }
    }
}

impl Dialect for Nchan {
    fn request(&self, address: SocketAddr) -> Option<String> {
        let path = || format!("/sub?topic={}", self.topic);
        (self.duty != Duty::Publish).then(|| websocket_request(address, &path(), None))
    }

    fn open(&mut self, out: &mut Vec<u8>) {
        // Nchan says nothing by itself: whatever answers these, the connection may be used.
        if self.duty == Duty::Publish {
            out.extend_from_slice(format!("GET /pub?topic={} HTTP/1.1\r\nHost: bench\r\n\r\n", self.topic).as_bytes());
        } else {
            put_frame(out, FIN_PING, b"ready?");
        }
    }

    fn publish(&mut self, record: &Outgoing<'_>, out: &mut Vec<u8>) {
        let head = format!(
            "POST /pub?topic={} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            self.topic,
            record.value.len()
        );
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(record.value);
    }

    fn take(&mut self, bytes: &[u8], arrival: &mut Arrival<'_>) -> Result<usize, String> {
        let next = if self.duty == Duty::Publish { take_response } else { take_frame };
        let mut used = 0;
        loop {
            match next(&bytes[used..], arrival)? {
                0 => return Ok(used),
                len => used += len,
            }
        }
    }
}

/// Takes one frame; says how long it is, 0 if it is not all there.
fn take_frame(bytes: &[u8], arrival: &mut Arrival<'_>) -> Result<usize, String> {
    let Some(frame) = frames::frame(bytes) else { return Ok(0) };
    match frame.first {
        FIN_BINARY => arrival.record(frame.payload)?,
        FIN_PONG => arrival.ready(),
        FIN_PING => put_frame(arrival.out, FIN_PONG, frame.payload),
        FIN_CLOSE => return Err("the server closed a connection".into()),
        first => return Err(format!("Nchan sent a frame that begins with {first:#04x}")),
    }
    Ok(frame.len)
}

/// Takes one HTTP response; says how long it is, 0 if it is not all there.
fn take_response(bytes: &[u8], arrival: &mut Arrival<'_>) -> Result<usize, String> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes).map_err(|error| format!("Nchan's answer is no HTTP: {error}"))? {
        httparse::Status::Complete(len) => len,
        httparse::Status::Partial => return Ok(0),
    };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let whole = head + length.ok_or("Nchan's answer has no length")?;
    if bytes.len() < whole {
        return Ok(0);
    }
    match response.code {
        _ if !arrival.is_ready() => arrival.ready(),
        // Delivered to someone, or kept.
        Some(200..300) => arrival.acknowledged(1),
        code => return Err(format!("Nchan refused a publish: {}", code.unwrap_or_default())),
    }
    Ok(whole)
}
