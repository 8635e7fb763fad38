//! What is published, and what must be seen at every head that there can be: worked out beforehand, without the engine.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::path::Path;

use bytes::Bytes;
use tidegate::feed::align::Alignment;
use tidegate::feed::book::{Book, TickerIndex};
use tidegate::feed::capture::{Capture, Event, Parser};
use tidegate::feed::game::{self, Game, Rows};
use tidegate::feed::lines::Lines;
use tidegate::feed::market::{Instrument, Market};
use tidegate::feed::recorded::recorded;
use tidegate::feed::records::{Publication, Recorder};

/// The filter of those who subscribe to one side of the book.
pub(super) const PREFIX: &[u8] = b"b";

/// The inputs of one engine.
#[derive(Default)]
pub(super) struct World {
    pub(super) inputs: Vec<Input>,
}

/// One recording.
pub(super) struct Input {
    /// The last segment of its topics.
    pub(super) symbol: String,
    pub(super) publications: Vec<Publication>,
    pub(super) tickers: TickerIndex,
    pub(super) topics: BTreeMap<String, Expected>,
    /// The book at the end, made from the messages and not from the records.
    pub(super) book: Option<Book>,
}

/// What subscribers of one topic must see.
#[derive(Default)]
pub(super) struct Expected {
    /// By each offset at which a publication ends: no other offset can be a head.
    moments: HashMap<u64, Moment>,
    /// Events by their offsets.
    pub(super) events: HashMap<u64, Bytes>,
    /// The offset of the last record.
    pub(super) last: u64,
    pub(super) state: State,
    prefixed: State,
}

/// The state after a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) whole: Digest,
    /// Of the keys that start with [`PREFIX`].
    pub(super) prefixed: Digest,
}

/// Tells states apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) keys: usize,
    pub(super) checksum: u32,
}

/// A plain map with its checksum, by the rule of the design and by nobody else's code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    keys: HashMap<Bytes, (Bytes, u32)>,
    checksum: u32,
}

impl State {
    pub(super) fn set(&mut self, key: &Bytes, value: &Bytes) {
        let term = term(key, value);
        self.remove(key);
        self.checksum = self.checksum.wrapping_add(term);
        self.keys.insert(key.clone(), (value.clone(), term));
    }

    pub(super) fn remove(&mut self, key: &Bytes) {
        if let Some((_, term)) = self.keys.remove(key) {
            self.checksum = self.checksum.wrapping_sub(term);
        }
    }

    pub(super) fn digest(&self) -> Digest {
        Digest { keys: self.keys.len(), checksum: self.checksum }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.keys.iter().map(|(key, (value, _))| (key, value))
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.keys.get(key).map(|(value, _)| value)
    }
}

fn term(key: &[u8], value: &[u8]) -> u32 {
    let length = u32::try_from(key.len()).expect("keys are short");
    crc32fast::hash(&[&length.to_le_bytes(), key, value].concat())
}

impl Expected {
    /// The state at a head; there must be one.
    pub(super) fn moment(&self, head: u64) -> &Moment {
        self.moments.get(&head).unwrap_or_else(|| panic!("{head} is a head, but no publication ends there"))
    }

    fn publish(&mut self, publication: &Publication) {
        // Then the engine has nothing to delete, and offsets can be known beforehand.
        assert!(!publication.replace || self.last == 0, "only an empty topic is replaced");
        for record in &publication.records {
            self.last += 1;
            let is_prefixed = record.key.starts_with(PREFIX);
            match (record.key.is_empty(), record.delete) {
                (true, _) => drop(self.events.insert(self.last, record.value.clone())),
                (false, true) => {
                    self.state.remove(&record.key);
                    self.prefixed.remove(&record.key);
                }
                (false, false) => {
                    self.state.set(&record.key, &record.value);
                    if is_prefixed {
                        self.prefixed.set(&record.key, &record.value);
                    }
                }
            }
        }
        self.moments.insert(self.last, Moment { whole: self.state.digest(), prefixed: self.prefixed.digest() });
    }
}

