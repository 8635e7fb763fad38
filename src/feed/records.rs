//! A capture's events as records.
//!
//! | topic | records |
//! |---|---|
//! | `depth/BTCUSDT` | keyed: `b61837.63` and `a61837.64` (side, price without trailing zeros) to the quantity as printed; `u` to the update id |
//! | `ticker/BTCUSDT` | keyed: `bbo` to the best bid and ask |
//! | `trades/BTCUSDT` | events, priority critical |
//!
//! Key `u` stands in the same publish as the levels, so at every head a subscriber's book can be held against the oracle of just
//! that update. While a change is too large for one publish, `u` is absent.

#![forbid(unsafe_code)]

use bytes::Bytes;
use prost::Message as _;
use serde_json::json;

use super::align::{AlignError, Alignment};
use super::book::UPDATE_KEY;
use super::capture::{Event, Level, Message};
use crate::protocol::wire::{Priority, Record};

/// Records of one publication; the engine takes 1,024, and one more may be put before them.
pub const RECORDS_PER_PUBLICATION: usize = 1_000;
/// Bytes of one publication's records; the engine takes messages of 64 KiB.
pub const BYTES_PER_PUBLICATION: usize = 48 * 1024;

/// The only key of a `ticker/` topic.
pub const TICKER_KEY: &[u8] = b"bbo";

/// Records for one topic that are applied together.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    /// The topic's name.
    pub topic: String,
    /// At most [`RECORDS_PER_PUBLICATION`] and one.
    pub records: Vec<Record>,
    /// Whether they are the whole keyed state.
    pub replace: bool,
}

/// Turns events into publications, in the order in which they make a book.
#[derive(Debug, Default)]
pub struct Recorder {
    alignment: Alignment,
}

impl Recorder {
    /// What to publish now that `event` has come in.
    ///
    /// # Errors
    ///
    /// The capture makes no right book any more.
    pub fn push(&mut self, event: Event) -> Result<Vec<Publication>, AlignError> {
        Ok(self.alignment.push(event)?.iter().flat_map(publications).collect())
    }

    /// Depth messages that were left out because the book already contained them.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.alignment.skipped()
    }
}

fn publications(event: &Event) -> Vec<Publication> {
    let symbol = &event.symbol;
    match &event.message {
        Message::Depth { last, bids, asks, .. } => depth(format!("depth/{symbol}"), *last, bids, asks, false),
        Message::Snapshot { last, bids, asks } => depth(format!("depth/{symbol}"), *last, bids, asks, true),
        Message::BookTicker { update, bid, ask } => {
            let value = json!({
                "u": update, "b": bid.price.printed(), "B": bid.quantity.printed(),
                "a": ask.price.printed(), "A": ask.quantity.printed(),
            });
            split(format!("ticker/{symbol}"), vec![set(Bytes::from_static(TICKER_KEY), value.to_string())], false)
        }
        Message::Trade { id, level, at_ms, is_buyer_maker } => {
            let (price, quantity) = (level.price.printed(), level.quantity.printed());
            let value = json!({ "t": id, "p": price, "q": quantity, "T": at_ms, "m": is_buyer_maker });
            let trade = Record { priority: Priority::Critical.into(), ..set(Bytes::new(), value.to_string()) };
            split(format!("trades/{symbol}"), vec![trade], false)
        }
    }
}

fn depth(topic: String, last: u64, bids: &[Level], asks: &[Level], replace: bool) -> Vec<Publication> {
    let sides =
        [('b', bids), ('a', asks)].into_iter().flat_map(|(side, levels)| levels.iter().map(move |it| (side, it)));
    let mut records: Vec<Record> = sides
        .map(|(side, Level { price, quantity })| {
            let key = format!("{side}{}", price.shortest());
            if quantity.is_zero() { delete(key) } else { set(key, quantity.printed().to_owned()) }
        })
        .collect();
    records.push(set(Bytes::from_static(UPDATE_KEY), last.to_string()));
    let mut parts = split(topic, records, replace);
    if !replace && parts.len() > 1 {
        // Between the parts the state is that of no update.
        parts[0].records.insert(0, delete(Bytes::from_static(UPDATE_KEY)));
    }
    parts
}

