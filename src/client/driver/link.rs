//! One connection, with a task that reads and one that writes, and what the driver knows of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::raw::{RawConnection, RawMessage, RawReader, RawWriter};
use crate::client::{ClientError, wire};

/// Frames between reader and driver, and between driver and writer: enough to hand over without a wake-up for each.
const LINK_FRAMES: usize = 4;

/// A connection with its two tasks, which end with it.
pub(super) struct Link {
    pub(super) incoming: mpsc::Receiver<Result<RawMessage, ClientError>>,
    pub(super) outgoing: mpsc::Sender<Outgoing>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
    /// Patch bytes that the application took, and how many of them the session knows of.
    pub(super) taken_patch_bytes: Arc<AtomicU64>,
    pub(super) credited_bytes: u64,
    pub(super) pings: VecDeque<Ping>,
    pub(super) last_frame: Instant,
    pub(super) go_away: Option<wire::GoAway>,
    /// The server's close frame came; ours is its answer.
    pub(super) is_closed: bool,
}

/// A ping that is answered when each of these queues has been taken so far.
pub(super) struct Ping {
    pub(super) payload: Bytes,
    pub(super) waits_for: Vec<(Arc<AtomicU64>, u64)>,
}

pub(super) enum Outgoing {
    Frame(wire::ClientFrame),
    Pong(Bytes),
    Close(u16),
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

impl Link {
    pub(super) fn over(connection: RawConnection) -> Self {
        let (incoming_tx, incoming) = mpsc::channel(LINK_FRAMES);
        let (outgoing, outgoing_rx) = mpsc::channel(LINK_FRAMES);
        let reader = tokio::spawn(read(connection.reader, incoming_tx));
        let writer = tokio::spawn(write(connection.writer, outgoing_rx));
        Self {
            incoming,
            outgoing,
            reader,
            writer,
            taken_patch_bytes: Arc::default(),
            credited_bytes: 0,
            pings: VecDeque::new(),
            last_frame: Instant::now(),
            go_away: None,
            is_closed: false,
        }
    }

    pub(super) fn has_pong(&self) -> bool {
        self.pings
            .front()
            .is_some_and(|ping| ping.waits_for.iter().all(|(taken, needed)| taken.load(Ordering::Acquire) >= *needed))
    }
}

async fn read(mut reader: RawReader, to_driver: mpsc::Sender<Result<RawMessage, ClientError>>) {
    loop {
        let message = reader.receive().await;
        let is_last = matches!(message, Err(_) | Ok(RawMessage::Close { .. }));
        if to_driver.send(message).await.is_err() || is_last {
            return;
        }
    }
}

async fn write(mut writer: RawWriter, mut from_driver: mpsc::Receiver<Outgoing>) {
    while let Some(outgoing) = from_driver.recv().await {
        let result = match outgoing {
            Outgoing::Frame(frame) => writer.send(&frame).await,
            Outgoing::Pong(payload) => writer.pong(&payload).await,
            Outgoing::Close(code) => writer.close(code, "").await,
        };
        if result.is_err() {
            return; // the reader sees the broken connection too, and says what is wrong with it
        }
    }
}

/// The close handshake (RFC 6455, section 7.1.2): begins it, or lets the answer to the server's go out.
pub(super) async fn close(link: &mut Link, is_ours: bool) {
    if is_ours {
        let _ = link.outgoing.send(Outgoing::Close(1000)).await;
        while let Some(Ok(message)) = link.incoming.recv().await {
            if matches!(message, RawMessage::Close { .. }) {
                return;
            }
        }
    } else if link.is_closed {
        // Without a sender the writer ends when it has written what there is.
        link.outgoing = mpsc::channel(1).0;
        let _ = (&mut link.writer).await;
    }
}
