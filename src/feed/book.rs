//! An order book, and the oracle that says whether its top is right.
//!
//! **Oracle**: after every update the top of the book equals the book ticker with the largest update id that is not beyond the
//! update's. Book tickers are sent independently of depth, so they judge a book by data that its own path did not produce.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;

use super::capture::{Event, Level, Message};
use super::decimal::Decimal;

/// The key under which the state of a `depth/` topic says to which update id it corresponds.
pub const UPDATE_KEY: &[u8] = b"u";

/// One symbol's bids and asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book {
    bids: BTreeMap<Decimal, Decimal>,
    asks: BTreeMap<Decimal, Decimal>,
    /// The update id after which the book is so; `None`: the state of no one update.
    update: Option<u64>,
}

/// The best levels of a book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Top {
    /// The highest bid.
    pub bid: Level,
    /// The lowest ask.
    pub ask: Level,
}

/// What is no state of a `depth/` topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no level of a book: key {key:?}, value {value:?}")]
pub struct NotBook {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
}

impl Book {
    /// The book that a subscriber holds: the keyed state of a `depth/` topic (see [`records`](super::records)).
    ///
    /// # Errors
    ///
    /// A key or a value that no such topic has.
    pub fn from_state<'a>(state: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Result<Self, NotBook> {
        let mut book = Self::default();
        for (key, value) in state {
            book.set(key, value)?;
        }
        Ok(book)
    }

    /// Takes one entry of such a state, for a subscriber that keeps its book record by record.
    ///
    /// # Errors
    ///
    /// A key or a value that no such topic has.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), NotBook> {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        self.take_entry(key, value).ok_or_else(|| NotBook { key: text(key), value: text(value) })
    }

    /// Removes the entry of a deleted key.
    pub fn remove(&mut self, key: &[u8]) {
        if key == UPDATE_KEY {
            self.update = None;
        } else if let Some((side, price)) = key.split_first()
            && let Some(Ok(price)) = std::str::from_utf8(price).ok().map(Decimal::parse)
        {
            match side {
                b'b' => self.bids.remove(&price),
                _ => self.asks.remove(&price),
            };
        }
    }

    fn take_entry(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let value = std::str::from_utf8(value).ok()?;
        if key == UPDATE_KEY {
            self.update = Some(value.parse().ok()?);
            return Some(());
        }
        let (side, price) = key.split_first()?;
        let side = match side {
            b'b' => &mut self.bids,
            b'a' => &mut self.asks,
            _ => return None,
        };
        let (price, quantity) = (Decimal::parse(std::str::from_utf8(price).ok()?).ok()?, Decimal::parse(value).ok()?);
        // Two texts of one price would be two keys of one level.
        if price.printed() != price.shortest() || quantity.is_zero() {
            return None;
        }
        side.insert(price, quantity);
        Some(())
    }

    /// Takes a snapshot or an update whose turn it is (see [`align`](super::align)); false for all other messages.
    pub fn apply(&mut self, message: &Message) -> bool {
        let (last, bids, asks) = match message {
            Message::Snapshot { last, bids, asks } => {
                (self.bids, self.asks) = (BTreeMap::new(), BTreeMap::new());
                (last, bids, asks)
            }
            Message::Depth { last, bids, asks, .. } => (last, bids, asks),
            Message::BookTicker { .. } | Message::Trade { .. } => return false,
        };
        for (side, levels) in [(&mut self.bids, bids), (&mut self.asks, asks)] {
            for Level { price, quantity } in levels {
                if quantity.is_zero() {
                    side.remove(price);
                } else {
                    side.insert(price.clone(), quantity.clone());
                }
            }
        }
        self.update = Some(*last);
        true
    }

    /// The best levels; `None` while a side is empty.
    #[must_use]
    pub fn top(&self) -> Option<Top> {
        let level =
            |(price, quantity): (&Decimal, &Decimal)| Level { price: price.clone(), quantity: quantity.clone() };
        Some(Top { bid: level(self.bids.last_key_value()?), ask: level(self.asks.first_key_value()?) })
    }

    /// The update id after which the book is so; `None` if it is in between (a snapshot that is still being published).
    #[must_use]
    pub fn update(&self) -> Option<u64> {
        self.update
    }

    /// Bids, lowest first.
    pub fn bids(&self) -> impl DoubleEndedIterator<Item = (&Decimal, &Decimal)> {
        self.bids.iter()
    }

    /// Asks, lowest first.
    pub fn asks(&self) -> impl DoubleEndedIterator<Item = (&Decimal, &Decimal)> {
        self.asks.iter()
    }
}

