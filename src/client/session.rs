//! The client's side of the protocol without IO: what was asked, what is answered, what to say again on a new
//! connection. Frames in, frames and outputs out; it outlives connections.

mod subscriptions;

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use prost::Message as _;

use self::subscriptions::{Route, Subscription};
use super::ClientError;
use super::view::Delivery;
use super::wire::{self, client_frame, server_frame};

/// Names a subscription of this client; in order of creation, which decides who gets a topic that several match.
pub(crate) type SubscriptionId = u64;
/// Names a publish of this client; in the order in which they are sent.
pub(crate) type PublishId = u64;

/// What a server's frame leads to.
#[derive(Debug)]
pub(crate) enum Output {
    /// The session stands: everything is being said again.
    Welcomed,
    /// The server does not want this connection.
    HelloRefused(ClientError),
    /// A subscription was answered for the first time.
    Answered(SubscriptionId),
    /// Something for a subscription's application.
    Deliver(SubscriptionId, Delivery),
    /// A subscription was refused, or its right ended.
    Ended(SubscriptionId, ClientError),
    /// The server cannot take a subscription back just now.
    TryLater(ClientError),
    /// A publish was answered.
    Published(PublishId, Result<Published, ClientError>),
    /// The server will close the connection.
    GoAway(wire::GoAway),
    /// A refusal that belongs to no request.
    Notice(wire::Error),
}

/// A publish was acknowledged: it is applied and on its way to everyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Offset of its last record; 0 if the server knew it already and has forgotten where.
    pub offset: u64,
    /// The server had it already, from a connection that was lost before the acknowledgement arrived.
    pub is_duplicate: bool,
    /// It had been sent before in a session whose sequences the server no longer knows (it restarted, or the client
    /// was away for long), and was sent again: it may have been applied twice.
    pub may_be_repeated: bool,
}

#[derive(Debug)]
pub(crate) struct Session {
    token: String,
    agent: String,
    credit_bytes: u64,
    id: Bytes,
    is_welcomed: bool,
    heartbeat_ms: u32,
    max_message_bytes: usize,
    next_request: u64,
    subscriptions: BTreeMap<SubscriptionId, Subscription>,
    /// By the numbers of this connection.
    routes: HashMap<u32, Route>,
    publishes: BTreeMap<PublishId, Publish>,
    outbox: VecDeque<Out>,
    /// Consumed and not yet said.
    credit_due: u64,
    /// Frames that belong to nothing that is known.
    pub(crate) strays: u64,
}

#[derive(Debug)]
enum Out {
    Frame(wire::ClientFrame),
    Publish(PublishId),
}

#[derive(Debug)]
struct Publish {
    body: wire::Publish,
    request: u64,
    was_sent: bool,
    may_be_repeated: bool,
}

/// At the latest when so many bytes were consumed they are given back: a quarter of the smallest window that an engine keeps for
/// a client that is late. With a larger step such a window stays full, and the engine waits for credit that never comes.
pub(crate) const CREDIT_STEP: u64 = 1024;
#[cfg(feature = "server")]
const _: () = assert!(CREDIT_STEP <= crate::limits::WINDOW_MIN_BYTES / 4);

impl Session {
    pub(crate) fn new(token: String, agent: String, credit_bytes: u64) -> Self {
        Self {
            token,
            agent,
            credit_bytes,
            id: Bytes::new(),
            is_welcomed: false,
            heartbeat_ms: 0,
            max_message_bytes: usize::MAX,
            next_request: 1,
            subscriptions: BTreeMap::new(),
            routes: HashMap::new(),
            publishes: BTreeMap::new(),
            outbox: VecDeque::new(),
            credit_due: 0,
            strays: 0,
        }
    }

    /// A connection stands: says hello, and nothing else until the answer.
    pub(crate) fn connected(&mut self) {
        self.disconnected();
        let hello = wire::Hello {
            token: self.token.clone(),
            session: self.id.clone(),
            agent: self.agent.clone(),
            credit_bytes: self.credit_bytes,
        };
        self.request(client_frame::Body::Hello(hello));
    }

    /// The connection is gone; what it was told is to be told again.
    pub(crate) fn disconnected(&mut self) {
        self.is_welcomed = false;
        self.routes.clear();
        self.outbox.clear();
        self.credit_due = 0;
    }

    pub(crate) fn is_welcomed(&self) -> bool {
        self.is_welcomed
    }

    pub(crate) fn heartbeat_ms(&self) -> u32 {
        self.heartbeat_ms
    }

    /// Uses another token from now on.
    pub(crate) fn authenticate(&mut self, token: String) {
        self.token.clone_from(&token);
        if self.is_welcomed {
            self.request(client_frame::Body::Authenticate(wire::Authenticate { token }));
        }
    }

    pub(crate) fn publish(&mut self, id: PublishId, mut body: wire::Publish) {
        // Counted by the whole client, not by topic: strictly increasing either way, and nothing to remember.
        body.sequence = id;
        self.publishes.insert(id, Publish { body, request: 0, was_sent: false, may_be_repeated: false });
        if self.is_welcomed {
            self.outbox.push_back(Out::Publish(id));
        }
    }

    /// The application has consumed so many bytes of patches of this connection.
    pub(crate) fn consumed(&mut self, bytes: u64) {
        if self.credit_bytes > 0 {
            self.credit_due += bytes;
        }
    }

    pub(crate) fn has_frame(&self) -> bool {
        !self.outbox.is_empty() || self.is_credit_due()
    }

    fn is_credit_due(&self) -> bool {
        self.is_welcomed && self.credit_due > 0 && self.credit_due >= CREDIT_STEP.min(self.credit_bytes / 4)
    }

