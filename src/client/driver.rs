//! The task behind a client: holds the connection, opens it again, and moves frames between it and the session.
//!
//! Three tasks, so that none can hold another up: a reader and a writer, which live as long as their connection, and
//! the driver, which never waits for either. If it did, a server that stops reading until its answers are read and a
//! client that stops reading until its publish is written would wait for each other for ever.
//!
//! What bounds memory: the queues to the application by [`Options::queue_bytes`] together (beyond it the driver stops
//! taking from the reader, and so the reader from the socket), the channels beside it by their length, publishes by
//! [`Options::publishes_outstanding`].

mod link;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

use self::link::{Link, Outgoing, Ping, close};
use super::backoff::Backoff;
use super::raw::{RawConnection, RawMessage};
use super::session::{Output, PublishId, Published, Session, SubscriptionId};
use super::subscription::{Intake, Queued, Taken};
use super::view::Delivery;
use super::{ClientError, Options, Shared, Status, SubscribeOptions, wire};
use crate::protocol::close::CloseCode;

/// Pings that may wait for the application. With one marker at a time and a heartbeat every 25 s that is longer than
/// a server keeps a stalled client.
const PINGS_WAITING: usize = 16;
/// For the close handshake.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// What handles ask of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Subscribe {
        id: SubscriptionId,
        options: Box<SubscribeOptions>,
        position: Option<wire::Position>,
        queue: mpsc::UnboundedSender<Queued>,
        answered: oneshot::Sender<Result<(), ClientError>>,
    },
    Unsubscribe(SubscriptionId),
    Restart(SubscriptionId),
    Publish {
        body: wire::Publish,
        room: OwnedSemaphorePermit,
        acknowledged: oneshot::Sender<Result<Published, ClientError>>,
    },
    Authenticate(String),
    Close(oneshot::Sender<()>),
}

pub(crate) struct Driver {
    options: Options,
    session: Session,
    commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    intake: Arc<Intake>,
    subscriptions: HashMap<SubscriptionId, Consumer>,
    publishes: HashMap<PublishId, Publisher>,
    next_publish: PublishId,
    backoff: Backoff,
    welcomed_at: Option<Instant>,
}

struct Consumer {
    queue: mpsc::UnboundedSender<Queued>,
    answered: Option<oneshot::Sender<Result<(), ClientError>>>,
    /// Items put into the queue, and taken out of it.
    forwarded_items: u64,
    taken_items: Arc<AtomicU64>,
}

struct Publisher {
    acknowledged: oneshot::Sender<Result<Published, ClientError>>,
    _room: OwnedSemaphorePermit,
}

/// Why a connection, or the wait for the next one, is over.
enum End {
    /// Connect again; the reason, and how long the server asked to wait.
    Again(ClientError, Option<Duration>),
    ForGood(ClientError),
    Closed(Option<oneshot::Sender<()>>),
}

impl Driver {
    pub(crate) fn new(options: Options, commands: mpsc::Receiver<Command>, shared: Arc<Shared>) -> Self {
        let session = Session::new(options.token.clone(), options.agent.clone(), options.credit_bytes);
        let backoff = Backoff::new(options.reconnect.clone());
        Self {
            options,
            session,
            commands,
            shared,
            intake: Arc::default(),
            subscriptions: HashMap::new(),
            publishes: HashMap::new(),
            next_publish: 1,
            backoff,
            welcomed_at: None,
        }
    }

    /// Lives until the client is closed or sent away. `first` is told how the first attempt went, and a failed one
    /// is the last.
    pub(crate) async fn run(mut self, first: oneshot::Sender<Result<(), ClientError>>) {
        let mut first = Some(first);
        let end = loop {
            let end = self.connection(&mut first).await;
            self.session.disconnected();
            let (error, asked) = match end {
                End::Again(error, _) if first.is_some() || !self.options.reconnect.is_enabled => {
                    break End::ForGood(error);
                }
                End::Again(error, asked) => (error, asked),
                end => break end,
            };
            self.shared.counters.reconnects.fetch_add(1, Ordering::Relaxed);
            let lasted = self.welcomed_at.take().map_or(Duration::ZERO, |at| at.elapsed());
            let wait = self.backoff.next_wait(lasted, rand::random());
            let wait = asked.unwrap_or(wait);
            tracing::info!(%error, wait_ms = wait.as_millis(), "disconnected, connecting again");
            if let Some(end) = self.wait(Instant::now() + wait, error).await {
                break end;
            }
        };
        let (error, closed) = match end {
            End::ForGood(error) | End::Again(error, _) => (error, None),
            End::Closed(closed) => (ClientError::Stopped, closed),
        };
        self.finish(&error, first);
        drop(closed); // dropped is answered
    }

