//! The admin port's HTTP: `/metrics`, `/healthz`, `/readyz`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout, timeout_at};

use super::metrics;
use crate::shard::{Report, ShardCommand, ShardHandle};

/// Connections served at a time; others wait in the listener's queue.
const CONNECTIONS: usize = 64;
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// Headers of a request.
const HEADERS: usize = 64;
/// From the start of a connection, or the end of an answer, to the end of the next head.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// A connection's life, so that one that does not read its answer does not hold its place.
const CONNECTION_TIME: Duration = Duration::from_secs(60);
/// How long shards have to send their reports.
const REPORT_TIME: Duration = Duration::from_secs(1);
/// Pause after a failed accept: out of descriptors, which does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What requests are answered from.
pub(super) struct Admin {
    shards: Vec<ShardHandle>,
    class_names: Vec<String>,
    is_draining: Arc<AtomicBool>,
}

impl Admin {
    pub(super) fn new(shards: Vec<ShardHandle>, class_names: Vec<String>, is_draining: Arc<AtomicBool>) -> Self {
        Self { shards, class_names, is_draining }
    }

    /// Asks all shards at once; `None` for those that have ended or do not answer in time.
    async fn reports(&self) -> Vec<Option<Report>> {
        let deadline = tokio::time::Instant::now() + REPORT_TIME;
        let ask = |shard: &ShardHandle| {
            let (sender, report) = oneshot::channel();
            shard.ask(ShardCommand::Report(sender)).then_some(report)
        };
        let asked: Vec<_> = self.shards.iter().map(ask).collect();
        let mut reports = Vec::with_capacity(asked.len());
        for report in asked {
            reports.push(match report {
                Some(report) => timeout_at(deadline, report).await.ok().and_then(Result::ok),
                None => None,
            });
        }
        reports
    }
}

/// Serves until it is dropped; all connections end with it.
pub(super) async fn serve(listener: TcpListener, admin: Admin) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(Arc::new(admin));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        // Those that have ended are let go, else they pile up.
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                connections.spawn(async move {
                    // Whatever it ends with concerns that client alone.
                    let _ = timeout(CONNECTION_TIME, connection(stream, router)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the admin port");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router) -> hyper::Result<()> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let text = metrics::exposition(admin.class_names.clone(), admin.reports().await);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

async fn readyz(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    if admin.is_draining.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".to_owned());
    }
    let reports = admin.reports().await;
    let silent: Vec<_> =
        (0..reports.len()).filter(|&shard| reports[shard].is_none()).map(|shard| shard.to_string()).collect();
    if silent.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("no answer from shard {}\n", silent.join(", ")))
    }
}
