//! A market that trades by itself: order books under zero-intelligence order flow, after Smith, Farmer, Gillemot and Krishnamurthy
//! ("Statistical theory of the continuous double auction", Quantitative Finance 3, 2003). Limit orders, market orders and
//! cancellations are independent Poisson processes; limit prices are uniform over a band behind the opposite best.
//!
//! It writes the lines of a depth capture, with its delays and disorder between streams, so it goes through the same parser and is
//! judged by the same oracle: the book tickers are read off the matching engine's book, the depth updates are what changed in 100 ms.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::fmt::Write as _;

const MS: u64 = 1_000_000;
/// Depth updates come this often.
const DEPTH_INTERVAL_NS: u64 = 100 * MS;
/// When the snapshots are taken: in the middle of an interval, so that the update across it is newer than the snapshot.
const SNAPSHOT_NS: u64 = 250 * MS;
/// Levels that each side keeps: orders that would take more of it do not come.
const MIN_LEVELS: usize = 8;
/// Levels of a side in the snapshot. A band holds fewer, so the snapshot is the whole book.
const SNAPSHOT_LEVELS: usize = 1_000;
/// Ticks behind the opposite best in which limit orders are placed.
const BAND_TICKS: u64 = 400;
/// Limit orders a second, both sides together.
const LIMIT_RATE: f64 = 260.0;
/// Market orders a second, both sides together.
const MARKET_RATE: f64 = 12.0;
/// Cancellations a second, for each resting order.
const CANCEL_RATE: f64 = 0.25;
/// Decimals of a printed number.
const PRINTED_UNITS: u64 = 100_000_000;

/// What is traded, in units of 10^-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instrument {
    /// Its symbol, letters and digits, such as `BTCUSDT`.
    pub symbol: String,
    /// Step of its prices.
    pub tick: u64,
    /// Step of its quantities.
    pub lot: u64,
    /// Where its price starts, in ticks.
    pub start_ticks: u64,
    /// Mean size of an order, in lots.
    pub order_lots: u64,
}

impl Instrument {
    /// Four instruments with the ticks, lots and prices of August 2024.
    #[must_use]
    pub fn examples() -> Vec<Self> {
        let instrument = |symbol: &str, tick, lot, start_ticks, order_lots| Self {
            symbol: symbol.to_owned(),
            tick,
            lot,
            start_ticks,
            order_lots,
        };
        vec![
            instrument("BTCUSDT", 1_000_000, 1_000, 6_183_763, 15_000),
            instrument("ETHUSDT", 1_000_000, 10_000, 268_380, 20_000),
            instrument("SOLUSDT", 1_000_000, 100_000, 15_540, 12_000),
            instrument("DOGEUSDT", 1_000, 100_000_000, 10_230, 9_000),
        ]
    }
}

/// The market: an endless iterator of `(receive time in ns, line)`, the same for the same seed.
#[derive(Debug)]
pub struct Market {
    venues: Vec<Venue>,
    random: Random,
    start_ns: u64,
    /// Lines on their way, by arrival; the number keeps equal times in order.
    in_flight: BinaryHeap<Reverse<(u64, u64, String)>>,
    sent: u64,
}

impl Market {
    /// A market of `instruments` that opens at `start_ns` (Unix time).
    ///
    /// # Panics
    ///
    /// There are no instruments, or one starts within `BAND_TICKS` of nothing.
    #[must_use]
    pub fn new(seed: u64, start_ns: u64, instruments: Vec<Instrument>) -> Self {
        assert!(!instruments.is_empty(), "a market trades something");
        let mut random = Random(seed);
        let venues = instruments.into_iter().map(|instrument| Venue::open(instrument, &mut random)).collect();
        Self { venues, random, start_ns, in_flight: BinaryHeap::new(), sent: 0 }
    }

