//! Bytes in: frames are parsed where they lie, and what they say is applied.

use crate::kernel::SocketId;
use crate::limits::PONG_BYTES;
use crate::protocol::close::CloseCode;
use crate::protocol::envelope;
use crate::protocol::frame::{Opcode, frame};
use crate::protocol::http::Endpoint;
use crate::protocol::websocket::{Message, ReceiverLimit, Violation};
use crate::protocol::wire::Code;
use crate::shard::connection::Stage;
use crate::shard::core::{Core, Order};
use crate::shard::publish::Refused;

impl Core {
    /// Bytes of a connection, in the buffer that they arrived in.
    pub(super) fn received(&mut self, socket: SocketId, bytes: &mut [u8]) {
        self.counters.bytes_received += bytes.len() as u64;
        let Some(connection) = self.connection(socket) else { return };
        match connection.stage {
            Stage::Head(_) => {
                if let Some(used) = self.read_head(socket.index, bytes) {
                    self.read(socket, &mut bytes[used..]);
                }
            }
            Stage::Open => {
                // What waits for other shards is short, so the kernel is told only if the peer goes on meanwhile. Then it must be,
                // whyever reading is paused by now: these bytes are kept.
                if connection.is_paused() {
                    self.orders.push(Order::Pause(socket));
                }
                self.read(socket, bytes);
            }
            Stage::Closing | Stage::Gone => {}
        }
    }

    /// Reads messages from `bytes` and from what was kept aside, until they are used up, reading pauses, or the connection ends.
    pub(super) fn read(&mut self, socket: SocketId, bytes: &mut [u8]) {
        let now = self.now;
        let interval = self.settings.limits.heartbeat_interval;
        let limits = self.receiver_limits;
        let Some(connection) = self.connection(socket) else { return };
        if !bytes.is_empty() {
            connection.heard_since_mark = true;
            connection.heartbeat.heard(now, interval);
        }
        // The receiver is taken out while its messages are applied, since they may concern any part of the shard.
        let mut receiver = std::mem::take(&mut connection.receiver);
        let mut feed = receiver.feed(&limits, bytes);
        loop {
            if !self.connection(socket).is_some_and(|connection| connection.is_open() && !connection.is_paused()) {
                break;
            }
            match feed.next(now) {
                Ok(None) => break,
                Ok(Some(message)) => self.message(socket.index, message),
                Err(violation) => {
                    self.violated(socket.index, violation);
                    break;
                }
            }
        }
        drop(feed);
        if let Some(connection) = self.connection(socket).filter(|connection| connection.is_open()) {
            let deadline = receiver.deadline();
            connection.receiver = receiver;
            if let Some(deadline) = deadline {
                self.arm(socket.index, deadline);
            }
        }
    }

    fn message(&mut self, index: u32, message: Message<'_>) {
        let (now, target) = (self.now, self.settings.limits.freshness_target);
        match (message, self.settings.endpoint) {
            (Message::Ping(payload), _) => self.ping(index, payload),
            (Message::Pong(payload), _) => {
                let connection = self.at(index);
                let Ok(number) = payload.try_into().map(u32::from_be_bytes) else { return };
                // A pong confirms its ping and all before it.
                let is_known = connection.pings.wrapping_sub(number) < u32::MAX / 2;
                // Where credit says what the application consumed, a pong only shows that its WebSocket lives.
                let is_marker = is_known && !connection.outlet.window.has_credit();
                if is_marker && number.wrapping_sub(connection.marker) < u32::MAX / 2 {
                    if connection.outlet.window.marked_at().is_some() {
                        self.counters.markers_confirmed += 1;
                    }
                    let connection = self.at(index);
                    (connection.is_unmarked, connection.has_ponged) = (false, true);
                    connection.outlet.window.confirm_mark(now, target);
                    self.make_due(index);
                }
            }
            (Message::Close(reason), _) => {
                let code = reason.map_or(CloseCode::NORMAL, |(code, _)| code);
                self.close_with(index, code, "");
            }
            (Message::Binary(bytes), Endpoint::Tidegate) => {
                self.at(index).spoke_at = now;
                match envelope::decode(bytes, &self.envelope_limits) {
                    Ok(frame) => {
                        self.counters.frames_received += 1;
                        self.dispatch(index, frame);
                    }
                    Err(malformed) => self.malformed(index, bytes, &malformed),
                }
            }
            (Message::Text(_), Endpoint::Tidegate) => {
                self.counters.violations += 1;
                let reason = "tidegate.v1 is binary: send protobuf in binary messages";
                self.fail(index, 0, CloseCode::UNSUPPORTED, Code::Invalid, reason);
            }
            (Message::Binary(bytes), Endpoint::Echo) => self.echo(index, Opcode::Binary, bytes),
            (Message::Text(bytes), Endpoint::Echo) => self.echo(index, Opcode::Text, bytes),
        }
    }

    /// Answered in its place among the answers, unless too much waits already.
    fn ping(&mut self, index: u32, payload: &[u8]) {
        let connection = self.at(index);
        if connection.outlet.is_blocked || connection.outlet.waiting() >= PONG_BYTES {
            connection.rare.get_or_insert_default().pong = Some(payload.into());
        } else {
            connection.take_pong();
            connection.outlet.answer(&frame(Opcode::Pong, payload));
        }
        self.make_due(index);
    }

    fn echo(&mut self, index: u32, opcode: Opcode, bytes: &[u8]) {
        self.counters.frames_received += 1;
        let echo = frame(opcode, bytes);
        self.answer_frame(index, &echo);
    }

    /// A message that is no frame of ours. Message boundaries hold, so the connection goes on, once it has said `Hello`.
    fn malformed(&mut self, index: u32, message: &[u8], malformed: &envelope::Malformed) {
        let is_too_large = malformed.code == Code::TooLarge;
        self.counters.limit_hits.publish_records += u64::from(is_too_large);
        if self.at(index).session.is_some() {
            // Too many records are a lasting refusal, which uses the publish's number up.
            if let Some((request, publish)) = is_too_large.then(|| envelope::without_records(message)).flatten() {
                let refused = Refused::new(malformed.code, malformed.reason);
                return self.publish_admitted(index, request, publish, Some(refused));
            }
            if self.admit_message(index, malformed.request) {
                self.answer_error(
                    index,
                    malformed.request,
                    malformed.code,
                    malformed.reason,
                    std::time::Duration::ZERO,
                );
            }
        } else {
            self.counters.violations += 1;
            self.fail(index, malformed.request, CloseCode::PROTOCOL_ERROR, malformed.code, malformed.reason);
        }
    }

    /// The peer broke RFC 6455 or a limit on messages.
    pub(super) fn violated(&mut self, index: u32, violation: Violation) {
        self.counters.violations += 1;
        let hits = &mut self.counters.limit_hits;
        match violation.limit {
            Some(ReceiverLimit::Bytes) => hits.message_bytes += 1,
            Some(ReceiverLimit::Fragments) => hits.message_fragments += 1,
            Some(ReceiverLimit::Time) => hits.message_time += 1,
            None => {}
        }
        if self.at(index).session.is_some() {
            let code = if violation.code == CloseCode::TOO_BIG { Code::TooLarge } else { Code::Invalid };
            self.fail(index, 0, violation.code, code, violation.reason);
        } else {
            self.close_with(index, violation.code, violation.reason);
        }
    }
}