/// One symbol's book tickers by update id.
#[derive(Clone, Debug, Default)]
pub struct TickerIndex {
    tops: BTreeMap<u64, Top>,
}

/// What the oracle says of a book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its top is that of the ticker.
    Right,
    /// Nothing is known of this update, or the book is between two updates.
    Unknown,
    /// Its top is another one.
    Wrong {
        /// After this update.
        update: u64,
        /// The ticker's.
        expected: Top,
        /// The book's, if it has both sides.
        found: Option<Top>,
    },
}

impl TickerIndex {
    /// The index of all book tickers of `symbol` among `events`. A book can be judged when all tickers up to its update are in, and
    /// they may come in later than the update does: index a capture as a whole.
    pub fn of<'a>(symbol: &str, events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut index = Self::default();
        events.into_iter().filter(|event| &*event.symbol == symbol).for_each(|event| index.insert(&event.message));
        index
    }

    /// Takes in a book ticker; other messages are ignored.
    pub fn insert(&mut self, message: &Message) {
        if let Message::BookTicker { update, bid, ask } = message {
            self.tops.insert(*update, Top { bid: bid.clone(), ask: ask.clone() });
        }
    }

    /// The top of a right book after `update`, if a ticker is known that says so.
    #[must_use]
    pub fn expected_top(&self, update: u64) -> Option<&Top> {
        self.tops.range(..=update).next_back().map(|(_, top)| top)
    }

    /// Judges a book by its top.
    #[must_use]
    pub fn judge(&self, book: &Book) -> Verdict {
        let Some((update, expected)) = book.update.and_then(|update| Some((update, self.expected_top(update)?))) else {
            return Verdict::Unknown;
        };
        match book.top() {
            Some(found) if found == *expected => Verdict::Right,
            found => Verdict::Wrong { update, expected: expected.clone(), found },
        }
    }

    /// Lets go of what only concerns books before `update`, so that an endless market can be judged too.
    pub fn forget_before(&mut self, update: u64) {
        if let Some((&needed, _)) = self.tops.range(..=update).next_back() {
            self.tops = self.tops.split_off(&needed);
        }
    }

    /// Tickers that are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tops.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tops.is_empty()
    }
}

impl fmt::Display for Top {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bid, ask } = self;
        write!(f, "{} × {} | {} × {}", bid.quantity, bid.price, ask.price, ask.quantity)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Right => f.write_str("right"),
            Self::Unknown => f.write_str("unknown"),
            Self::Wrong { update, expected, found: Some(found) } => write!(f, "{update}: {found}, not {expected}"),
            Self::Wrong { update, expected, found: None } => write!(f, "{update}: a side is empty, not {expected}"),
        }
    }
}

#[cfg(test)]
pub(in crate::feed) mod tests {
    use super::*;
    use crate::feed::align::Alignment;
    use crate::feed::capture::Capture;
    use crate::feed::recorded::recorded;

    fn level(price: &str, quantity: &str) -> Level {
        let parse = |text| Decimal::parse(text).expect("a number of this test");
        Level { price: parse(price), quantity: parse(quantity) }
    }

    /// Updates that were applied and skipped, and tops that matched: all of them, or the test fails.
    pub(in crate::feed) fn hold_against_oracle(symbol: &str, index: &TickerIndex, events: Vec<Event>) -> (u64, u64) {
        let (mut alignment, mut book, mut matched) = (Alignment::default(), Book::default(), 0);
        for event in events.into_iter().filter(|event| &*event.symbol == symbol) {
            for due in alignment.push(event).expect("nothing is missing") {
                if book.apply(&due.message) {
                    let verdict = index.judge(&book);
                    assert_eq!(verdict, Verdict::Right, "{symbol}: {verdict}");
                    let top = book.top().expect("it was judged");
                    assert!(top.bid.price < top.ask.price, "crossed: {top}");
                    matched += u64::from(matches!(due.message, Message::Depth { .. }));
                }
            }
        }
        (matched, alignment.skipped())
    }