    /// Lets the venue that is next do what is next.
    fn step(&mut self) {
        let next = (0..self.venues.len()).min_by_key(|&index| self.venues[index].next_ns());
        let venue = &mut self.venues[next.expect("a market trades something")];
        for (at_ns, json) in venue.step(self.start_ns, &mut self.random) {
            self.sent += 1;
            self.in_flight.push(Reverse((at_ns, self.sent, json)));
        }
    }
}

impl Iterator for Market {
    type Item = (u64, String);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let now_ns = self.venues.iter().map(Venue::next_ns).min().expect("a market trades something");
            // What is sent from now on arrives later than what is due by now.
            if self.in_flight.peek().is_some_and(|Reverse((at_ns, ..))| *at_ns <= now_ns) {
                let Reverse((at_ns, _, json)) = self.in_flight.pop().expect("it was just there");
                let at_ns = self.start_ns + at_ns;
                return Some((at_ns, format!("{at_ns} {json}")));
            }
            self.step();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Bid,
    Ask,
}

/// Streams have their own delays; within one, nothing is overtaken.
#[derive(Clone, Copy, Debug)]
enum Stream {
    Depth,
    Ticker,
    Trade,
    Snapshot,
}

/// One instrument's matching engine and its streams. Times are since the market's opening.
#[derive(Debug)]
struct Venue {
    instrument: Instrument,
    /// Price in ticks to the sizes of the resting orders in lots, first come first served. No level is empty.
    sides: [BTreeMap<u64, VecDeque<u64>>; 2],
    orders: usize,
    update: u64,
    trade: u64,
    /// What depth updates have told last, and what changed since.
    told: u64,
    changed: BTreeSet<(Side, u64)>,
    top: [(u64, u64); 2],
    order_ns: u64,
    depth_ns: u64,
    snapshot_ns: Option<u64>,
    /// Latest arrival on each stream.
    arrivals: [u64; 4],
}

impl Venue {
    fn open(instrument: Instrument, random: &mut Random) -> Self {
        assert!(instrument.start_ticks > BAND_TICKS, "prices stay positive");
        let update = 1_000_000_000 + random.below(1_000_000_000);
        let mut venue = Self {
            sides: [BTreeMap::new(), BTreeMap::new()],
            orders: 0,
            update,
            trade: random.below(1_000_000_000),
            told: update,
            changed: BTreeSet::new(),
            top: [(0, 0); 2],
            order_ns: 0,
            depth_ns: DEPTH_INTERVAL_NS + random.below(DEPTH_INTERVAL_NS),
            snapshot_ns: Some(SNAPSHOT_NS + random.below(DEPTH_INTERVAL_NS)),
            arrivals: [0; 4],
            instrument,
        };
        // About as many orders as will be there in the long run.
        for distance in 1..=BAND_TICKS {
            for (side, price) in [
                (Side::Bid, venue.instrument.start_ticks - distance),
                (Side::Ask, venue.instrument.start_ticks + distance),
            ] {
                if distance <= MIN_LEVELS as u64 || random.unit() < 0.7 {
                    let lots = venue.size(random);
                    venue.rest(side, price, lots);
                }
            }
        }
        venue.changed.clear();
        venue
    }

    fn next_ns(&self) -> u64 {
        self.order_ns.min(self.depth_ns).min(self.snapshot_ns.unwrap_or(u64::MAX))
    }

    /// Does what is next and gives the messages that this sends, with their times of arrival.
    fn step(&mut self, start_ns: u64, random: &mut Random) -> Vec<(u64, String)> {
        let now_ns = self.next_ns();
        let mut sent = Vec::new();
        if self.snapshot_ns == Some(now_ns) {
            self.snapshot_ns = None;
            sent.push((self.arrival(Stream::Snapshot, now_ns, random), self.snapshot()));
        } else if self.depth_ns == now_ns {
            self.depth_ns += DEPTH_INTERVAL_NS;
            if !self.changed.is_empty() {
                sent.push((self.arrival(Stream::Depth, now_ns, random), self.depth(start_ns + now_ns)));
            }
        } else {
            for (price, lots, is_buyer_maker) in self.order(random) {
                let json = self.trade(start_ns + now_ns, price, lots, is_buyer_maker);
                sent.push((self.arrival(Stream::Trade, now_ns, random), json));
            }
            let top = [Side::Bid, Side::Ask].map(|side| self.best(side));
            if top != self.top {
                self.top = top;
                sent.push((self.arrival(Stream::Ticker, now_ns, random), self.ticker()));
            }
            let rate = LIMIT_RATE + MARKET_RATE + CANCEL_RATE * self.orders as f64;
            self.order_ns += 1 + (-random.unit().ln() / rate * 1e9) as u64;
        }
        sent
    }