    /// Nothing more will come: everyone who waits is told why.
    fn finish(mut self, error: &ClientError, first: Option<oneshot::Sender<Result<(), ClientError>>>) {
        self.shared.status.send_replace(Status::Ended(error.clone()));
        if let Some(first) = first {
            let _ = first.send(Err(error.clone()));
        }
        let ids: Vec<SubscriptionId> = self.subscriptions.keys().copied().collect();
        for id in ids {
            self.end_subscription(id, error.clone());
        }
        for (_, publisher) in self.publishes.drain() {
            let _ = publisher.acknowledged.send(Err(error.clone()));
        }
    }

    /// Waits to connect again; commands are taken meanwhile.
    async fn wait(&mut self, until: Instant, error: ClientError) -> Option<End> {
        let shared = self.shared.clone();
        // Listens before it says that it waits, or the answer to that could be missed.
        let mut now = std::pin::pin!(shared.reconnect_now.notified());
        now.as_mut().enable();
        shared.status.send_replace(Status::Waiting { error });
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return None,
                () = &mut now => return None,
                command = self.commands.recv() => if let Some(end) = self.command(command) {
                    return Some(end);
                },
            }
        }
    }

    /// One connection, from the first packet to its end.
    async fn connection(&mut self, first: &mut Option<oneshot::Sender<Result<(), ClientError>>>) -> End {
        self.shared.status.send_replace(Status::Connecting);
        let options = self.options.clone();
        let connecting = async move { RawConnection::connect(&options.url, &options.raw).await };
        tokio::pin!(connecting);
        let connection = loop {
            tokio::select! {
                result = &mut connecting => match result {
                    Ok(connection) => break connection,
                    Err(error @ ClientError::BadUrl { .. }) => return End::ForGood(error),
                    Err(error) => {
                        let asked = error.retry_after();
                        return End::Again(error, asked);
                    }
                },
                command = self.commands.recv() => if let Some(end) = self.command(command) {
                    return end;
                },
            }
        };
        let mut link = Link::over(connection);
        self.session.connected();
        let end = self.serve(&mut link, first).await;
        let _ = tokio::time::timeout(CLOSE_TIME, close(&mut link, matches!(end, End::Closed(_)))).await;
        end
    }

    async fn serve(&mut self, link: &mut Link, first: &mut Option<oneshot::Sender<Result<(), ClientError>>>) -> End {
        let hello_deadline = Instant::now() + self.options.hello_timeout;
        let intake = self.intake.clone();
        let queue_bytes = self.options.queue_limit();
        let outgoing = link.outgoing.clone();
        let mut writer_is_gone = false;
        let mut was_paused = false;
        let mut outputs = Vec::new();
        loop {
            let has_room =
                intake.queued_bytes.load(Ordering::Acquire) < queue_bytes && link.pings.len() < PINGS_WAITING;
            if has_room && was_paused {
                link.last_frame = Instant::now(); // silence that we asked for says nothing about the server
            }
            was_paused = !has_room;
            let deadline = match self.session.is_welcomed() {
                true => link.last_frame + self.options.silence(self.session.heartbeat_ms()),
                false => hello_deadline,
            };
            let can_send = !writer_is_gone && (link.has_pong() || self.session.has_frame());
            tokio::select! {
                room = outgoing.reserve(), if can_send => match room {
                    Ok(room) => {
                        if link.has_pong() {
                            room.send(Outgoing::Pong(link.pings.pop_front().map(|p| p.payload).unwrap_or_default()));
                        } else if let Some(frame) = self.session.next_frame(&mut outputs) {
                            room.send(Outgoing::Frame(frame));
                        }
                    }
                    // The reader knows why, and its last message ends the connection.
                    Err(_) => writer_is_gone = true,
                },
                message = link.incoming.recv(), if has_room => {
                    if let Some(end) = self.message(link, message, &mut outputs) {
                        return end;
                    }
                }
                () = intake.taken.notified() => {
                    let taken = link.taken_patch_bytes.load(Ordering::Acquire);
                    self.session.consumed(taken - link.credited_bytes);
                    link.credited_bytes = taken;
                }
                command = self.commands.recv() => if let Some(end) = self.command(command) {
                    return end;
                },
                // After a long pause of the whole process the frames are there, unread.
                () = tokio::time::sleep_until(deadline), if has_room && link.incoming.is_empty() => {
                    let error = match self.session.is_welcomed() {
                        true => ClientError::Lost("the server fell silent".into()),
                        false => ClientError::Protocol("it did not answer Hello in time".into()),
                    };
                    return End::Again(error, None);
                }
            }
            for output in outputs.drain(..) {
                if let Some(end) = self.output(link, output, first) {
                    return end;
                }
            }
        }
    }

    fn message(
        &mut self,
        link: &mut Link,
        message: Option<Result<RawMessage, ClientError>>,
        outputs: &mut Vec<Output>,
    ) -> Option<End> {
        link.last_frame = Instant::now();
        match message {
            Some(Ok(RawMessage::Frame(frame, bytes))) => {
                self.shared.counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                match self.session.receive(*frame, bytes) {
                    Ok(new) => outputs.extend(new),
                    Err(error) => return Some(End::Again(error, None)),
                }
                None
            }
            Some(Ok(RawMessage::Ping(payload))) => {
                link.pings.push_back(Ping { payload, waits_for: self.not_yet_taken() });
                None
            }
            Some(Ok(RawMessage::Pong(_))) => None,
            Some(Ok(RawMessage::Close { code, reason })) => {
                link.is_closed = true;
                let _ = link.outgoing.try_send(Outgoing::Close(if code == 1005 { 1000 } else { code }));
                Some(closed_by_server(link, code, reason))
            }
            Some(Err(error)) => Some(match after_go_away(link) {
                Some(end) => end,
                None => End::Again(error, None),
            }),
            None => Some(End::Again(ClientError::Lost("the reader ended".into()), None)),
        }
    }

    /// What a pong must wait for. With credit nothing: there the application confirms what it took, and the ping
    /// only asks whether we are alive. Without, the server takes the pong for the application's own confirmation.
    fn not_yet_taken(&self) -> Vec<(Arc<AtomicU64>, u64)> {
        if self.options.credit_bytes > 0 {
            return Vec::new();
        }
        let behind = self.subscriptions.values().filter(|c| c.taken_items.load(Ordering::Acquire) < c.forwarded_items);
        behind.map(|consumer| (consumer.taken_items.clone(), consumer.forwarded_items)).collect()
    }

    fn output(
        &mut self,
        link: &mut Link,
        output: Output,
        first: &mut Option<oneshot::Sender<Result<(), ClientError>>>,
    ) -> Option<End> {
        match output {
            Output::Welcomed => {
                self.welcomed_at = Some(Instant::now());
                self.shared.status.send_replace(Status::Connected);
                if let Some(first) = first.take() {
                    let _ = first.send(Ok(()));
                }
            }
            Output::HelloRefused(error) => {
                let asked = error.retry_after();
                return Some(if error.is_passing() { End::Again(error, asked) } else { End::ForGood(error) });
            }
            Output::TryLater(error) => {
                let asked = error.retry_after();
                return Some(End::Again(error, asked));
            }
            Output::Answered(id) => {
                if let Some(answered) = self.subscriptions.get_mut(&id).and_then(|c| c.answered.take()) {
                    let _ = answered.send(Ok(()));
                }
            }
            Output::Deliver(id, delivery) => self.deliver(id, delivery, &link.taken_patch_bytes),
            Output::Ended(id, error) => self.end_subscription(id, error),
            Output::Published(id, result) => {
                if let Some(publisher) = self.publishes.remove(&id) {
                    let _ = publisher.acknowledged.send(result);
                }
            }
            Output::GoAway(go_away) => link.go_away = Some(go_away),
            Output::Notice(error) => {
                self.shared.counters.notices.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(code = error.code().as_str_name(), message = ?error.message, "the server complains");
            }
        }
        None
    }

    fn deliver(&mut self, id: SubscriptionId, delivery: Delivery, taken_patch_bytes: &Arc<AtomicU64>) {
        let Some(consumer) = self.subscriptions.get_mut(&id) else { return };
        let (bytes, patch_bytes) = match &delivery {
            Delivery::Patch { frame_bytes, .. } => (*frame_bytes, *frame_bytes as u64),
            _ => (0, 0),
        };
        // What it costs here beside the bytes of the frame.
        let bytes = bytes + size_of::<Delivery>();
        let taken = Taken::new(&self.intake, bytes, patch_bytes, taken_patch_bytes, &consumer.taken_items);
        consumer.forwarded_items += 1;
        if consumer.queue.send((Box::new(delivery), taken)).is_err() {
            self.unsubscribe(id);
        }
    }

    fn unsubscribe(&mut self, id: SubscriptionId) {
        self.subscriptions.remove(&id);
        self.session.unsubscribe(id);
    }

    fn end_subscription(&mut self, id: SubscriptionId, error: ClientError) {
        let Some(mut consumer) = self.subscriptions.remove(&id) else { return };
        match consumer.answered.take() {
            Some(answered) => drop(answered.send(Err(error))),
            None => {
                let nowhere = Arc::default();
                let bytes = size_of::<Delivery>();
                let taken = Taken::new(&self.intake, bytes, 0, &nowhere, &consumer.taken_items);
                let _ = consumer.queue.send((Box::new(Delivery::Ended(error)), taken));
            }
        }
    }

    fn command(&mut self, command: Option<Command>) -> Option<End> {
        match command {
            // Every handle is gone.
            None => return Some(End::Closed(None)),
            Some(Command::Close(closed)) => return Some(End::Closed(Some(closed))),
            Some(Command::Subscribe { id, options, position, queue, answered }) => {
                match self.session.subscribe(id, *options, position) {
                    Ok(()) => {
                        let taken_items = Arc::default();
                        let consumer = Consumer { queue, answered: Some(answered), forwarded_items: 0, taken_items };
                        self.subscriptions.insert(id, consumer);
                    }
                    Err(error) => drop(answered.send(Err(error))),
                }
            }
            Some(Command::Unsubscribe(id)) => self.unsubscribe(id),
            Some(Command::Restart(id)) => self.session.restart(id),
            Some(Command::Publish { body, room, acknowledged }) => {
                let id = self.next_publish;
                self.next_publish += 1;
                self.publishes.insert(id, Publisher { acknowledged, _room: room });
                self.session.publish(id, body);
            }
            Some(Command::Authenticate(token)) => self.session.authenticate(token),
        }
        None
    }
}

fn closed_by_server(link: &Link, code: u16, reason: String) -> End {
    if (4500..5000).contains(&code) {
        return End::ForGood(ClientError::Closed { code, reason });
    }
    after_go_away(link).unwrap_or_else(|| {
        if !CloseCode(code).invites_reconnect() {
            return End::ForGood(ClientError::Closed { code, reason });
        }
        let reason = if reason.is_empty() { "no reason given".to_owned() } else { reason };
        End::Again(ClientError::Lost(format!("closed by the server with code {code}: {reason}")), None)
    })
}

/// What the server asked for before it closed.
fn after_go_away(link: &Link) -> Option<End> {
    let go_away = link.go_away.as_ref()?;
    let reason = go_away.reason();
    Some(match go_away.reconnect_after_ms {
        0 => End::ForGood(ClientError::SentAway { reason }),
        ms => {
            let error = ClientError::Lost(format!("the server said goodbye ({})", reason.as_str_name()));
            End::Again(error, Some(Duration::from_millis(u64::from(ms))))
        }
    })
}
