//! The Rust client: subscribes, keeps states, publishes, and comes back after every lost connection.
//!
//! ```no_run
//! use tidegate::client::{Client, Options, Record, SubscribeOptions, Update};
//!
//! # async fn example() -> Result<(), tidegate::client::ClientError> {
//! let client = Client::connect(Options::new("ws://127.0.0.1:8433")).await?;
//! client.publish("market/BTC-USD", [Record::state("bid", "64000.5")]).await?;
//!
//! let mut market = client.subscribe(SubscribeOptions::new("market/*")).await?;
//! loop {
//!     if let Update::Patch(patch) = market.next().await? {
//!         for event in &patch.events {
//!             println!("{}: {:?}", patch.topic, event.value);
//!         }
//!         if patch.is_current {
//!             let state = market.state(&patch.topic).expect("a topic with a patch has a state");
//!             println!("{}: {:?}", patch.topic, state.get(b"bid"));
//!         }
//!     }
//! }
//! # }
//! ```
//!
//! From the socket to the application: [`raw`] opens a WebSocket and decodes frames; `driver` is the task that holds
//! the connection; `session` is the protocol without IO; `view` and [`TopicState`] turn what a subscription was told
//! into updates and states, in the application's own task.
//!
//! **Pace.** The server may send only so much that was not confirmed. With [`Options::credit_bytes`] the client
//! confirms by credit as the application takes updates, and answers pings at once. Without, it answers a ping when the
//! application has taken everything that came before it. Either way an application that takes its time is sent less,
//! merged, and not everything later. All subscriptions of a client share its connection: one that is never taken from
//! holds up the others.
//!
//! **Lost connections.** Topics that were subscribed by name go on where they stopped; those of patterns begin with a
//! snapshot, in which events that were handed over before are left out. Publishes that were not acknowledged are
//! sent again in their order; the server knows by their sequence those that it has.

#![forbid(unsafe_code)]

mod backoff;
mod driver;
mod error;
pub(crate) mod names;
mod publish;
pub mod raw;
mod session;
mod state;
mod subscription;
mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use driver::{Command, Driver};
use view::View;

pub use backoff::ReconnectPolicy;
pub use error::ClientError;
pub use names::Endpoint;
pub use publish::{Acknowledgement, Record};
#[cfg(feature = "cli")]
pub(crate) use session::CREDIT_STEP;
pub use session::Published;
pub use state::{Applied, Change, Counts, Event, Mismatch, TopicState};
pub use subscription::Subscription;
pub use view::{PatchUpdate, Update};

use crate::protocol::wire;
pub use crate::protocol::wire::{Code, Priority};

/// Commands that wait for the driver, which takes them without waiting for anybody.
const COMMANDS: usize = 64;

/// How a client connects.
#[derive(Clone, Debug)]
pub struct Options {
    /// `ws://HOST:PORT`, with or without `/v1/ws`.
    pub url: String,
    /// The capability token; empty: anonymous.
    pub token: String,
    /// Name and version of the program, for the operator.
    pub agent: String,
    /// How many bytes of patches may be under way that the application has not taken; 0: the server finds out.
    pub credit_bytes: u64,
    /// When to come back after a lost connection.
    pub reconnect: ReconnectPolicy,
    /// From the open WebSocket to the answer to `Hello`.
    pub hello_timeout: Duration,
    /// A server that has said nothing for one and a half of its heartbeat intervals and this is dead.
    pub silence_grace: Duration,
    /// Bytes that wait for the application before the client stops reading, if the server minds neither credit nor
    /// pongs. Above what a server sends unconfirmed, so that acknowledgements are not held up by patches.
    pub queue_bytes: usize,
    /// Publishes that may be unacknowledged; more wait.
    pub publishes_outstanding: usize,
    /// How the WebSocket is opened.
    pub raw: raw::RawOptions,
}

impl Options {
    /// The defaults, for the server at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: String::new(),
            agent: concat!("tidegate-rust/", env!("CARGO_PKG_VERSION")).into(),
            credit_bytes: 0,
            reconnect: ReconnectPolicy::default(),
            hello_timeout: Duration::from_secs(10),
            silence_grace: Duration::from_secs(10),
            queue_bytes: 2 * 1024 * 1024,
            publishes_outstanding: 64,
            raw: raw::RawOptions::default(),
        }
    }

    fn queue_limit(&self) -> usize {
        // The last patch may overshoot the credit.
        let credit = usize::try_from(self.credit_bytes).unwrap_or(usize::MAX);
        self.queue_bytes.max(credit.saturating_add(self.raw.message_bytes))
    }

    fn silence(&self, heartbeat_ms: u32) -> Duration {
        Duration::from_millis(u64::from(heartbeat_ms)) * 3 / 2 + self.silence_grace
    }
}

