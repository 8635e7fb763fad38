//! Depth captures: a market's WebSocket streams as they came in, one message a line, `<local time in ns> <JSON>`.
//!
//! Streams are mixed, in the combined form `{"stream": "btcusdt@depth@100ms", "data": {...}}`; one line is the REST snapshot,
//! which is not wrapped and names no symbol.

#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::decimal::{Decimal, NotDecimal};
use super::lines::{FeedError, Lines, Problem};

/// Symbols of one capture.
const MAX_SYMBOLS: usize = 1_024;
/// Bytes of a symbol.
const MAX_SYMBOL_BYTES: usize = 32;

/// One message of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it was received, in nanoseconds of the receiver's clock.
    pub at_ns: u64,
    /// What it is about, such as `BTCUSDT`.
    pub symbol: Arc<str>,
    /// What it says.
    pub message: Message,
}

/// What a message of a capture says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Levels that changed, every 100 ms.
    Depth {
        /// The first update id that is in it (`U`).
        first: u64,
        /// The last one (`u`).
        last: u64,
        /// Bids, in no promised order; quantity 0 deletes the level.
        bids: Vec<Level>,
        /// Asks, likewise.
        asks: Vec<Level>,
    },
    /// The best levels, whenever they change; sent independently of `Depth`.
    BookTicker {
        /// The update id after which they are so.
        update: u64,
        /// The highest bid.
        bid: Level,
        /// The lowest ask.
        ask: Level,
    },
    /// One trade.
    Trade {
        /// Its id.
        id: u64,
        /// Its price and quantity.
        level: Level,
        /// When it happened, Unix time in milliseconds.
        at_ms: u64,
        /// Whether the buyer's order was the resting one.
        is_buyer_maker: bool,
    },
    /// The whole book, down to a depth.
    Snapshot {
        /// The update id after which the book is so.
        last: u64,
        /// Bids, best first.
        bids: Vec<Level>,
        /// Asks, best first.
        asks: Vec<Level>,
    },
}

/// A price and how much is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// The price.
    pub price: Decimal,
    /// The quantity; in `Depth` 0 means that the level is gone.
    pub quantity: Decimal,
}

/// A capture being read: an iterator of its events, which ends after an error.
pub struct Capture {
    lines: Lines,
    parser: Parser,
    is_over: bool,
}

impl Capture {
    /// Opens a capture, gzipped or plain.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, FeedError> {
        Lines::open(path).map(Self::new)
    }

    /// A capture from its lines.
    #[must_use]
    pub fn new(lines: Lines) -> Self {
        Self { lines, parser: Parser::default(), is_over: false }
    }

    /// `problem`, at the line that was read last.
    #[must_use]
    pub fn error(&self, problem: Problem) -> FeedError {
        self.lines.error(problem)
    }

    fn read(&mut self) -> Result<Option<Event>, FeedError> {
        let Some(line) = self.lines.next_line()? else { return Ok(None) };
        self.parser.parse(line).map(Some).map_err(|problem| self.lines.error(problem))
    }
}

impl Iterator for Capture {
    type Item = Result<Event, FeedError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let read = self.read().transpose();
        self.is_over = !matches!(read, Some(Ok(_)));
        read
    }
}

/// Turns lines into events. It remembers the symbols, because a snapshot belongs to the one that was named before it.
#[derive(Debug, Default)]
pub struct Parser {
    symbols: Vec<Arc<str>>,
}

