//! `tidegate demo`: an engine, a live market, subscribers that check what they get, and one of them on a slow link. Nothing to
//! set up.
//!
//! ```text
//!  market thread --TCP--> engine (its own threads) --TCP--> 4 subscribers in one thread
//!     |                                            --TCP--> link of 24 kB/s --TCP--> 1 subscriber, in another thread
//!     +-- best prices --> oracle <-- books to judge -- all subscribers
//! ```

mod link;
mod oracle;
mod parts;
mod table;
mod watcher;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::exit::{CliError, Exit};
use super::failure::Failure;
use super::play::Progress;
use super::seconds::seconds;
use super::serve::{EngineArgs, shut_down};
use super::{block_on, print};
use crate::config::Config;
use crate::engine::Engine;
use crate::feed::market::Instrument;
use crate::feed::source::Source;
use crate::topic::{Pattern, Priority, TopicClass};
use oracle::Oracle;
use table::{Sample, Table};
use watcher::Seen;

/// Subscribers whose link is as fast as loopback.
const HEALTHY: usize = 4;
/// At the end the subscribers are waited for so long, until they have everything.
const SETTLE: Duration = Duration::from_secs(5);

/// Shows the engine at work on a live market: subscribers over TCP, every book checked, one of them on a slow link.
///
/// Prints a line every second until Ctrl-C, then what became of every record.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// End after so many seconds
    #[arg(long, value_name = "N", value_parser = seconds, allow_negative_numbers = true)]
    pub seconds: Option<Duration>,
    /// Play this recording, a depth capture or a match, instead of the simulated market
    #[arg(long, value_name = "FILE")]
    pub replay: Option<PathBuf>,
    /// The simulated market's seed: the same one makes the same market
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Bytes a second that the slow link passes each way
    #[arg(long, value_name = "BYTES", default_value_t = 24_000, value_parser = clap::value_parser!(u32).range(1_000..))]
    pub link: u32,
    #[allow(missing_docs, reason = "documented there")]
    #[command(flatten)]
    pub engine: EngineArgs,
}

impl DemoArgs {
    /// As `serve` has it; topic classes that fit the market, unless the file has its own.
    fn config(&self) -> Result<Config, CliError> {
        let mut config = self.engine.load()?;
        if config.classes.len() == 1 {
            config.classes.splice(0..0, classes());
        }
        Ok(config)
    }

