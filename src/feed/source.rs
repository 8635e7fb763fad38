//! One stream of publications, whatever it comes from: a depth capture, a recorded match, or the simulated market.

#![forbid(unsafe_code)]

use std::path::Path;

use super::align::AlignError;
use super::capture::{Capture, Event, Message, Parser};
use super::game::{Game, HEADER, Rows};
use super::lines::{FeedError, Lines, Problem};
use super::market::{Instrument, Market};
use super::records::{Publication, Recorder};

/// What errors of the simulated market call it.
const MARKET_NAME: &str = "the simulated market";

/// An iterator of steps in the order of their times; it ends after an error. A market's has no end.
pub struct Source {
    input: Input,
    recorder: Recorder,
    is_over: bool,
}

/// What happened at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// When, in nanoseconds of the recording's clock.
    pub at_ns: u64,
    /// What to publish then, in this order. May be nothing.
    pub publications: Vec<Publication>,
    /// The book ticker that this was, for an oracle: see [`TickerIndex`](super::book::TickerIndex).
    pub ticker: Option<Event>,
}

enum Input {
    Capture(Capture),
    Game(Box<Game<Rows>>),
    /// Its lines are read back as those of a capture are.
    Market {
        market: Box<Market>,
        parser: Parser,
        line: u64,
    },
}

impl Source {
    /// Opens a recording, gzipped or plain. A match is known by its first line; everything else is a depth capture.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or read, or there is nothing in it.
    pub fn open(path: &Path) -> Result<Self, FeedError> {
        let mut lines = Lines::open(path)?;
        let input = match lines.next_line()? {
            None => return Err(lines.error(Problem::Malformed("the file is empty".to_owned()))),
            Some(HEADER) => Input::Game(Box::new(Game::new(&match_topic(path), Rows::open(path)?))),
            Some(_) => Input::Capture(Capture::open(path)?),
        };
        Ok(Self::new(input))
    }

    /// The simulated market, from `start_ns` (Unix time) on.
    #[must_use]
    pub fn market(seed: u64, start_ns: u64, instruments: Vec<Instrument>) -> Self {
        let market = Box::new(Market::new(seed, start_ns, instruments));
        Self::new(Input::Market { market, parser: Parser::default(), line: 0 })
    }

    fn new(input: Input) -> Self {
        Self { input, recorder: Recorder::default(), is_over: false }
    }

    /// The next event of a capture or of the market.
    fn read(&mut self) -> Result<Option<Step>, FeedError> {
        let event = match &mut self.input {
            Input::Game(game) => {
                let frame = game.next().transpose()?;
                return Ok(frame.map(|frame| Step {
                    at_ns: frame.at_ns,
                    publications: frame.publications,
                    ticker: None,
                }));
            }
            Input::Capture(capture) => capture.next().transpose()?,
            Input::Market { market, parser, line } => match market.next() {
                None => None,
                Some((_, text)) => {
                    *line += 1;
                    let event = parser.parse(&text);
                    Some(event.map_err(|problem| FeedError { file: MARKET_NAME.to_owned(), line: *line, problem })?)
                }
            },
        };
        let Some(event) = event else { return Ok(None) };
        let at_ns = event.at_ns;
        let ticker = matches!(event.message, Message::BookTicker { .. }).then(|| event.clone());
        let publications = self.recorder.push(event).map_err(|error| self.misaligned(&error))?;
        Ok(Some(Step { at_ns, publications, ticker }))
    }

    fn misaligned(&self, error: &AlignError) -> FeedError {
        let problem = Problem::Malformed(error.to_string());
        match &self.input {
            Input::Capture(capture) => capture.error(problem),
            Input::Market { line, .. } => FeedError { file: MARKET_NAME.to_owned(), line: *line, problem },
            Input::Game(_) => unreachable!("a match has no books"),
        }
    }
}

