//! A market-data publisher that runs the engine in its own process, and is told when it must slow down.
//!
//! ```text
//! cargo run --release --example market_data [CAPTURE.gz]       a recorded market, or a simulated one
//! cargo run --release -- sub 'trades/*'                         in another terminal: the trades
//! ```
//!
//! Books are state: a level that finds no room is simply sent with its newest quantity later. Trades are events, each of which
//! counts, so the publisher waits for room for them.

use std::error::Error;
use std::time::{Duration, Instant};

use tidegate::config::Config;
use tidegate::engine::{Engine, Update};
use tidegate::feed::market::Instrument;
use tidegate::feed::source::Source;

fn main() -> Result<(), Box<dyn Error>> {
    let source = match std::env::args().nth(1) {
        Some(file) => Source::open(file.as_ref())?,
        None => Source::market(7, 0, Instrument::examples()),
    };
    let engine = Engine::start(Config::default())?;
    println!("listening on {}; try: tidegate sub 'trades/*'", engine.local_addr());
    let publisher = engine.publisher();
    let begun = Instant::now();
    let mut first_ns = None;
    for step in source {
        let step = step?;
        let at = Duration::from_nanos(step.at_ns - *first_ns.get_or_insert(step.at_ns));
        if engine.wait_for_shutdown(at.saturating_sub(begun.elapsed())) {
            break;
        }
        for publication in step.publications {
            let updates = publication.records.into_iter().map(Update::from);
            if publication.replace {
                publisher.replace(&publication.topic, updates)?;
            } else {
                publisher.publish_blocking(&publication.topic, updates)?;
            }
        }
    }
    let leftovers = engine.shutdown();
    assert!(leftovers.is_nothing(), "{leftovers:?}");
    Ok(())
}