    fn source(&self) -> Result<(Source, String), Failure> {
        if let Some(path) = &self.replay {
            return Ok((Source::open(path)?, format!("the recording {}", path.display())));
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start_ns = u64::try_from(since.as_nanos()).unwrap_or_default();
        let instruments = Instrument::examples();
        let name = format!("a simulated market of {} instruments, seed {}", instruments.len(), self.seed);
        Ok((Source::market(self.seed, start_ns, instruments), name))
    }
}

/// Best prices before books, and trades only as long as they are news.
fn classes() -> [TopicClass; 3] {
    let class = |name: &str, priority| TopicClass {
        name: name.to_owned(),
        pattern: Pattern::parse(&format!("{name}/**")).expect("it is a pattern"),
        priority,
        ..TopicClass::catch_all()
    };
    let trades = TopicClass { event_window: Some(Duration::from_secs(1)), ..class("trades", Priority::Low) };
    [class("ticker", Priority::High), class("depth", Priority::Normal), trades]
}

/// Runs the command.
///
/// # Errors
/// As `serve`; what is wrong with the recording; if a part of the demo fails.
pub fn run(args: &DemoArgs) -> Result<(), CliError> {
    let config = args.config()?;
    let (source, name) = args.source()?;
    let engine = Engine::start(config)?;
    let result = show(args, &engine, source, &name);
    result.and(shut_down(engine))
}

/// What the threads of a demo share.
struct Stage {
    address: SocketAddr,
    oracle: Arc<Oracle>,
    progress: Progress,
    healthy: Vec<Arc<Seen>>,
    slow: Arc<Seen>,
    /// Bytes that came out of the slow link.
    passed: Arc<AtomicU64>,
}

impl Stage {
    fn sample(&self, engine: &Engine) -> Sample {
        Sample {
            at: Instant::now(),
            published: self.progress.records(),
            report: engine.report().unwrap_or_default(),
            healthy: self.healthy.iter().map(|seen| seen.totals()).collect(),
            healthy_age: self.healthy.iter().map(|seen| seen.oldest()).max().unwrap_or_default(),
            slow: self.slow.totals(),
            slow_age: self.slow.oldest(),
            link_bytes: self.passed.load(Ordering::Relaxed),
        }
    }
}

type Part<'scope> = ScopedJoinHandle<'scope, Result<(), Failure>>;

/// Runs the demo on a running engine, and prints. Whatever ends it early drops the senders of the stop signals, so that
/// all threads end.
fn show(args: &DemoArgs, engine: &Engine, source: Source, name: &str) -> Result<(), CliError> {
    let stage = Stage {
        address: reachable(engine.local_addr()),
        oracle: Arc::default(),
        progress: Progress::default(),
        healthy: (0..HEALTHY).map(|_| Arc::default()).collect(),
        slow: Arc::default(),
        passed: Arc::default(),
    };
    let stage = &stage;
    thread::scope(|scope| {
        let (stop_market, market_stop) = watch::channel(false);
        let (stop_watching, watching_stop) = watch::channel(false);
        let (ready, are_ready) = mpsc::channel();
        let (slow_stop, slow_ready) = (watching_stop.clone(), ready.clone());
        let watchers = [
            start(scope, "demo-healthy", async move || parts::watch_healthy(stage, watching_stop, ready).await)?,
            start(scope, "demo-slow", async move || {
                parts::watch_slowly(stage, args.link, slow_stop, slow_ready).await
            })?,
        ];
        let mut table = Table::new(args.link);
        // Whoever fails drops its sender, so this ends. The market begins when all are there.
        if are_ready.iter().take(watchers.len()).count() == watchers.len() {
            let market = start(scope, "demo-market", async move || parts::publish(stage, source, market_stop).await)?;
            print(&table::greeting(name, stage.address, engine.admin_addr(), args.link))?;
            watch_until_end(args, engine, stage, &mut table, &|| {
                market.is_finished() || watchers.iter().any(Part::is_finished)
            })?;
            stop_market.send_replace(true);
            joined(market)?;
            settle(engine, stage, &|| watchers.iter().any(Part::is_finished));
        }
        stop_watching.send_replace(true);
        for watcher in watchers {
            joined(watcher)?;
        }
        print(&table.summary(&stage.sample(engine)))
    })
}

/// A line a second, until Ctrl-C, the end of the time, or that of a part.
fn watch_until_end(
    args: &DemoArgs,
    engine: &Engine,
    stage: &Stage,
    table: &mut Table,
    is_over: &dyn Fn() -> bool,
) -> Result<(), CliError> {
    let begun = Instant::now();
    let end = args.seconds.map(|seconds| begun + seconds);
    table.begin(stage.sample(engine));
    for second in 1.. {
        let due = begun + Duration::from_secs(second);
        let until = end.map_or(due, |end| end.min(due));
        if engine.wait_for_shutdown(until.saturating_duration_since(Instant::now())) || is_over() {
            break;
        }
        if until == due {
            print(&table.line(stage.sample(engine)))?;
        }
        if end.is_some_and(|end| end <= until) {
            break;
        }
    }
    Ok(())
}

/// Waits until every subscriber has been brought to the end of every topic.
fn settle(engine: &Engine, stage: &Stage, is_over: &dyn Fn() -> bool) {
    let deadline = Instant::now() + SETTLE;
    while Instant::now() < deadline && !is_over() {
        let sample = stage.sample(engine);
        let published: u64 = sample.report.counters.classes.iter().map(|class| class.published).sum();
        if sample.healthy.iter().chain([&sample.slow]).all(|totals| totals.due >= published) {
            break;
        }
        // Subscribers tell nobody when they are there, and nobody is in a hurry.
        thread::sleep(Duration::from_millis(10));
    }
}

fn start<'scope, F, R>(scope: &'scope thread::Scope<'scope, '_>, name: &str, part: F) -> Result<Part<'scope>, CliError>
where
    F: FnOnce() -> R + Send + 'scope,
    R: Future<Output = Result<(), Failure>>,
{
    let spawned = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, move || block_on(part()));
    spawned.map_err(|error| CliError::new(Exit::Failure, format_args!("cannot start a thread: {error}")))
}

fn joined(part: Part<'_>) -> Result<(), CliError> {
    match part.join() {
        Ok(result) => Ok(result?),
        // The panic has been printed by its hook; the command ends as if it were its own.
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Where clients of this machine reach a listener.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;

    #[test]
    fn each_topic_of_a_market_is_of_its_class() {
        for (topic, expected) in [("ticker/X", "ticker"), ("depth/X", "depth"), ("trades/X", "trades")] {
            let name = TopicName::parse(topic).expect("a name");
            let class = classes().into_iter().find(|class| class.pattern.matches(&name)).expect("there is one");
            assert_eq!(class.name, expected);
        }
    }

    #[test]
    fn an_engine_on_all_interfaces_is_reached_over_loopback() {
        let of = |text: &str| reachable(text.parse().expect("an address")).to_string();
        assert_eq!(of("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(of("[::]:1"), "[::1]:1");
        assert_eq!(of("192.0.2.7:1"), "192.0.2.7:1");
    }
}