    /// One limit order, market order or cancellation; the trades it makes as price, lots and whether the buyer's order rested.
    fn order(&mut self, random: &mut Random) -> Vec<(u64, u64, bool)> {
        let side = if random.below(2) == 0 { Side::Bid } else { Side::Ask };
        let cancels = CANCEL_RATE * self.orders as f64;
        let kind = random.unit() * (LIMIT_RATE + MARKET_RATE + cancels);
        if kind < LIMIT_RATE {
            let distance = 1 + random.below(BAND_TICKS);
            let (bid, ask) = (self.best(Side::Bid).0, self.best(Side::Ask).0);
            let price = match side {
                Side::Bid => ask.saturating_sub(distance),
                Side::Ask => bid + distance,
            };
            if price > 0 {
                let lots = self.size(random);
                self.rest(side, price, lots);
            }
            Vec::new()
        } else if kind < LIMIT_RATE + MARKET_RATE {
            let lots = self.size(random);
            self.take(side, lots)
        } else {
            self.cancel(random.below(self.orders as u64));
            Vec::new()
        }
    }

    fn rest(&mut self, side: Side, price: u64, lots: u64) {
        self.sides[side as usize].entry(price).or_default().push_back(lots);
        self.orders += 1;
        self.touch(side, price);
    }

    /// Takes `lots` from the best of `side`, but leaves [`MIN_LEVELS`].
    fn take(&mut self, side: Side, mut lots: u64) -> Vec<(u64, u64, bool)> {
        let mut trades = Vec::new();
        while lots > 0 && self.sides[side as usize].len() > MIN_LEVELS {
            let (price, _) = self.best(side);
            let level = self.sides[side as usize].get_mut(&price).expect("the best level is there");
            let first = level.front_mut().expect("no level is empty");
            let filled = lots.min(*first);
            (*first, lots) = (*first - filled, lots - filled);
            if *first == 0 {
                level.pop_front();
                self.orders -= 1;
            }
            if level.is_empty() {
                self.sides[side as usize].remove(&price);
            }
            self.touch(side, price);
            trades.push((price, filled, side == Side::Bid));
        }
        trades
    }

    /// Withdraws the order with this number, counted from the lowest bid up; each is as likely as any other.
    fn cancel(&mut self, mut number: u64) {
        for side in [Side::Bid, Side::Ask] {
            let levels = &mut self.sides[side as usize];
            let is_thin = levels.len() <= MIN_LEVELS;
            for (&price, orders) in levels.iter_mut() {
                let count = orders.len() as u64;
                if number >= count {
                    number -= count;
                    continue;
                }
                if count == 1 && is_thin {
                    return;
                }
                orders.remove(usize::try_from(number).expect("below a length"));
                if count == 1 {
                    levels.remove(&price);
                }
                self.orders -= 1;
                self.touch(side, price);
                return;
            }
        }
    }

    fn touch(&mut self, side: Side, price: u64) {
        self.update += 1;
        self.changed.insert((side, price));
    }

    /// Price in ticks and lots of a side's best level.
    fn best(&self, side: Side) -> (u64, u64) {
        let levels = &self.sides[side as usize];
        let best = if side == Side::Bid { levels.last_key_value() } else { levels.first_key_value() };
        best.map(|(&price, orders)| (price, orders.iter().sum())).expect("each side keeps some levels")
    }