/// What to subscribe to, and how.
#[derive(Clone, Debug, Default)]
pub struct SubscribeOptions {
    /// A topic's name, or a pattern: `*` for one segment, a last `**` for one or more.
    pub topic: String,
    /// Goes on from this state of an earlier subscription to the same name with the same filter; names only.
    pub resume: Option<TopicState>,
    /// A tighter relevance window; 0: none.
    pub window_ms: u32,
    /// At most so many patches a second; 0: no limit.
    pub max_hz: u32,
    /// Only records of this priority and above; deletes always pass.
    pub min_priority: Option<Priority>,
    /// Only keys that start so; events pass.
    pub key_prefix: bytes::Bytes,
    /// No events from before the subscription.
    pub events_only_new: bool,
}

impl SubscribeOptions {
    /// Everything of a topic, or of all topics that match a pattern.
    #[must_use]
    pub fn new(topic: impl Into<String>) -> Self {
        Self { topic: topic.into(), ..Self::default() }
    }

    fn to_wire(&self) -> wire::Subscribe {
        wire::Subscribe {
            topic: self.topic.clone(),
            resume: None,
            window_ms: self.window_ms,
            max_hz: self.max_hz,
            min_priority: self.min_priority.unwrap_or(Priority::Unspecified).into(),
            key_prefix: self.key_prefix.clone(),
            events_only_new: self.events_only_new,
        }
    }
}

/// How the client stands to its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// An attempt is under way.
    Connecting,
    /// The session stands.
    Connected,
    /// The connection was lost, or an attempt failed; another follows.
    Waiting {
        /// Why.
        error: ClientError,
    },
    /// Nothing more will happen.
    Ended(ClientError),
}

/// Counts since the client was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Lost connections and failed attempts.
    pub reconnects: u64,
    /// Patches that did not lead to the server's state; each made the client subscribe anew, from 0.
    pub mismatches: u64,
    /// Patches that the application took.
    pub patches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of all frames, without WebSocket headers.
    pub bytes: u64,
    /// Refusals that answered nothing that is known here.
    pub notices: u64,
}

#[derive(Debug, Default)]
struct Counters {
    reconnects: AtomicU64,
    mismatches: AtomicU64,
    patches: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    notices: AtomicU64,
}

/// What the handles and the driver share.
#[derive(Debug)]
pub(crate) struct Shared {
    status: watch::Sender<Status>,
    counters: Counters,
    reconnect_now: Notify,
    next_subscription: AtomicU64,
}

impl Shared {
    fn end(&self) -> ClientError {
        match &*self.status.borrow() {
            Status::Ended(error) => error.clone(),
            _ => ClientError::Stopped,
        }
    }
}

/// A session with a server, kept up over lost connections. It ends with [`Client::close`], or when the client and all
/// of its subscriptions are dropped. Clones are the same client.
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    publish_room: Arc<Semaphore>,
}

impl Client {
    /// Connects, and waits until the session stands. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// Why the first attempt failed; later ones are repeated by [`Options::reconnect`].
    pub async fn connect(options: Options) -> Result<Self, ClientError> {
        Endpoint::parse(&options.url)?;
        let (commands, commands_rx) = mpsc::channel(COMMANDS);
        let shared = Arc::new(Shared {
            status: watch::Sender::new(Status::Connecting),
            counters: Counters::default(),
            reconnect_now: Notify::new(),
            next_subscription: AtomicU64::new(1),
        });
        let publish_room = Arc::new(Semaphore::new(options.publishes_outstanding.clamp(1, Semaphore::MAX_PERMITS)));
        let (first, is_connected) = oneshot::channel();
        tokio::spawn(Driver::new(options, commands_rx, shared.clone()).run(first));
        let client = Self { commands, shared, publish_room };
        is_connected.await.unwrap_or(Err(ClientError::Stopped))?;
        Ok(client)
    }

