//! socket.io 4 (protocol 5 over Engine.IO 4) by its WebSocket transport alone: a value is a binary attachment, an acknowledgement
//! socket.io's own. The server is the one in `benches/peers/servers/`.

use std::net::SocketAddr;

use super::{Arrival, Dialect, Duty, Outgoing, Role, take_frames, websocket_request};
use crate::cli::bench::frames::{FIN_BINARY, FIN_TEXT, put_frame};

/// One connection.
pub(super) struct SocketIo {
    duty: Duty,
}

impl SocketIo {
    pub(super) fn new(role: &Role<'_>) -> Self {
        Self { duty: role.duty }
    }
}

impl Dialect for SocketIo {
    fn request(&self, address: SocketAddr) -> Option<String> {
        Some(websocket_request(address, "/socket.io/?EIO=4&transport=websocket", None))
    }

    fn open(&mut self, _out: &mut Vec<u8>) {
        // The server opens.
    }

    fn publish(&mut self, record: &Outgoing<'_>, out: &mut Vec<u8>) {
        // A binary event with one attachment, to be acknowledged under the record's number.
        let event = format!("451-{}[\"publish\",{{\"_placeholder\":true,\"num\":0}}]", record.serial);
        put_frame(out, FIN_TEXT, event.as_bytes());
        put_frame(out, FIN_BINARY, record.value);
    }

    fn take(&mut self, bytes: &[u8], arrival: &mut Arrival<'_>) -> Result<usize, String> {
        let duty = self.duty;
        let used = take_frames(bytes, arrival, |first, payload, arrival| {
            if first == FIN_BINARY { arrival.record(payload) } else { take_text(payload, duty, arrival) }
        })?;
        Ok(used)
    }
}

/// Takes an Engine.IO packet: its type is the first digit, a socket.io packet's the second.
fn take_text(packet: &[u8], duty: Duty, arrival: &mut Arrival<'_>) -> Result<(), String> {
    match packet {
        // Open: ask for the main namespace.
        [b'0', ..] => put_frame(arrival.out, FIN_TEXT, b"40"),
        // Ping.
        [b'2'] => put_frame(arrival.out, FIN_TEXT, b"3"),
        // Connected.
        [b'4', b'0', ..] if duty == Duty::Publish => arrival.ready(),
        [b'4', b'0', ..] => put_frame(arrival.out, FIN_TEXT, b"420[\"subscribe\"]"),
        // Acknowledged.
        [b'4', b'3', ..] if arrival.is_ready() => arrival.acknowledged(1),
        [b'4', b'3', ..] => arrival.ready(),
        // A binary event, the attachment of which comes next.
        [b'4', b'5', ..] => {}
        _ => return Err(format!("socket.io says: {}", String::from_utf8_lossy(packet))),
    }
    Ok(())
}
