//! What the threads of the demo do.

use std::sync::mpsc::Sender;

use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use super::Stage;
use super::link::Link;
use super::oracle::Foreseen;
use super::watcher::Watcher;
use crate::cli::failure::Failure;
use crate::cli::play::{OUTSTANDING, play};
use crate::client::{Client, Options};
use crate::feed::lines::FeedError;
use crate::feed::pace::Pace;
use crate::feed::source::{Source, Step};
use crate::protocol::wire::Priority;

/// The subscribers without a slow link.
pub(super) async fn watch_healthy(
    stage: &Stage,
    stop: watch::Receiver<bool>,
    ready: Sender<()>,
) -> Result<(), Failure> {
    let url = format!("ws://{}", stage.address);
    let mut watchers = Vec::new();
    for seen in &stage.healthy {
        watchers.push(Watcher::subscribe(&url, seen.clone()).await?);
    }
    // If nobody waits for it any more, the stop signal is there as well.
    let _ = ready.send(());
    drop(ready);
    let watching = async {
        let mut tasks = JoinSet::new();
        for watcher in watchers {
            tasks.spawn_local(watcher.watch(stage.oracle.clone(), stop.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            // They are not cancelled, so it is a panic.
            ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        }
        Ok(())
    };
    LocalSet::new().run_until(watching).await
}

/// The one behind the link, and the link itself.
pub(super) async fn watch_slowly(
    stage: &Stage,
    bytes_per_second: u32,
    stop: watch::Receiver<bool>,
    ready: Sender<()>,
) -> Result<(), Failure> {
    let link = Link::new(stage.address, bytes_per_second, stage.passed.clone()).await?;
    let url = format!("ws://{}", link.local_addr()?);
    let watching = async {
        let watcher = Watcher::subscribe(&url, stage.slow.clone()).await?;
        let _ = ready.send(());
        drop(ready);
        watcher.watch(stage.oracle.clone(), stop).await
    };
    tokio::select! {
        result = watching => result,
        () = link.run() => unreachable!("a link runs until it is dropped"),
    }
}

/// The market, or the recording.
pub(super) async fn publish(stage: &Stage, source: Source, mut stop: watch::Receiver<bool>) -> Result<(), Failure> {
    let client = Client::connect(Options {
        agent: concat!("tidegate-demo/", env!("CARGO_PKG_VERSION")).into(),
        publishes_outstanding: OUTSTANDING,
        ..Options::new(format!("ws://{}", stage.address))
    })
    .await?;
    let steps = Foreseen::new(source, &stage.oracle).map(with_priorities_of_classes);
    let pace = Pace::new(1.0).expect("1 is a speed");
    let stopped = async {
        // Its sender gone is as good as a stop.
        let _ = stop.wait_for(|is_due| *is_due).await;
    };
    let result = play(steps, &client, pace, &stage.progress, stopped).await;
    client.close().await;
    result
}

/// Captures have every trade delivered: their priority is critical. On a screen a trade of some seconds ago is worth nothing, so
/// here the topic's class decides.
fn with_priorities_of_classes(step: Result<Step, FeedError>) -> Result<Step, FeedError> {
    let mut step = step?;
    for record in step.publications.iter_mut().flat_map(|publication| &mut publication.records) {
        record.set_priority(Priority::Unspecified);
    }
    Ok(step)
}