    /// Subscribes, and waits for the server's answer. A topic that several subscriptions of a client match is given
    /// to the one that was first.
    ///
    /// # Errors
    ///
    /// [`ClientError::Invalid`], [`ClientError::Server`] if it is refused, or why the client ended.
    pub async fn subscribe(&self, mut options: SubscribeOptions) -> Result<Subscription, ClientError> {
        let id = self.shared.next_subscription.fetch_add(1, Ordering::Relaxed);
        let (queue, queue_rx) = mpsc::unbounded_channel();
        let (answered, answer) = oneshot::channel();
        let mut view = View::default();
        let resume = options.resume.take();
        let position = resume.as_ref().and_then(TopicState::position);
        if let Some(state) = resume {
            view.resume(options.topic.as_str().into(), state);
        }
        self.command(Command::Subscribe { id, options: Box::new(options), position, queue, answered }).await?;
        // Made before the answer, so that it unsubscribes if the caller stops waiting.
        let subscription = Subscription::new(id, queue_rx, self.commands.clone(), self.shared.clone(), view);
        answer.await.unwrap_or_else(|_| Err(self.shared.end()))?;
        Ok(subscription)
    }

    /// Publishes records together, and waits for the acknowledgement: they are applied and on their way to everyone.
    ///
    /// Over lost connections it is sent again until it is answered. The server applies it once, unless it has
    /// forgotten the session meanwhile (see [`Published::may_be_repeated`]).
    ///
    /// # Errors
    ///
    /// [`ClientError::Invalid`], [`ClientError::Server`] if it is refused, or why the client ended (then it may or
    /// may not have been applied).
    pub async fn publish(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Published, ClientError> {
        self.publish_nowait(topic, records).await?.await
    }

    /// Publishes without waiting for the acknowledgement, only for room: at most
    /// [`Options::publishes_outstanding`] are under way.
    ///
    /// # Errors
    ///
    /// As [`Client::publish`]; a refusal comes with the acknowledgement.
    pub async fn publish_nowait(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Acknowledgement, ClientError> {
        self.send_publish(topic, records, false).await
    }

    /// Makes the records the topic's whole keyed state: what is missing in them is deleted, and the server works out
    /// what changed.
    ///
    /// # Errors
    ///
    /// As [`Client::publish`].
    pub async fn replace(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Published, ClientError> {
        self.send_publish(topic, records, true).await?.await
    }

    async fn send_publish(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = Record>,
        replace: bool,
    ) -> Result<Acknowledgement, ClientError> {
        names::check_name(topic)?;
        let mut body = wire::Publish { topic: topic.to_owned(), replace, ..wire::Publish::default() };
        for record in records {
            record.check()?;
            body.records.push(record.into());
        }
        if body.records.is_empty() && !replace {
            return Err(ClientError::Invalid("a publish has at least one record".into()));
        }
        let room = self.publish_room.clone().acquire_owned().await.map_err(|_| ClientError::Stopped)?;
        let (acknowledged, acknowledgement) = oneshot::channel();
        self.command(Command::Publish { body, room, acknowledged }).await?;
        Ok(Acknowledgement(acknowledgement))
    }

    /// Uses another token from now on, of the same subject.
    ///
    /// # Errors
    ///
    /// Why the client ended.
    pub async fn authenticate(&self, token: impl Into<String>) -> Result<(), ClientError> {
        self.command(Command::Authenticate(token.into())).await
    }

    /// If the client waits to connect again: does it now. For an application that knows that the network is back.
    pub fn reconnect_now(&self) {
        self.shared.reconnect_now.notify_waiters();
    }

    /// How it stands, and every change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Counters { reconnects, mismatches, patches, records, bytes, notices } = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            reconnects: read(reconnects),
            mismatches: read(mismatches),
            patches: read(patches),
            records: read(records),
            bytes: read(bytes),
            notices: read(notices),
        }
    }

    /// Closes the connection and waits until it is closed. Publishes that are not acknowledged fail.
    pub async fn close(&self) {
        let (closed, is_closed) = oneshot::channel();
        if self.command(Command::Close(closed)).await.is_ok() {
            let _ = is_closed.await;
        }
    }

    async fn command(&self, command: Command) -> Result<(), ClientError> {
        self.commands.send(command).await.map_err(|_| self.shared.end())
    }
}

#[cfg(test)]
mod tests;