impl Parser {
    /// The event of one line, `<local time in ns> <JSON>`.
    ///
    /// # Errors
    ///
    /// The line has another form, an unknown stream, a number that is none, or is a snapshot that could be of any symbol.
    pub fn parse(&mut self, line: &str) -> Result<Event, Problem> {
        let malformed = |what: &str| Problem::Malformed(what.to_owned());
        let (time, json) = line.split_once(' ').ok_or_else(|| malformed("no space between time and message"))?;
        let at_ns = time.parse().map_err(|_| malformed("does not begin with a time in nanoseconds"))?;
        let head: Head<'_> = from_json(json)?;
        let (symbol, message) = match head.stream.map(|stream| stream.split_once('@').map_or("", |(_, kind)| kind)) {
            Some("depth@100ms" | "depth") => from_json::<Combined<DepthUpdate<'_>>>(json)?.data.into_message()?,
            Some("bookTicker") => from_json::<Combined<BookTicker<'_>>>(json)?.data.into_message()?,
            Some("trade") => from_json::<Combined<Trade<'_>>>(json)?.data.into_message()?,
            None => from_json::<Snapshot<'_>>(json)?.into_message()?,
            Some(_) => return Err(Problem::Malformed(format!("unknown stream {:?}", head.stream.unwrap_or_default()))),
        };
        let symbol = match symbol {
            Some(symbol) => self.symbol(symbol)?,
            None => self.only_symbol()?,
        };
        Ok(Event { at_ns, symbol, message })
    }

    fn symbol(&mut self, name: &str) -> Result<Arc<str>, Problem> {
        if let Some(known) = self.symbols.iter().find(|known| &***known == name) {
            return Ok(Arc::clone(known));
        }
        // It becomes a segment of a topic's name.
        let is_valid = (1..=MAX_SYMBOL_BYTES).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
        if !is_valid {
            return Err(Problem::Malformed(format!("{name:?} is not a symbol")));
        }
        if self.symbols.len() == MAX_SYMBOLS {
            return Err(Problem::Malformed(format!("more than {MAX_SYMBOLS} symbols")));
        }
        let symbol: Arc<str> = name.into();
        self.symbols.push(Arc::clone(&symbol));
        Ok(symbol)
    }

    fn only_symbol(&self) -> Result<Arc<str>, Problem> {
        match self.symbols.as_slice() {
            [only] => Ok(Arc::clone(only)),
            [] => Err(Problem::Malformed("a snapshot before any message that names its symbol".to_owned())),
            _ => Err(Problem::Malformed("a snapshot that could be of several symbols".to_owned())),
        }
    }
}

fn from_json<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Problem> {
    serde_json::from_str(json).map_err(|error| Problem::Malformed(error.to_string()))
}

impl From<NotDecimal> for Problem {
    fn from(error: NotDecimal) -> Self {
        Self::Malformed(error.to_string())
    }
}

type Pair<'a> = (&'a str, &'a str);

fn level((price, quantity): Pair<'_>) -> Result<Level, Problem> {
    Ok(Level { price: Decimal::parse(price)?, quantity: Decimal::parse(quantity)? })
}

fn levels(pairs: Vec<Pair<'_>>) -> Result<Vec<Level>, Problem> {
    pairs.into_iter().map(level).collect()
}

/// Says by which of the structures below the line is to be read.
#[derive(Deserialize)]
struct Head<'a> {
    stream: Option<&'a str>,
}

#[derive(Deserialize)]
struct Combined<T> {
    data: T,
}

#[derive(Deserialize)]
struct DepthUpdate<'a> {
    s: &'a str,
    #[serde(rename = "U")]
    first: u64,
    #[serde(rename = "u")]
    last: u64,
    #[serde(borrow)]
    b: Vec<Pair<'a>>,
    #[serde(borrow)]
    a: Vec<Pair<'a>>,
}

impl<'a> DepthUpdate<'a> {
    fn into_message(self) -> Result<(Option<&'a str>, Message), Problem> {
        if self.first > self.last {
            return Err(Problem::Malformed(format!("update ids run from {} back to {}", self.first, self.last)));
        }
        let (first, last) = (self.first, self.last);
        Ok((Some(self.s), Message::Depth { first, last, bids: levels(self.b)?, asks: levels(self.a)? }))
    }
}