/// A record that sets `key`; without a key, an event.
pub(super) fn set(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Record {
    Record { key: key.into(), value: value.into(), ..Record::default() }
}

/// A record that deletes `key`.
pub(super) fn delete(key: impl Into<Bytes>) -> Record {
    Record { key: key.into(), delete: true, ..Record::default() }
}

/// Spreads `records` over as many publications as the engine's limits ask for, in order. Only the first replaces: the others add to it.
pub(super) fn split(topic: String, records: Vec<Record>, replace: bool) -> Vec<Publication> {
    let mut parts = vec![Publication { topic, records: Vec::new(), replace }];
    let mut bytes = 0;
    for record in records {
        let size = record.encoded_len() + 4; // its field's tag and length
        let part = parts.last_mut().expect("there is always one");
        let is_full = part.records.len() == RECORDS_PER_PUBLICATION || bytes + size > BYTES_PER_PUBLICATION;
        if is_full && !part.records.is_empty() {
            let topic = part.topic.clone();
            parts.push(Publication { topic, records: vec![record], replace: false });
            bytes = size;
        } else {
            part.records.push(record);
            bytes += size;
        }
    }
    parts
}

#[cfg(test)]
pub(in crate::feed) mod tests {
    use super::*;
    use crate::feed::book::{Book, TickerIndex, Verdict};
    use crate::feed::capture::{Capture, Parser};
    use crate::feed::recorded::recorded;
    use std::collections::BTreeMap;

    /// What a subscriber holds of one topic.
    pub(in crate::feed) type State = BTreeMap<Bytes, Bytes>;

    /// The rules of the wire contract, in the plainest form: what a subscriber holds after a publication.
    pub(in crate::feed) fn apply(state: &mut State, publication: &Publication) {
        if publication.replace {
            state.clear();
        }
        for record in publication.records.iter().filter(|record| !record.key.is_empty()) {
            if record.delete {
                state.remove(&record.key);
            } else {
                state.insert(record.key.clone(), record.value.clone());
            }
        }
    }

    /// Publications of `symbol`'s depth after which a subscriber's book was right and after which it was between two updates;
    /// never wrong, and never different from the book that was made without records.
    pub(in crate::feed) fn hold_records_against_oracle(
        symbol: &str,
        index: &TickerIndex,
        events: Vec<Event>,
    ) -> (u64, u64) {
        let topic = format!("depth/{symbol}");
        let (mut recorder, mut alignment, mut model) = (Recorder::default(), Alignment::default(), Book::default());
        let (mut state, mut book, mut right, mut unknown) = (State::new(), Book::default(), 0, 0);
        for event in events.into_iter().filter(|event| &*event.symbol == symbol) {
            for update in alignment.push(event.clone()).expect("nothing is missing") {
                model.apply(&update.message);
            }
            for publication in recorder.push(event).expect("nothing is missing") {
                assert!(publication.records.len() <= 1_024 && !publication.records.is_empty());
                if publication.topic != topic {
                    continue;
                }
                apply(&mut state, &publication);
                if publication.replace {
                    book = Book::default();
                }
                for record in &publication.records {
                    if record.delete {
                        book.remove(&record.key);
                    } else {
                        book.set(&record.key, &record.value).expect("a level");
                    }
                }
                match index.judge(&book) {
                    Verdict::Right => right += 1,
                    Verdict::Unknown => unknown += 1,
                    wrong @ Verdict::Wrong { .. } => panic!("{symbol}: {wrong}"),
                }
                // Whole states are large: now and then is enough to see that they are the same books.
                if book.update() == model.update() && (right + unknown) % 256 == 4 {
                    let whole = Book::from_state(state.iter().map(|(key, value)| (&key[..], &value[..])));
                    assert_eq!(whole.as_ref(), Ok(&book));
                    assert_eq!(book, model);
                }
            }
        }
        assert_eq!(book, model);
        (right, unknown)
    }

    #[test]
    fn at_every_head_of_the_recorded_captures_a_subscribers_book_is_right() {
        let expected = [
            ("depth/binance_spot_btcusdt_20240808.gz", "BTCUSDT", (3_450, 3)),
            ("depth/binance_spot_ethusdt_20240808.gz", "ETHUSDT", (3_434, 2)),
        ];
        for (file, symbol, expected) in expected {
            let Some(path) = recorded(file) else {
                eprintln!("{file}: not here; the simulated market is published instead (feed::market)");
                continue;
            };
            eprintln!("using {}", path.display());
            let events =
                Capture::open(&path).expect("it is there").collect::<Result<Vec<_>, _>>().expect("it is whole");
            // The snapshot's 2,000 levels and `u` are three publications; at the first two the book is between updates.
            // One update of the first capture has more than 1,000 changes.
            let index = TickerIndex::of(symbol, &events);
            assert_eq!(hold_records_against_oracle(symbol, &index, events), expected, "{file}");
        }
    }

    fn published(lines: &[&str]) -> Vec<Publication> {
        let (mut parser, mut recorder) = (Parser::default(), Recorder::default());
        let events = lines.iter().map(|line| parser.parse(line).expect("a line of this test"));
        events.flat_map(|event| recorder.push(event).expect("nothing is missing")).collect()
    }

    #[test]
    fn records_are_those_of_the_table() {
        let found = published(&[
            r#"1 {"stream":"x@bookTicker","data":{"u":7,"s":"X","b":"1.50","B":"2.0","a":"3.0","A":"4.00"}}"#,
            r#"2 {"lastUpdateId":7,"bids":[["1.50","2.00"]],"asks":[["3.00","4.0"]]}"#,
            r#"3 {"stream":"x@depth@100ms","data":{"s":"X","U":8,"u":9,"b":[["1.50","0.00"]],"a":[["3.10","0.50"]]}}"#,
            r#"4 {"stream":"x@trade","data":{"s":"X","t":5,"p":"3.00","q":"0.10","T":77,"m":false}}"#,
        ]);
        let publication = |topic: &str, records, replace| Publication { topic: topic.to_owned(), records, replace };
        let ticker = r#"{"A":"4.00","B":"2.0","a":"3.0","b":"1.50","u":7}"#;
        let trade = set("", r#"{"T":77,"m":false,"p":"3.00","q":"0.10","t":5}"#);
        let expected = [
            publication("ticker/X", vec![set("bbo", ticker)], false),
            publication("depth/X", vec![set("b1.5", "2.00"), set("a3", "4.0"), set("u", "7")], true),
            publication("depth/X", vec![delete("b1.5"), set("a3.1", "0.50"), set("u", "9")], false),
            publication("trades/X", vec![Record { priority: 4, ..trade }], false),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_change_too_large_for_one_publish_has_no_update_id_before_its_end() {
        let levels: Vec<_> = (1..=2_500).map(|price| format!(r#"["{price}.00","1.0"]"#)).collect();
        let large = format!(
            r#"2 {{"stream":"x@depth","data":{{"s":"X","U":2,"u":2,"b":[{}],"a":[["9000.0","1"]]}}}}"#,
            levels.join(",")
        );
        let ticker = r#"1 {"stream":"x@bookTicker","data":{"u":1,"s":"X","b":"1","B":"2","a":"3","A":"4"}}"#;
        let found = published(&[ticker, r#"1 {"lastUpdateId":1,"bids":[],"asks":[["9000.0","1"]]}"#, &large]);
        let mut state = State::new();
        let updates: Vec<_> = found[1..]
            .iter()
            .map(|publication| {
                assert!(publication.records.len() <= 1_024);
                apply(&mut state, publication);
                state.get(UPDATE_KEY).map(|value| value.to_vec())
            })
            .collect();
        assert_eq!(updates, [Some(b"1".to_vec()), None, None, Some(b"2".to_vec())]);
        assert_eq!(state.len(), 2_502);
    }

    #[test]
    fn publications_are_split_by_bytes_too() {
        let records: Vec<_> = (0..10).map(|key| set(format!("{key}"), vec![0; 16 * 1024])).collect();
        let parts = split("x".to_owned(), records.clone(), true);
        assert!(parts.iter().all(|part| part.records.iter().map(Record::encoded_len).sum::<usize>() < 64 * 1024));
        assert_eq!(parts.iter().map(|part| part.replace).collect::<Vec<_>>(), [true, false, false, false, false]);
        assert_eq!(parts.into_iter().flat_map(|part| part.records).collect::<Vec<_>>(), records);
    }
}