    fn size(&self, random: &mut Random) -> u64 {
        1 + (-random.unit().ln() * self.instrument.order_lots as f64) as u64
    }

    /// Deliveries take some milliseconds, depth longer than the rest, a snapshot as long as a request.
    fn arrival(&mut self, stream: Stream, now_ns: u64, random: &mut Random) -> u64 {
        let (least, most) = match stream {
            Stream::Ticker | Stream::Trade => (1, 6),
            Stream::Depth => (2, 14),
            Stream::Snapshot => (60, 160),
        };
        let latest = &mut self.arrivals[stream as usize];
        *latest = (now_ns + least * MS + random.below((most - least) * MS)).max(*latest + 1);
        *latest
    }

    fn price(&self, ticks: u64) -> String {
        print(ticks * self.instrument.tick)
    }

    fn quantity(&self, lots: u64) -> String {
        print(lots * self.instrument.lot)
    }

    fn levels(&self, levels: impl Iterator<Item = (u64, u64)>) -> String {
        let mut json = String::new();
        for (price, lots) in levels {
            let comma = if json.is_empty() { "" } else { "," };
            let written = write!(json, r#"{comma}["{}","{}"]"#, self.price(price), self.quantity(lots));
            written.expect("a string takes all");
        }
        json
    }

    fn depth(&mut self, unix_ns: u64) -> String {
        let changed = std::mem::take(&mut self.changed);
        let [bids, asks] = [Side::Bid, Side::Ask].map(|side| {
            let lots = |price| self.sides[side as usize].get(&price).map_or(0, |orders| orders.iter().sum());
            self.levels(changed.iter().filter(|(of, _)| *of == side).map(|&(_, price)| (price, lots(price))))
        });
        let (first, last) = (self.told + 1, self.update);
        self.told = last;
        let (symbol, stream, at_ms) = (&self.instrument.symbol, self.stream("depth@100ms"), unix_ns / MS);
        format!(
            r#"{{"stream":"{stream}","data":{{"e":"depthUpdate","E":{at_ms},"s":"{symbol}","U":{first},"u":{last},"b":[{bids}],"a":[{asks}]}}}}"#
        )
    }

    fn ticker(&self) -> String {
        let [(bid, bid_lots), (ask, ask_lots)] = self.top;
        let (bid, ask) = (self.price(bid), self.price(ask));
        let (bid_quantity, ask_quantity) = (self.quantity(bid_lots), self.quantity(ask_lots));
        let (symbol, stream, update) = (&self.instrument.symbol, self.stream("bookTicker"), self.update);
        format!(
            r#"{{"stream":"{stream}","data":{{"u":{update},"s":"{symbol}","b":"{bid}","B":"{bid_quantity}","a":"{ask}","A":"{ask_quantity}"}}}}"#
        )
    }

    fn trade(&mut self, unix_ns: u64, price: u64, lots: u64, is_buyer_maker: bool) -> String {
        self.trade += 1;
        let (price, quantity, id, at_ms) = (self.price(price), self.quantity(lots), self.trade, unix_ns / MS);
        let (symbol, stream) = (&self.instrument.symbol, self.stream("trade"));
        format!(
            r#"{{"stream":"{stream}","data":{{"e":"trade","E":{at_ms},"s":"{symbol}","t":{id},"p":"{price}","q":"{quantity}","T":{at_ms},"m":{is_buyer_maker},"M":true}}}}"#
        )
    }

    fn snapshot(&self) -> String {
        let levels = |side: Side| self.sides[side as usize].iter().map(|(&price, orders)| (price, orders.iter().sum()));
        let bids = self.levels(levels(Side::Bid).rev().take(SNAPSHOT_LEVELS));
        let asks = self.levels(levels(Side::Ask).take(SNAPSHOT_LEVELS));
        let (symbol, update) = (&self.instrument.symbol, self.update);
        format!(r#"{{"lastUpdateId":{update},"s":"{symbol}","bids":[{bids}],"asks":[{asks}]}}"#)
    }

    fn stream(&self, kind: &str) -> String {
        format!("{}@{kind}", self.instrument.symbol.to_ascii_lowercase())
    }
}

fn print(units: u64) -> String {
    format!("{}.{:08}", units / PRINTED_UNITS, units % PRINTED_UNITS)
}

/// SplitMix64 (Steele, Lea and Flood 2014), written out so that a seed gives the same market in every version.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is small beside 2^64, so the remainder's bias does not matter.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Above 0 and at most 1.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::book::{Book, TickerIndex, tests::hold_against_oracle};
    use crate::feed::capture::{Event, Message, Parser};
    use crate::feed::records::tests::hold_records_against_oracle;

    fn lines(seed: u64, until_ns: u64) -> Vec<(u64, String)> {
        let market = Market::new(seed, 1_723_161_253_000_000_000, Instrument::examples());
        market.take_while(|(at_ns, _)| *at_ns < 1_723_161_253_000_000_000 + until_ns).collect()
    }

    fn events(seed: u64, until_ns: u64) -> Vec<Event> {
        let mut parser = Parser::default();
        let lines = lines(seed, until_ns);
        lines.iter().map(|(_, line)| parser.parse(line).expect("it writes the capture's format")).collect()
    }

    #[test]
    fn every_update_of_the_simulated_market_matches_the_oracle() {
        for seed in 0..4 {
            let events = events(seed, 10_000 * MS);
            // Tickers may arrive after the update that they judge: the last updates are not judged.
            let end_ns = events.last().expect("it is not empty").at_ns - 100 * MS;
            for Instrument { symbol, .. } in &Instrument::examples() {
                let index = TickerIndex::of(symbol, &events);
                let events: Vec<_> = events.iter().filter(|event| event.at_ns < end_ns).cloned().collect();
                let (applied, skipped) = hold_against_oracle(symbol, &index, events.clone());
                assert!(applied > 90 && (1..=3).contains(&skipped), "seed {seed}, {symbol}: {applied} {skipped}");
                let (right, _) = hold_records_against_oracle(symbol, &index, events);
                assert_eq!(right, applied + 1, "seed {seed}, {symbol}");
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_market_and_another_one_another() {
        assert_eq!(lines(7, 1_000 * MS), lines(7, 1_000 * MS));
        assert_ne!(lines(7, 1_000 * MS), lines(8, 1_000 * MS));
    }

    #[test]
    fn it_looks_like_a_recorded_market() {
        let (seed, seconds) = (3, 20);
        let events = events(seed, seconds * 1_000 * MS);
        assert!(events.is_sorted_by_key(|event| event.at_ns));
        for instrument in Instrument::examples() {
            let mut counts = [0; 4];
            let (mut book, mut last_update, mut crosses_snapshot) = (Book::default(), 0, false);
            for event in events.iter().filter(|event| *event.symbol == *instrument.symbol) {
                book.apply(&event.message);
                match &event.message {
                    Message::Depth { first, last, .. } => {
                        counts[0] += 1;
                        assert!(last_update == 0 || *first == last_update + 1, "update ids have no gap");
                        last_update = *last;
                    }
                    Message::BookTicker { .. } => counts[1] += 1,
                    Message::Trade { .. } => counts[2] += 1,
                    Message::Snapshot { .. } => {
                        counts[3] += 1;
                        crosses_snapshot = counts[0] > 0;
                    }
                }
            }
            let [depth, tickers, trades, snapshots] = counts;
            assert!((seconds * 9..=seconds * 10).contains(&depth), "{counts:?}");
            assert!(tickers > seconds * 5 && trades > seconds * 5, "{counts:?}");
            assert!(snapshots == 1 && crosses_snapshot, "updates come in before the snapshot");
            let (bids, asks) = (book.bids().count(), book.asks().count());
            assert!((100..SNAPSHOT_LEVELS).contains(&bids) && (100..SNAPSHOT_LEVELS).contains(&asks), "{bids} {asks}");
        }
    }
}