#[derive(Deserialize)]
struct BookTicker<'a> {
    s: &'a str,
    u: u64,
    #[serde(rename = "b")]
    bid: &'a str,
    #[serde(rename = "B")]
    bid_quantity: &'a str,
    #[serde(rename = "a")]
    ask: &'a str,
    #[serde(rename = "A")]
    ask_quantity: &'a str,
}

impl<'a> BookTicker<'a> {
    fn into_message(self) -> Result<(Option<&'a str>, Message), Problem> {
        let (bid, ask) = (level((self.bid, self.bid_quantity))?, level((self.ask, self.ask_quantity))?);
        Ok((Some(self.s), Message::BookTicker { update: self.u, bid, ask }))
    }
}

#[derive(Deserialize)]
struct Trade<'a> {
    s: &'a str,
    t: u64,
    p: &'a str,
    q: &'a str,
    #[serde(rename = "T")]
    at_ms: u64,
    m: bool,
}

impl<'a> Trade<'a> {
    fn into_message(self) -> Result<(Option<&'a str>, Message), Problem> {
        let level = level((self.p, self.q))?;
        Ok((Some(self.s), Message::Trade { id: self.t, level, at_ms: self.at_ms, is_buyer_maker: self.m }))
    }
}

#[derive(Deserialize)]
struct Snapshot<'a> {
    /// Not in recorded captures, which have one symbol each; the simulated market says which of its symbols it is.
    s: Option<&'a str>,
    #[serde(rename = "lastUpdateId")]
    last: u64,
    #[serde(borrow)]
    bids: Vec<Pair<'a>>,
    #[serde(borrow)]
    asks: Vec<Pair<'a>>,
}

