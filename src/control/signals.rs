//! SIGINT and SIGTERM: the first asks for an orderly shutdown, the second does not wait for it.

use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::Sender;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ShutdownRequest, Signals};

/// Exit code of a process that was interrupted a second time: what shells report of SIGINT.
const INTERRUPTED: i32 = 130;

/// Watches signals for as long as it is polled; they are caught from the moment that this returns.
///
/// # Errors
/// If the kernel refuses the handlers.
pub(super) fn watch(
    signals: Signals,
    requests: Sender<ShutdownRequest>,
    is_draining: Arc<AtomicBool>,
) -> io::Result<impl Future<Output = ()>> {
    let caught = match signals {
        Signals::Handle => Some((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)),
        Signals::Ignore => None,
    };
    Ok(async move {
        let Some((mut interrupts, mut terminations)) = caught else { return pending().await };
        let request = next(&mut interrupts, &mut terminations).await;
        tracing::info!(?request, "shutting down; once more to end at once");
        is_draining.store(true, Ordering::Relaxed);
        // There is room: this is the first.
        let _ = requests.try_send(request);
        let request = next(&mut interrupts, &mut terminations).await;
        tracing::warn!(?request, "ending at once");
        std::process::exit(INTERRUPTED);
    })
}

async fn next(interrupts: &mut Signal, terminations: &mut Signal) -> ShutdownRequest {
    tokio::select! {
        _ = interrupts.recv() => ShutdownRequest::Interrupt,
        _ = terminations.recv() => ShutdownRequest::Terminate,
    }
}