    #[test]
    fn every_update_of_the_recorded_captures_matches_the_oracle() {
        let expected = [
            ("depth/binance_spot_btcusdt_20240808.gz", "BTCUSDT", (3_449, 2)),
            ("depth/binance_spot_ethusdt_20240808.gz", "ETHUSDT", (3_433, 1)),
        ];
        for (file, symbol, expected) in expected {
            let Some(path) = recorded(file) else {
                eprintln!("{file}: not here; the simulated market is held against its oracle instead (feed::market)");
                continue;
            };
            eprintln!("using {}", path.display());
            let events =
                Capture::open(&path).expect("it is there").collect::<Result<Vec<_>, _>>().expect("it is whole");
            let index = TickerIndex::of(symbol, &events);
            assert_eq!(hold_against_oracle(symbol, &index, events), expected, "{file}");
        }
    }

    #[test]
    fn the_best_price_is_the_best_number_and_not_the_best_text() {
        let bids = vec![level("9.5", "1"), level("10.25", "2")];
        let asks = vec![level("100.0", "3"), level("99.0", "4")];
        let mut book = Book::default();
        assert!(book.apply(&Message::Snapshot { last: 1, bids, asks }));
        assert_eq!(book.top(), Some(Top { bid: level("10.25", "2"), ask: level("99", "4") }));
        let gone =
            Message::Depth { first: 2, last: 2, bids: vec![level("10.250", "0.000")], asks: vec![level("99", "5")] };
        assert!(book.apply(&gone));
        assert_eq!(book.top(), Some(Top { bid: level("9.5", "1"), ask: level("99", "5") }));
        assert_eq!(book.update(), Some(2));
    }

    #[test]
    fn the_oracle_tells_a_wrong_book_from_one_it_knows_nothing_of() {
        let mut index = TickerIndex::default();
        for (update, quantity) in [(10, "1"), (20, "2")] {
            index.insert(&Message::BookTicker { update, bid: level("1", quantity), ask: level("2", "1") });
        }
        let book = |last, quantity| {
            let mut book = Book::default();
            book.apply(&Message::Snapshot { last, bids: vec![level("1", quantity)], asks: vec![level("2", "1")] });
            book
        };
        let right = [(10, "1"), (19, "1"), (20, "2"), (99, "2.0")];
        assert!(right.iter().all(|&(last, quantity)| index.judge(&book(last, quantity)) == Verdict::Right));
        assert_eq!(index.judge(&book(9, "1")), Verdict::Unknown);
        assert_eq!(index.judge(&Book { update: None, ..book(20, "1") }), Verdict::Unknown);
        let verdict = index.judge(&book(20, "1"));
        assert_eq!(verdict.to_string(), "20: 1 × 1 | 2 × 1, not 2 × 1 | 2 × 1");
        assert!(matches!(
            index.judge(&Book { update: Some(20), ..Book::default() }),
            Verdict::Wrong { found: None, .. }
        ));
        index.forget_before(19);
        assert_eq!((index.len(), index.judge(&book(19, "1"))), (2, Verdict::Right));
        index.forget_before(20);
        assert_eq!((index.len(), index.judge(&book(19, "1"))), (1, Verdict::Unknown));
    }

    #[test]
    fn what_is_no_level_is_refused() {
        let read = |key: &str, value: &str| Book::from_state([(key.as_bytes(), value.as_bytes())]);
        assert!(read("b61837.63", "1.00000000").is_ok() && read("u", "7").is_ok());
        for (key, value) in
            [("", "1"), ("c1", "1"), ("b", "1"), ("b1.50", "1"), ("b1.5", "0.00"), ("a1", ""), ("u", "x")]
        {
            assert!(read(key, value).is_err(), "{key:?}: {value:?}");
        }
    }
}
