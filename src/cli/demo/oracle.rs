//! What is known of the market beside what is published: its best prices, told before the books that they judge.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::feed::book::{Book, TickerIndex, Verdict};
use crate::feed::capture::Message;
use crate::feed::lines::FeedError;
use crate::feed::source::{Source, Step};

/// Best prices may come in later than the update of the book that they judge, by some tens of milliseconds; so steps are read
/// so long before they are published.
const AHEAD_NS: u64 = 1_000_000_000;
/// Steps that are read ahead at most, whatever their times say.
const AHEAD_STEPS: usize = 65_536;
/// Best prices are remembered so long, in recorded time: nobody's book should be older.
const MEMORY_NS: u64 = 60_000_000_000;

/// Judges books, from any thread.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    symbols: HashMap<String, TickerIndex>,
    /// Time, symbol and update of each, the oldest first.
    ages: VecDeque<(u64, String, u64)>,
}

impl Oracle {
    /// Judges the book of a symbol.
    pub(super) fn judge(&self, symbol: &str, book: &Book) -> Verdict {
        // Whoever panicked while holding it left whole entries behind.
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.symbols.get(symbol).map_or(Verdict::Unknown, |index| index.judge(book))
    }

    fn learn(&self, step: &Step) {
        let Some(event) = &step.ticker else { return };
        let Message::BookTicker { update, .. } = event.message else { return };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.symbols.entry(event.symbol.to_string()).or_default().insert(&event.message);
        known.ages.push_back((event.at_ns, event.symbol.to_string(), update));
        while known.ages.front().is_some_and(|(at_ns, ..)| at_ns + MEMORY_NS < event.at_ns) {
            let (_, symbol, update) = known.ages.pop_front().expect("it was just there");
            if let Some(index) = known.symbols.get_mut(&symbol) {
                index.forget_before(update);
            }
        }
    }
}

/// The steps of a source, read ahead so that the oracle knows more than anybody who is told of them.
pub(super) struct Foreseen<'a> {
    source: Source,
    oracle: &'a Oracle,
    steps: VecDeque<Step>,
    /// How the source ended.
    end: Option<Option<FeedError>>,
}

impl<'a> Foreseen<'a> {
    pub(super) fn new(source: Source, oracle: &'a Oracle) -> Self {
        Self { source, oracle, steps: VecDeque::new(), end: None }
    }

    fn is_far_enough(&self) -> bool {
        match (self.steps.front(), self.steps.back()) {
            (Some(next), Some(last)) => {
                last.at_ns > next.at_ns.saturating_add(AHEAD_NS) || self.steps.len() == AHEAD_STEPS
            }
            _ => false,
        }
    }
}

impl Iterator for Foreseen<'_> {
    type Item = Result<Step, FeedError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.end.is_none() && !self.is_far_enough() {
            match self.source.next() {
                Some(Ok(step)) => {
                    self.oracle.learn(&step);
                    self.steps.push_back(step);
                }
                Some(Err(error)) => self.end = Some(Some(error)),
                None => self.end = Some(None),
            }
        }
        match self.steps.pop_front() {
            Some(step) => Some(Ok(step)),
            None => self.end.as_mut()?.take().map(Err),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::market::Instrument;

    #[test]
    fn every_book_can_be_judged_when_its_update_is_published_and_is_right() {
        let oracle = Oracle::default();
        let market = Source::market(9, 1_723_161_253_000_000_000, Instrument::examples());
        let (mut books, mut right): (HashMap<String, Book>, u64) = (HashMap::new(), 0);
        for step in Foreseen::new(market, &oracle).take(8_000) {
            for publication in step.expect("the market writes what it reads").publications {
                let Some(symbol) = publication.topic.strip_prefix("depth/") else { continue };
                let book = books.entry(symbol.to_owned()).or_default();
                if publication.replace {
                    *book = Book::default();
                }
                for record in &publication.records {
                    if record.delete {
                        book.remove(&record.key);
                    } else {
                        book.set(&record.key, &record.value).expect("a level");
                    }
                }
                assert_ne!(book.update(), None);
                assert_eq!(oracle.judge(symbol, book), Verdict::Right);
                right += 1;
                book.set(b"u", b"1").expect("an update");
                assert_eq!(oracle.judge(symbol, book), Verdict::Unknown, "long forgotten");
            }
        }
        assert!(right > 100, "{right}");
    }

    #[test]
    fn it_ends_as_its_source_does() {
        let path = std::env::temp_dir().join(format!("tidegate-foreseen-{}", std::process::id()));
        let ticker = r#"1 {"stream":"x@bookTicker","data":{"u":1,"s":"X","b":"1","B":"2","a":"3","A":"4"}}"#;
        std::fs::write(&path, format!("{ticker}\nx\n")).expect("the temporary directory is writable");
        let oracle = Oracle::default();
        let mut steps = Foreseen::new(Source::open(&path).expect("it is there"), &oracle);
        assert!(steps.next().expect("a step").is_ok());
        assert_eq!(steps.next().expect("an error").expect_err("no line").line, 2);
        assert!(steps.next().is_none());
        let _ = std::fs::remove_file(path);
    }
}
