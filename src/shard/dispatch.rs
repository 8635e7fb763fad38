//! Client frames: what each asks for, and the answer.

use std::time::Duration;

use rand::RngExt;

use crate::clock::Moment;
use crate::limits::SESSION_ID_BYTES;
use crate::protocol::close::CloseCode;
use crate::protocol::wire::{self, Code, client_frame, server_frame::Body};
use crate::session::SessionId;
use crate::shard::core::{Core, Order};
use crate::shard::message::Operation;
use crate::topic::Knowledge;

/// Name and version, as `Welcome` says it.
pub(super) const SERVER: &str = concat!("tidegate/", env!("CARGO_PKG_VERSION"));

impl Core {
    /// One frame of a client.
    pub(super) fn dispatch(&mut self, index: u32, frame: wire::ClientFrame) {
        let request = frame.request;
        let Some(body) = frame.body else { return };
        if let client_frame::Body::Hello(hello) = body {
            return self.hello(index, request, &hello);
        }
        if self.at(index).session.is_none() {
            self.counters.violations += 1;
            let message = "the first frame must be Hello";
            return self.fail(index, request, CloseCode::PROTOCOL_ERROR, Code::Invalid, message);
        }
        // Credit is no request: it only lets the server go on.
        if let client_frame::Body::Credit(credit) = body {
            return self.credit(index, request, credit.bytes);
        }
        if let client_frame::Body::Publish(publish) = body {
            return self.publish_admitted(index, request, publish, None);
        }
        if !self.admit_message(index, request) {
            return;
        }
        match body {
            client_frame::Body::Subscribe(subscribe) => self.subscribe(index, request, subscribe),
            client_frame::Body::Unsubscribe(unsubscribe) => self.unsubscribe(index, request, &unsubscribe),
            client_frame::Body::Authenticate(_) => {
                let message = "this engine has no token keys configured: everyone is anonymous";
                self.answer_error(index, request, Code::Unauthenticated, message, Duration::ZERO);
            }
            client_frame::Body::Ping(ping) => {
                let server_time_us = self.wall.unix_us(self.now);
                let pong = wire::Pong { client_time_us: ping.client_time_us, server_time_us };
                self.answer(index, request, Body::Pong(pong));
            }
            client_frame::Body::Hello(_) | client_frame::Body::Publish(_) | client_frame::Body::Credit(_) => {
                unreachable!("taken above")
            }
        }
    }

    /// Counts a message against the connection's rate; answers and returns false if it is over it.
    pub(super) fn admit_message(&mut self, index: u32, request: u64) -> bool {
        match self.take_rate(index) {
            Ok(()) => true,
            Err(retry) => {
                self.over_rate(index, request, retry);
                false
            }
        }
    }

    /// Counts a message against the connection's rate.
    pub(super) fn take_rate(&mut self, index: u32) -> Result<(), Duration> {
        let now = self.now;
        let (per_second, burst) = (self.settings.limits.messages_per_second, self.settings.limits.message_burst);
        let connection = self.at(index);
        if connection.is_trusted {
            return Ok(());
        }
        connection.rate.take(now, per_second, burst).inspect_err(|_| self.counters.limit_hits.messages_per_second += 1)
    }

    /// Refuses a message that is over the rate; a client that goes on regardless is closed.
    pub(super) fn over_rate(&mut self, index: u32, request: u64, retry: Duration) {
        let now = self.now;
        let (per_second, burst) = (self.settings.limits.messages_per_second, self.settings.limits.message_burst);
        if self.at(index).rate.is_flooding(now, per_second, burst) {
            self.fail(index, request, CloseCode::POLICY, Code::RateLimited, "far too many messages");
        } else {
            let message = format!("at most {per_second} messages a second, {burst} at once");
            self.answer_error(index, request, Code::RateLimited, &message, retry);
        }
    }

