//! How connections end: orderly, with everything said, or at once.

use std::time::Duration;

use crate::protocol::close::CloseCode;
use crate::protocol::envelope;
use crate::protocol::frame::close_frame;
use crate::protocol::wire::{self, Code, server_frame::Body};
use crate::session::SessionId;
use crate::shard::connection::Stage;
use crate::shard::core::{Core, Order, Timer};
use rand::RngExt;

/// A peer may take so long to read our last words and to close.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Reconnects after a shutdown are spread over so long.
const RECONNECT_SPREAD_MS: u32 = 5_000;

impl Core {
    /// Says `Error`, then closes with `close`. `request`: of the frame that this answers; 0 if there is none.
    pub(super) fn fail(&mut self, index: u32, request: u64, close: CloseCode, code: Code, message: &str) {
        self.answer_error(index, request, code, message, Duration::ZERO);
        self.close_with(index, close, message);
    }

    /// Says `GoAway`, then closes with `close`. `reconnect`: whether the client is to come back, at a time of our choosing.
    pub(super) fn send_away(&mut self, index: u32, close: CloseCode, code: Code, reconnect: bool, reason: &str) {
        if self.at(index).session.is_some() {
            let spread = self.random.random_range(1..=RECONNECT_SPREAD_MS);
            let go_away = wire::GoAway { reason: code.into(), reconnect_after_ms: if reconnect { spread } else { 0 } };
            self.answer(index, 0, Body::GoAway(go_away));
        }
        self.close_with(index, close, reason);
    }

    /// Queues a close frame behind what was said, and ends the connection when it is read.
    pub(super) fn close_with(&mut self, index: u32, close: CloseCode, reason: &str) {
        if self.at(index).is_open() {
            let frame = close_frame(close, reason);
            self.at(index).outlet.answer(&frame);
            self.begin_closing(index);
        }
    }

    /// Nothing more is read or made for this connection; what waits is sent, then FIN.
    pub(super) fn begin_closing(&mut self, index: u32) {
        self.detach_everything(index);
        let deadline = self.now + LAST_WORDS;
        let connection = self.at(index);
        connection.stage = Stage::Closing;
        connection.deadline = deadline;
        connection.take_pong();
        let socket = connection.socket;
        connection.is_paused_by_answers = false;
        connection.flush_holds = 0;
        connection.is_paused_by_rate = false;
        connection.is_paused_by_mesh = false;
        connection.is_held = false;
        // The peer's FIN is awaited. Reading may be paused even if no reason is left: they end before it is resumed.
        self.orders.push(Order::Resume(socket));
        self.arm(index, deadline);
        self.make_due(index);
    }

    /// The peer sends nothing any more, or the connection broke.
    pub(super) fn ended(&mut self, index: u32) {
        self.detach_everything(index);
        let connection = self.at(index);
        if !matches!(connection.stage, Stage::Gone) {
            connection.stage = Stage::Gone;
            let socket = connection.socket;
            self.orders.push(Order::Close(socket));
        }
    }

    /// Ends the connection without a word: it would not be read.
    pub(super) fn drop_dead(&mut self, index: u32) {
        self.detach_everything(index);
        let connection = self.at(index);
        if !matches!(connection.stage, Stage::Gone) {
            connection.stage = Stage::Gone;
            let socket = connection.socket;
            self.orders.push(Order::Abort(socket));
        }
    }

    /// The session ends with its connection; its sequences are remembered for a while.
    pub(super) fn end_session(&mut self, index: u32) {
        let now = self.now;
        let connection = self.at(index);
        let (socket, is_known_elsewhere) = (connection.socket, connection.has_sequences_elsewhere);
        let since = connection.session_since;
        if let Some(session) = connection.session.take()
            && self.sessions.get(&session) == Some(&socket)
        {
            self.sessions.remove(&session);
            self.sequences.session_ended(session.0, since, now);
            if is_known_elsewhere {
                self.tell_ended(session, since, now);
            }
        }
    }

    /// Another connection shows this session's id: the one that holds it goes. Whether there was one.
    pub(super) fn take_over(&mut self, session: SessionId) -> bool {
        // Taken out first: the session goes on, so its end must not be told.
        let Some(socket) = self.sessions.remove(&session) else { return false };
        self.counters.takeovers += 1;
        self.send_taken_over(socket.index);
        true
    }

    pub(super) fn send_taken_over(&mut self, index: u32) {
        let reason = "another connection took this session over";
        self.send_away(index, CloseCode::TAKEN_OVER, Code::TakenOver, false, reason);
    }

    /// Says goodbye to everyone, accepts nobody; whoever is not gone after `limit` is dropped.
    pub(super) fn drain(&mut self, limit: Duration) {
        if self.is_draining {
            return;
        }
        self.is_draining = true;
        self.drain_deadline = self.now + limit;
        self.wheel.insert(self.drain_deadline, Timer::Drain);
        self.orders.push(Order::StopAccepting);
        for index in 0..self.connections.len() as u32 {
            match self.connections[index as usize].as_ref().map(|connection| &connection.stage) {
                Some(Stage::Open) => self.send_away(
                    index,
                    CloseCode::GOING_AWAY,
                    Code::ShuttingDown,
                    true,
                    "the server is shutting down",
                ),
                Some(Stage::Head(_)) => self.drop_dead(index),
                _ => {}
            }
        }
    }

    /// The time for goodbyes is over.
    pub(super) fn drop_all(&mut self) {
        for index in 0..self.connections.len() as u32 {
            if self.connections[index as usize].is_some() {
                self.drop_dead(index);
            }
        }
    }

    /// Queues a frame for a client.
    pub(super) fn answer(&mut self, index: u32, request: u64, body: Body) {
        let frame = envelope::encode(request, body);
        self.answer_frame(index, &frame);
    }

    /// Queues an encoded frame for a client; one that does not read its answers is not read from.
    pub(super) fn answer_frame(&mut self, index: u32, frame: &[u8]) {
        let limit = self.settings.limits.answer_bytes;
        let connection = self.at(index);
        connection.outlet.answer(frame);
        if connection.outlet.waiting() > limit && !connection.is_paused_by_answers && connection.is_open() {
            self.counters.limit_hits.answer_bytes += 1;
            self.pause_reading(index, |connection| connection.is_paused_by_answers = true);
        }
        self.make_due(index);
    }

    /// Says what is wrong with a frame.
    pub(super) fn answer_error(&mut self, index: u32, request: u64, code: Code, message: &str, retry: Duration) {
        let error = wire::Error {
            code: code.into(),
            message: message.to_owned(),
            retry_after_ms: u32::try_from(retry.as_millis()).unwrap_or(u32::MAX),
        };
        self.answer(index, request, Body::Error(error));
    }
}