    /// The next frame to send, and publishes that turned out not to fit.
    pub(crate) fn next_frame(&mut self, outputs: &mut Vec<Output>) -> Option<wire::ClientFrame> {
        if self.is_credit_due() {
            let bytes = std::mem::take(&mut self.credit_due);
            let body = Some(client_frame::Body::Credit(wire::Credit { bytes }));
            return Some(wire::ClientFrame { request: 0, body });
        }
        while let Some(out) = self.outbox.pop_front() {
            let id = match out {
                Out::Frame(frame) => return Some(frame),
                Out::Publish(id) => id,
            };
            let Some(publish) = self.publishes.get_mut(&id) else { continue };
            publish.request = self.next_request;
            let body = Some(client_frame::Body::Publish(publish.body.clone()));
            let frame = wire::ClientFrame { request: publish.request, body };
            let length = frame.encoded_len();
            if length > self.max_message_bytes {
                // The server would close the connection, and again after each reconnect.
                self.publishes.remove(&id);
                let most = self.max_message_bytes;
                let sentence = format!("a publish of {length} bytes is too large, the server takes {most}");
                outputs.push(Output::Published(id, Err(ClientError::Invalid(sentence))));
                continue;
            }
            publish.was_sent = true;
            self.next_request += 1;
            return Some(frame);
        }
        None
    }

    /// Takes a frame of the server, `bytes` long.
    ///
    /// # Errors
    ///
    /// [`ClientError::Protocol`] if it makes no sense; the connection should be given up.
    pub(crate) fn receive(&mut self, frame: wire::ServerFrame, bytes: usize) -> Result<Vec<Output>, ClientError> {
        use server_frame::Body;
        let request = frame.request;
        let mut outputs = Vec::new();
        match frame.body {
            Some(Body::Welcome(welcome)) => self.welcome(welcome, &mut outputs)?,
            Some(Body::GoAway(go_away)) => outputs.push(Output::GoAway(go_away)),
            Some(Body::Error(error)) => self.error(request, error, &mut outputs),
            Some(_) if !self.is_welcomed => return Err(ClientError::Protocol("it did not answer Hello".into())),
            Some(Body::Subscribed(subscribed)) => self.subscribed(request, subscribed, &mut outputs)?,
            Some(Body::Unsubscribed(unsubscribed)) => self.unsubscribed(&unsubscribed, &mut outputs),
            Some(Body::Patch(patch)) => self.patch(patch, bytes, &mut outputs),
            Some(Body::Published(published)) => match self.take_publish(request) {
                Some((id, publish)) => outputs.push(Output::Published(
                    id,
                    Ok(Published {
                        offset: published.offset,
                        is_duplicate: published.duplicate,
                        may_be_repeated: publish.may_be_repeated,
                    }),
                )),
                None => self.strays += 1,
            },
            // Bodies of later versions decode as none.
            Some(Body::Pong(_) | Body::Authenticated(_)) | None => {}
        }
        Ok(outputs)
    }

    fn welcome(&mut self, welcome: wire::Welcome, outputs: &mut Vec<Output>) -> Result<(), ClientError> {
        if self.is_welcomed || welcome.session.is_empty() || welcome.session.len() > 64 {
            return Err(ClientError::Protocol("its Welcome makes no sense".into()));
        }
        let sequences_are_known = welcome.session == self.id;
        // Copied, because a slice would keep the frame's buffer alive.
        self.id = Bytes::copy_from_slice(&welcome.session);
        self.is_welcomed = true;
        self.heartbeat_ms = welcome.heartbeat_ms;
        self.max_message_bytes = match welcome.max_message_bytes {
            0 => usize::MAX,
            most => most as usize,
        };
        outputs.push(Output::Welcomed);
        let ids: Vec<SubscriptionId> = self.subscriptions.keys().copied().collect();
        for id in ids {
            self.send_subscribe(id);
        }
        // In order and with their sequences: the server that knows the session acknowledges what it has as
        // duplicates; a new session knows none, so they increase there too.
        for (id, publish) in &mut self.publishes {
            publish.may_be_repeated |= publish.was_sent && !sequences_are_known;
            self.outbox.push_back(Out::Publish(*id));
        }
        Ok(())
    }

    fn error(&mut self, request: u64, error: wire::Error, outputs: &mut Vec<Output>) {
        let refusal = ClientError::Server {
            code: error.code(),
            message: error.message.clone(),
            retry_after_ms: error.retry_after_ms,
        };
        if !self.is_welcomed {
            outputs.push(Output::HelloRefused(refusal));
        } else if let Some((id, _)) = self.take_publish(request) {
            outputs.push(Output::Published(id, Err(refusal)));
        } else if let Some((id, s)) = self.subscriptions.iter().find(|(_, s)| request != 0 && s.request == request) {
            let id = *id;
            if s.is_answered {
                let (code, message) = (error.code(), error.message);
                outputs.push(Output::Deliver(id, Delivery::Notice { code, message }));
            } else if s.was_ever_answered && refusal.is_passing() {
                outputs.push(Output::TryLater(refusal));
            } else {
                self.subscriptions.remove(&id);
                self.routes.retain(|_, route| route.subscription != id);
                outputs.push(Output::Ended(id, refusal));
            }
        } else {
            outputs.push(Output::Notice(error));
        }
    }

    fn take_publish(&mut self, request: u64) -> Option<(PublishId, Publish)> {
        // Answers come nearly in order, so the search is short.
        let id = self.publishes.iter().find(|(_, p)| request != 0 && p.request == request).map(|(id, _)| *id)?;
        self.publishes.remove(&id).map(|publish| (id, publish))
    }

    fn request(&mut self, body: client_frame::Body) {
        self.outbox.push_back(Out::Frame(wire::ClientFrame { request: self.next_request, body: Some(body) }));
        self.next_request += 1;
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
