//! The least that a WebSocket server can be asked for: whatever comes in goes to everyone.

use std::net::SocketAddr;

use super::{Arrival, Dialect, Duty, Outgoing, Role, take_frames, websocket_request};
use crate::cli::bench::frames::{FIN_BINARY, put_frame};

/// A publisher on `/publish`, whose every binary message is answered with some message; a subscriber on `/subscribe`, which is
/// sent them. A subscriber is ready when the server said anything to it, which it does first.
pub(in crate::cli::bench) struct Broadcast {
    duty: Duty,
}

impl Broadcast {
    pub(super) fn new(role: &Role<'_>) -> Self {
        Self { duty: role.duty }
    }
}

impl Dialect for Broadcast {
    fn request(&self, address: SocketAddr) -> Option<String> {
        let path = if self.duty == Duty::Publish { "/publish" } else { "/subscribe" };
        Some(websocket_request(address, path, None))
    }

    fn open(&mut self, _out: &mut Vec<u8>) {}

    fn publish(&mut self, record: &Outgoing<'_>, out: &mut Vec<u8>) {
        put_frame(out, FIN_BINARY, record.value);
    }

    fn take(&mut self, bytes: &[u8], arrival: &mut Arrival<'_>) -> Result<usize, String> {
        let duty = self.duty;
        let used = take_frames(bytes, arrival, |_, payload, arrival| {
            match (arrival.is_ready(), duty) {
                (false, _) => arrival.ready(),
                (true, Duty::Publish) => arrival.acknowledged(1),
                (true, Duty::Subscribe { .. }) => arrival.record(payload)?,
            }
            Ok(())
        })?;
        Ok(used)
    }
}