impl<'a> Snapshot<'a> {
    fn into_message(self) -> Result<(Option<&'a str>, Message), Problem> {
        Ok((self.s, Message::Snapshot { last: self.last, bids: levels(self.bids)?, asks: levels(self.asks)? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::recorded::recorded;
    use std::io::Cursor;

    fn level_of(price: &str, quantity: &str) -> Level {
        level((price, quantity)).expect("numbers of this test")
    }

    #[test]
    fn each_kind_of_line_is_read() {
        let mut parser = Parser::default();
        let mut read = |line: &str| parser.parse(line).expect("a line of this test");
        let depth = read(
            r#"7 {"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1,"s":"BTCUSDT","U":5,"u":9,"b":[["61737.63000000","0.00000000"]],"a":[]}}"#,
        );
        assert_eq!((depth.at_ns, &*depth.symbol), (7, "BTCUSDT"));
        let bids = vec![level_of("61737.63", "0")];
        assert_eq!(depth.message, Message::Depth { first: 5, last: 9, bids, asks: vec![] });
        let ticker = read(
            r#"8 {"stream":"btcusdt@bookTicker","data":{"u":12,"s":"BTCUSDT","b":"1.0","B":"2","a":"3","A":"4"}}"#,
        );
        let (bid, ask) = (level_of("1", "2"), level_of("3", "4"));
        assert_eq!(ticker.message, Message::BookTicker { update: 12, bid, ask });
        let trade = read(
            r#"9 {"stream":"btcusdt@trade","data":{"e":"trade","E":3,"s":"BTCUSDT","t":77,"p":"1.5","q":"0.02","T":42,"m":true,"M":true}}"#,
        );
        let level = level_of("1.5", "0.02");
        assert_eq!(trade.message, Message::Trade { id: 77, level, at_ms: 42, is_buyer_maker: true });
        let snapshot = read(r#"10 {"lastUpdateId":8,"bids":[["1.0","2.0"]],"asks":[["3.0","4.0"]]}"#);
        assert_eq!(&*snapshot.symbol, "BTCUSDT", "a snapshot is of the symbol named before it");
        let (bids, asks) = (vec![level_of("1", "2")], vec![level_of("3", "4")]);
        assert_eq!(snapshot.message, Message::Snapshot { last: 8, bids, asks });
    }

    #[test]
    fn errors_name_file_and_line_and_end_the_capture() {
        let good = r#"1 {"stream":"x@bookTicker","data":{"u":1,"s":"X","b":"1","B":"2","a":"3","A":"4"}}"#;
        let bad = [
            ("", "no space"),
            ("x {}", "does not begin with a time"),
            ("1 {}", "missing field `lastUpdateId`"),
            ("1 {\"stream\":", "EOF"),
            (r#"1 {"stream":"x@kline","data":{}}"#, "unknown stream \"x@kline\""),
            (r#"1 {"stream":"x@depth","data":{"s":"X","U":2,"u":1,"b":[],"a":[]}}"#, "from 2 back to 1"),
            (
                r#"1 {"stream":"x@depth","data":{"s":"X","U":1,"u":1,"b":[["1","-2"]],"a":[]}}"#,
                "\"-2\" is not a decimal",
            ),
            (r#"1 {"stream":"x@depth","data":{"s":"a/b","U":1,"u":1,"b":[],"a":[]}}"#, "\"a/b\" is not a symbol"),
        ];
        for (line, says) in bad {
            let text = format!("{good}\n{line}\n{good}\n");
            let events: Vec<_> = Capture::new(Lines::new("file.gz", Cursor::new(text))).collect();
            assert_eq!(events.len(), 2, "an error ends it");
            let error = events[1].as_ref().expect_err("the second line is bad").to_string();
            assert!(error.starts_with("file.gz, line 2: ") && error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_snapshot_that_could_be_of_no_or_of_several_symbols_is_refused() {
        let mut parser = Parser::default();
        let snapshot = r#"1 {"lastUpdateId":8,"bids":[],"asks":[]}"#;
        assert!(parser.parse(snapshot).expect_err("no symbol yet").to_string().contains("before any message"));
        for symbol in ["X", "Y"] {
            let ticker = r#"1 {"stream":"@bookTicker","data":{"u":1,"s":"S","b":"1","B":"2","a":"3","A":"4"}}"#;
            parser.parse(&ticker.replace("\"S\"", &format!("\"{symbol}\""))).expect("a good line");
        }
        assert!(parser.parse(snapshot).expect_err("two symbols").to_string().contains("several symbols"));
        let named = parser.parse(r#"1 {"lastUpdateId":8,"s":"Y","bids":[],"asks":[]}"#).expect("it says which");
        assert_eq!(&*named.symbol, "Y");
    }

    #[test]
    fn recorded_captures_have_the_counts_of_their_readme() {
        let expected = [
            ("depth/binance_spot_btcusdt_20240808.gz", "BTCUSDT", [41_249, 3_451, 124_090, 28_040, 9_757, 1]),
            ("depth/binance_spot_ethusdt_20240808.gz", "ETHUSDT", [33_618, 3_434, 106_814, 24_077, 6_106, 1]),
        ];
        for (file, symbol, expected) in expected {
            let Some(path) = recorded(file) else {
                eprintln!("{file}: not here, so its counts are not checked");
                continue;
            };
            eprintln!("using {}", path.display());
            let mut counts = [0; 6];
            for event in Capture::open(&path).expect("it is there") {
                let event = event.expect("it is whole");
                assert_eq!(&*event.symbol, symbol);
                counts[0] += 1;
                match event.message {
                    Message::Depth { bids, asks, .. } => {
                        counts[1] += 1;
                        counts[2] += bids.len() + asks.len();
                    }
                    Message::BookTicker { .. } => counts[3] += 1,
                    Message::Trade { .. } => counts[4] += 1,
                    Message::Snapshot { bids, asks, .. } => {
                        counts[5] += 1;
                        assert_eq!((bids.len(), asks.len()), (1_000, 1_000));
                    }
                }
            }
            assert_eq!(counts, expected, "{file}");
        }
    }
}