    fn hello(&mut self, index: u32, request: u64, hello: &wire::Hello) {
        if self.at(index).session.is_some() {
            return self.answer_error(index, request, Code::Invalid, "Hello was said already", Duration::ZERO);
        }
        if !hello.token.is_empty() {
            let message = "this engine has no token keys configured: connect without a token";
            return self.fail(index, request, CloseCode::TOKEN_REFUSED, Code::Unauthenticated, message);
        }
        let asked = match (SessionId::parse(&hello.session), hello.session.is_empty()) {
            (asked, true) => asked,
            (Some(asked), false) => Some(asked),
            (None, false) => {
                let message = format!("a session is {SESSION_ID_BYTES} bytes, as Welcome gave it");
                return self.fail(index, request, CloseCode::PROTOCOL_ERROR, Code::Invalid, &message);
            }
        };
        let Some(session) = asked else {
            return self.welcome(index, request, hello.credit_bytes, None, Knowledge::Nothing);
        };
        if !self.may_ask_everyone() {
            // Nobody knows who holds it, so that it gets another one.
            self.counters.limit_hits.shard_answer += 1;
            return self.welcome(index, request, hello.credit_bytes, None, Knowledge::Nothing);
        }
        let at = self.now;
        let knowledge = self.let_go(session, at);
        let operation = Operation::Hello { request, credit_bytes: hello.credit_bytes, session, at, knowledge };
        if let Some(operation) = self.ask_everyone(index, session, operation) {
            self.perform(index, operation);
        }
    }

    /// Begins a session: the one that was asked for, and when, if all its sequences are known, else another.
    pub(super) fn welcome(
        &mut self,
        index: u32,
        request: u64,
        credit_bytes: u64,
        asked: Option<(SessionId, Moment)>,
        knowledge: Knowledge,
    ) {
        let known = asked.filter(|_| knowledge == Knowledge::Complete);
        if let Some((asked, at)) = asked.filter(|_| known.is_none()) {
            self.abandon_session(asked, at);
        }
        let (session, since) = known.unwrap_or_else(|| (SessionId(self.random.random()), self.now));
        let (now, limits) = (self.now, &self.settings.limits);
        let welcome = wire::Welcome {
            session: session.0.to_vec().into(),
            heartbeat_ms: u32::try_from(limits.heartbeat_interval.as_millis()).unwrap_or(u32::MAX),
            max_message_bytes: u32::try_from(limits.message_bytes).unwrap_or(u32::MAX),
            server_time_us: self.wall.unix_us(now),
            server: SERVER.to_owned(),
        };
        let connection = self.at(index);
        let socket = connection.socket;
        (connection.session, connection.session_since) = (Some(session), since);
        connection.has_sequences_elsewhere = known.is_some();
        connection.deadline = Moment::NEVER;
        if credit_bytes > 0 {
            connection.outlet.window.use_credit(credit_bytes);
        }
        self.sessions.insert(session, socket);
        self.counters.sessions += 1;
        self.answer(index, request, Body::Welcome(welcome));
        let idle = now + self.settings.limits.idle_timeout;
        self.arm(index, idle);
    }

    fn credit(&mut self, index: u32, request: u64, bytes: u64) {
        let (now, target) = (self.now, self.settings.limits.freshness_target);
        let connection = self.at(index);
        if !connection.outlet.window.has_credit() {
            let message = "Credit without credit_bytes in Hello";
            return self.answer_error(index, request, Code::Invalid, message, Duration::ZERO);
        }
        connection.outlet.window.credit(bytes, now, target);
        self.make_due(index);
    }

    /// Reads from a connection again, if nothing else stands in the way.
    pub(super) fn resume_reading(&mut self, index: u32) {
        let (now, interval) = (self.now, self.settings.limits.heartbeat_interval);
        let connection = self.at(index);
        if connection.is_paused() || !connection.is_open() {
            return;
        }
        // What was incomplete when reading paused is not held against the peer.
        connection.heartbeat.suspend(now, interval);
        let time = self.settings.limits.message_time;
        let connection = self.at(index);
        connection.receiver.extend_deadline(time);
        let socket = connection.socket;
        self.orders.push(Order::Resume(socket));
        self.read(socket, &mut []);
    }
}