impl Iterator for Source {
    type Item = Result<Step, FeedError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let read = self.read().transpose();
        self.is_over = !matches!(read, Some(Ok(_)));
        read
    }
}

/// `match/` and the file's name without its endings, in which what no topic's name may contain is `_`.
fn match_topic(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".gz").unwrap_or(&name);
    let stem = stem.strip_suffix(".csv").unwrap_or(stem);
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '@');
    let segment: String = stem.chars().take(64).map(|c| if is_allowed(c) { c } else { '_' }).collect();
    format!("match/{}", if segment.is_empty() { "_" } else { &segment })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;

    const START_NS: u64 = 1_723_161_253_000_000_000;

    /// A file that is removed at the end of its test.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tidegate-source-{}-{name}", std::process::id()));
            std::fs::write(&path, text).expect("the temporary directory is writable");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_capture_of_the_market_gives_the_steps_of_the_market() {
        let lines: Vec<_> =
            Market::new(5, START_NS, Instrument::examples()).take(2_000).map(|(_, line)| line + "\n").collect();
        let file = Scratch::new("market", &lines.concat());
        let from_file: Vec<_> = Source::open(&file.0).expect("it is there").map(|step| step.expect("whole")).collect();
        let market = Source::market(5, START_NS, Instrument::examples());
        let live: Vec<_> = market.take(2_000).map(|step| step.expect("whole")).collect();
        assert_eq!(from_file, live);
        assert!(live.iter().any(|step| step.ticker.is_some()) && live.is_sorted_by_key(|step| step.at_ns));
        let topics: std::collections::BTreeSet<_> =
            live.iter().flat_map(|step| &step.publications).map(|publication| publication.topic.as_str()).collect();
        assert!(topics.contains("depth/BTCUSDT") && topics.contains("trades/DOGEUSDT"), "{topics:?}");
    }

    #[test]
    fn a_match_is_known_by_its_first_line() {
        let file = Scratch::new("a match!.csv", &format!("{HEADER}\n0,1.5,new,7,Car,,,,,,,,\n1,1.6,del,7,,,,,,,,,\n"));
        let steps: Vec<_> = Source::open(&file.0).expect("it is there").map(|step| step.expect("whole")).collect();
        assert_eq!(steps.iter().map(|step| step.at_ns).collect::<Vec<_>>(), [1_500_000_000, 1_600_000_000]);
        let topic = &steps[0].publications[0].topic;
        assert!(topic.starts_with("match/tidegate-source-") && topic.ends_with("-a_match_"), "{topic}");
        TopicName::parse(topic).expect("a name");
    }

    #[test]
    fn every_error_names_file_and_line() {
        let ticker = r#"1 {"stream":"x@bookTicker","data":{"u":1,"s":"X","b":"1","B":"2","a":"3","A":"4"}}"#;
        let snapshot = r#"2 {"lastUpdateId":8,"bids":[],"asks":[]}"#;
        let late = r#"3 {"stream":"x@depth","data":{"s":"X","U":12,"u":13,"b":[],"a":[]}}"#;
        let cases = [
            (String::new(), 1, "the file is empty"),
            (format!("{ticker}\nhello\n"), 2, "no space between time and message"),
            (format!("{ticker}\n{snapshot}\n{late}\n"), 3, "X: updates 9 to 11 are missing"),
        ];
        for (at, (text, line, says)) in cases.into_iter().enumerate() {
            let file = Scratch::new(&format!("bad-{at}"), &text);
            let error = match Source::open(&file.0) {
                Err(error) => error,
                Ok(source) => {
                    let mut steps: Vec<_> = source.collect();
                    let last = steps.pop().expect("it has lines");
                    assert!(steps.iter().all(Result::is_ok));
                    last.expect_err("the last one is bad")
                }
            };
            let (file, found, problem) = (error.file, error.line, error.problem.to_string());
            assert!(file.contains("tidegate-source-") && found == line && problem.contains(says), "{found}: {problem}");
        }
    }
}