impl World {
    /// The input that a topic is part of, and what is expected of it.
    pub(super) fn topic(&self, name: &str) -> (&Input, &Expected) {
        let found = self.inputs.iter().find_map(|input| Some((input, input.topics.get(name)?)));
        found.unwrap_or_else(|| panic!("nobody publishes {name}"))
    }
}

impl Input {
    fn new(symbol: &str, publications: Vec<Publication>) -> Self {
        let mut topics = BTreeMap::<String, Expected>::new();
        for publication in &publications {
            topics.entry(publication.topic.clone()).or_default().publish(publication);
        }
        let tickers = TickerIndex::default();
        Self { symbol: symbol.to_owned(), publications, tickers, topics, book: None }
    }

    /// A depth capture, or a market that is simulated for `seconds` where it is not.
    pub(super) fn depth(file: &str, symbol: &str, seed: u64, seconds: u64) -> Self {
        let path = recorded(file);
        let events = match &path {
            Some(path) => {
                println!("{symbol}: using {}", path.display());
                Capture::open(path).expect("it is there").collect::<Result<Vec<_>, _>>().expect("it is whole")
            }
            None => {
                println!("{symbol}: using {seconds} s of a simulated market, seed {seed}");
                simulated_market(symbol, seed, seconds)
            }
        };
        let (mut recorder, mut alignment) = (Recorder::default(), Alignment::default());
        let (mut publications, mut book) = (Vec::new(), Book::default());
        for event in &events {
            for due in alignment.push(event.clone()).expect("nothing is missing") {
                book.apply(&due.message);
            }
            publications.extend(recorder.push(event.clone()).expect("nothing is missing"));
        }
        let input = Self::new(symbol, publications);
        Self { tickers: TickerIndex::of(symbol, &events), book: Some(book), ..input }
    }

    /// The recorded match, or rows of the same form where it is not.
    pub(super) fn game() -> Self {
        let path = recorded("game/rocket_league_rlcs2_30hz.csv.gz");
        println!("match: using {}", path.as_deref().map_or("made up rows".into(), Path::to_string_lossy));
        let rows = match &path {
            Some(path) => Rows::open(path).expect("it is there"),
            None => Rows::new(Lines::new("made up", Cursor::new(made_up_match()))),
        };
        let frames = Game::new("match/rlcs2", rows).map(|frame| frame.expect("it is whole"));
        Self::new("rlcs2", frames.flat_map(|frame| frame.publications).collect())
    }
}

fn simulated_market(symbol: &str, seed: u64, seconds: u64) -> Vec<Event> {
    const OPENING_NS: u64 = 1_723_161_253_000_000_000;
    let instruments = Instrument::examples().into_iter().filter(|it| it.symbol == symbol).collect();
    let mut parser = Parser::default();
    Market::new(seed, OPENING_NS, instruments)
        .take_while(|(at_ns, _)| *at_ns < OPENING_NS + seconds * 1_000_000_000)
        .map(|(_, line)| parser.parse(&line).expect("it writes the capture's format"))
        .collect()
}

/// Thirty actors that come, move and go.
fn made_up_match() -> String {
    use std::fmt::Write as _;
    let mut text = format!("{}\n", game::HEADER);
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("a String takes everything");
    for frame in 0..3_000_u32 {
        let time = f64::from(frame) / 30.0;
        for actor in 0..30 {
            match (frame + actor * 7) % 200 {
                0 => line(format_args!("{frame},{time:.4},new,{actor},Car,,,,,,,,")),
                199 => line(format_args!("{frame},{time:.4},del,{actor},,,,,,,,,")),
                at if at % 3 == 0 => {
                    line(format_args!("{frame},{time:.4},rb,{actor},,{at}.50,-2.00,{frame}.00,0,0,0,1,0"));
                }
                at if at % 5 == 0 => line(format_args!("{frame},{time:.4},upd,{actor},Byte:({at}),,,,,,,,")),
                _ => {}
            }
        }
    }
    text
}
