//! `tidegate replay`: publishes a recording at the pace at which it was recorded, or another one.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::failure::{Failure, FailureKind};
use super::play::{OUTSTANDING, Progress, play};
use super::text::shown;
use crate::client::{Client, Options, Status};
use crate::feed::pace::Pace;
use crate::feed::source::Source;

/// Publish a recording: a depth capture or a recorded match, gzipped or plain.
///
/// A capture has lines of `TIME_NS JSON`, the streams of a market as they came in; it becomes the topics `depth/SYMBOL`,
/// `ticker/SYMBOL` and `trades/SYMBOL`. A match is CSV with a header of `frame,time,kind,actor,…`; it becomes `match/NAME`.
///
/// Each second one line on standard error says how far it is. Ctrl-C ends it: what is under way is waited for, and
/// everything that was published stays.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The recording
    pub file: PathBuf,
    /// The server
    #[arg(long, env = "TIDEGATE_URL", default_value = "ws://127.0.0.1:8433")]
    pub url: String,
    /// Capability token
    #[arg(long, env = "TIDEGATE_TOKEN", hide_env_values = true, default_value = "")]
    pub token: String,
    /// Recorded seconds in a second; 0: as fast as it goes
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    pub speed: f64,
}

/// Runs the command until the recording ends or Ctrl-C; progress goes to `log`.
///
/// # Errors
///
/// What is wrong with the recording, with file and line, or what the client says.
pub async fn run(args: ReplayArgs, log: &mut (impl Write + Send)) -> Result<(), Failure> {
    let pace = Pace::new(args.speed).map_err(|error| Failure::new(FailureKind::BadArgument, error.to_string()))?;
    let source = Source::open(&args.file)?;
    let client = Client::connect(Options {
        token: args.token.clone(),
        agent: concat!("tidegate-replay/", env!("CARGO_PKG_VERSION")).into(),
        publishes_outstanding: OUTSTANDING,
        ..Options::new(&args.url)
    })
    .await?;
    let (progress, started) = (Progress::default(), Instant::now());
    let interrupted = async {
        // Without a handler nobody can interrupt it this way.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let playing = play(source, &client, pace, &progress, interrupted);
    tokio::pin!(playing);
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.tick().await; // the first one comes at once
    let result = loop {
        tokio::select! {
            result = &mut playing => break result,
            _ = seconds.tick() => {
                let waits = match &*client.status().borrow() {
                    Status::Waiting { error } => format!("; waiting to connect again: {}", shown(error.to_string().as_bytes())),
                    Status::Connecting => "; connecting again".to_owned(),
                    Status::Connected | Status::Ended(_) => String::new(),
                };
                // If nobody can read it, the recording is played all the same.
                let _ = writeln!(log, "{}{waits}", line(&progress));
            }
        }
    };
    client.close().await;
    let _ = writeln!(log, "{}; played in {:.1} s", line(&progress), started.elapsed().as_secs_f64());
    result
}

fn line(progress: &Progress) -> String {
    format!(
        "{:.1} s of the recording: {} records in {} publishes, {} not acknowledged yet",
        progress.played().as_secs_f64(),
        progress.records(),
        progress.publishes(),
        progress.outstanding(),
    )
}
