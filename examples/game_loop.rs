//! A game backend that runs the engine in its own process: a loop at 60 Hz that publishes what changed in its world.
//!
//! ```text
//! cargo run --release --example game_loop [MATCH.csv.gz]      the world: a recorded match, or a few balls in a box
//! cargo run --release -- sub 'match/*' --state                 in another terminal: the world, as a client holds it
//! ```
//!
//! The loop never waits for the network. If the engine cannot take a tick, the world is sent whole at the next one: `replace`
//! works out what changed, so nothing is lost and nothing queues up.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use tidegate::config::Config;
use tidegate::engine::{Engine, PublishError, Update};
use tidegate::feed::source::Source;

const TICK: Duration = Duration::from_nanos(1_000_000_000 / 60);

/// The state of everything, by key, and what the last tick changed.
trait World {
    /// Moves on by one tick; false when it is over.
    fn tick(&mut self) -> Result<bool, Box<dyn Error>>;
    fn changes(&self) -> &[(String, Option<Vec<u8>>)];
    fn state(&self) -> &BTreeMap<String, Vec<u8>>;
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut world: Box<dyn World> = match std::env::args().nth(1) {
        Some(file) => Box::new(Recording::open(&file)?),
        None => Box::new(Balls::new(200)),
    };
    let engine = Engine::start(Config::default())?;
    println!("listening on {}; try: tidegate sub 'match/*' --state", engine.local_addr());
    let publisher = engine.publisher();
    let (mut next, mut must_resend, mut late) = (Instant::now(), false, 0_u64);
    while world.tick()? {
        let sent = if must_resend {
            publisher.replace(
                "match/arena",
                world.state().iter().map(|(key, value)| Update::state(key.clone(), value.clone())),
            )
        } else {
            publisher.publish_changes(&*world)
        };
        must_resend = match sent {
            Ok(()) => false,
            Err(PublishError::Full) => {
                late += 1;
                true
            }
            Err(error) => return Err(error.into()),
        };
        next += TICK;
        if engine.wait_for_shutdown(next.saturating_duration_since(Instant::now())) {
            break;
        }
    }
    println!("{late} ticks found no room");
    let leftovers = engine.shutdown();
    assert!(leftovers.is_nothing(), "{leftovers:?}");
    Ok(())
}

trait PublishChanges {
    fn publish_changes(&self, world: &dyn World) -> Result<(), PublishError>;
}

impl PublishChanges for tidegate::engine::Publisher {
    fn publish_changes(&self, world: &dyn World) -> Result<(), PublishError> {
        if world.changes().is_empty() {
            return Ok(());
        }
        let update = |(key, value): &(String, Option<Vec<u8>>)| match value {
            Some(value) => Update::state(key.clone(), value.clone()),
            None => Update::delete(key.clone()),
        };
        self.publish("match/arena", world.changes().iter().map(update))
    }
}

/// Balls that bounce in a box: position and velocity, 16 bytes each.
struct Balls {
    balls: Vec<[f32; 4]>,
    changes: Vec<(String, Option<Vec<u8>>)>,
    state: BTreeMap<String, Vec<u8>>,
}

impl Balls {
    fn new(count: u16) -> Self {
        let ball = |at: u16| [f32::from(at % 20), f32::from(at / 20), 0.1 + f32::from(at % 7) / 50.0, 0.3];
        Self { balls: (0..count).map(ball).collect(), changes: Vec::new(), state: BTreeMap::new() }
    }
}

impl World for Balls {
    fn tick(&mut self) -> Result<bool, Box<dyn Error>> {
        self.changes.clear();
        for (at, ball) in self.balls.iter_mut().enumerate() {
            for axis in 0..2 {
                ball[axis] += ball[axis + 2];
                if !(0.0..=100.0).contains(&ball[axis]) {
                    ball[axis + 2] = -ball[axis + 2];
                }
            }
            let value: Vec<u8> = ball.iter().flat_map(|number| number.to_le_bytes()).collect();
            self.state.insert(format!("ball/{at}"), value.clone());
            self.changes.push((format!("ball/{at}"), Some(value)));
        }
        Ok(true)
    }

    fn changes(&self) -> &[(String, Option<Vec<u8>>)] {
        &self.changes
    }

    fn state(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.state
    }
}

/// A recorded match, two ticks for each of its frames at 30 Hz.
struct Recording {
    source: Source,
    is_between: bool,
    changes: Vec<(String, Option<Vec<u8>>)>,
    state: BTreeMap<String, Vec<u8>>,
}

impl Recording {
    fn open(file: &str) -> Result<Self, Box<dyn Error>> {
        let source = Source::open(file.as_ref())?;
        Ok(Self { source, is_between: true, changes: Vec::new(), state: BTreeMap::new() })
    }
}

impl World for Recording {
    fn tick(&mut self) -> Result<bool, Box<dyn Error>> {
        self.changes.clear();
        self.is_between = !self.is_between;
        if self.is_between {
            return Ok(true);
        }
        let Some(step) = self.source.next() else { return Ok(false) };
        for record in step?.publications.into_iter().flat_map(|publication| publication.records) {
            let key = String::from_utf8(record.key.to_vec())?;
            let value = (!record.delete).then(|| record.value.to_vec());
            match &value {
                Some(value) => _ = self.state.insert(key.clone(), value.clone()),
                None => _ = self.state.remove(&key),
            }
            self.changes.push((key, value));
        }
        Ok(true)
    }

    fn changes(&self) -> &[(String, Option<Vec<u8>>)] {
        &self.changes
    }

    fn state(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.state
    }
}
