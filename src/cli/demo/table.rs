//! What the demo prints: a greeting, a line a second, and the ledger at the end.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::watcher::Totals;
use crate::client::Counts;
use crate::config::Config;
use crate::shard::Report;

/// Lines between two headers.
const HEADER_EVERY: u64 = 20;

/// Everything that is shown, at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    /// Records that the market published.
    pub(super) published: u64,
    pub(super) report: Report,
    pub(super) healthy: Vec<Totals>,
    /// The greatest age of any of their books since the last sample.
    pub(super) healthy_age: Duration,
    pub(super) slow: Totals,
    pub(super) slow_age: Duration,
    /// Bytes that came out of the slow link.
    pub(super) link_bytes: u64,
}

impl Sample {
    fn all_healthy(&self) -> Totals {
        self.healthy.iter().fold(Totals::default(), |sum, totals| sum.plus(*totals))
    }

    fn patches(&self) -> u64 {
        self.report.counters.classes.iter().map(|class| class.patches).sum()
    }
}

/// Makes lines of samples.
#[derive(Debug)]
pub(super) struct Table {
    /// Bytes a second.
    link: u32,
    last: Option<Sample>,
    begun: Option<Instant>,
    lines: u64,
    /// The greatest ages after the first second: at its beginning a subscriber has nothing.
    oldest: [Duration; 2],
}

/// What runs, and what to type next.
pub(super) fn greeting(name: &str, engine: SocketAddr, admin: SocketAddr, link: u32) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "tidegate".to_owned());
    let is_default = engine == Config::default().listen;
    let url = if is_default { String::new() } else { format!(" --url ws://{engine}") };
    format!(
        "\
Tidegate is running on ws://{engine}, and this is published to it: {name}.
Four subscribers get everything, and one gets it over a link of {} kB/s, which is too slow for it. They hold their books
against the market's own best prices. Ages are of the newest record of the book that is behind most.

Type in another terminal (Ctrl-C ends this one):
  {program} sub 'depth/**'{url}
  {program} sub depth/BTCUSDT --state{url}
  curl http://{admin}/metrics
",
        kilo(u64::from(link)),
    )
}

impl Table {
    pub(super) fn new(link: u32) -> Self {
        Self { link, last: None, begun: None, lines: 0, oldest: [Duration::ZERO; 2] }
    }

    /// Rates are counted from here.
    pub(super) fn begin(&mut self, sample: Sample) {
        self.begun = Some(sample.at);
        self.last = Some(sample);
    }

    /// The line of what happened since the last sample, with a header now and then.
    pub(super) fn line(&mut self, sample: Sample) -> String {
        let last = self.last.replace(sample.clone()).unwrap_or_else(|| sample.clone());
        let seconds = sample.at.duration_since(last.at).as_secs_f64().max(0.001);
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds).round() as u64;
        let (healthy, healthy_before) = (sample.all_healthy(), last.all_healthy());
        let each = rate(healthy.bytes, healthy_before.bytes) / sample.healthy.len().max(1) as u64;
        let mut text = String::new();
        if self.lines.is_multiple_of(HEADER_EVERY) {
            text.push_str(&self.header(sample.healthy.len()));
        }
        self.lines += 1;
        if self.lines > 1 {
            let [healthy_oldest, slow_oldest] = &mut self.oldest;
            *healthy_oldest = sample.healthy_age.max(*healthy_oldest);
            *slow_oldest = sample.slow_age.max(*slow_oldest);
        }
        writeln!(
            text,
            "{:>5} {:>9} {:>9} {:>7} {:>7} | {:>7} {:>5} {:>6} {:>6} | {:>6} {:>9} {:>7} {:>6}",
            format!("{}s", self.begun.map_or(0.0, |begun| (sample.at - begun).as_secs_f64().round())),
            grouped(rate(sample.published, last.published)),
            grouped(rate(sample.patches(), last.patches())),
            kilo(rate(sample.report.counters.bytes_sent, last.report.counters.bytes_sent)),
            sample.report.gauges.sessions,
            rate(healthy.books_right + sample.slow.books_right, healthy_before.books_right + last.slow.books_right),
            healthy.books_wrong + sample.slow.books_wrong,
            kilo(each),
            sample.healthy_age.as_millis(),
            kilo(rate(sample.link_bytes, last.link_bytes)),
            grouped(sample.slow.counts.conflated),
            grouped(sample.slow.counts.expired),
            sample.slow_age.as_millis(),
        )
        .expect("a String can always be written to");
        text
    }

    fn header(&self, healthy: usize) -> String {
        let groups = [
            format!("{:<41}", "      the engine, per second"),
            format!("{:<27}", format!("{healthy} healthy subscribers")),
            format!("one behind {} kB/s, so far", kilo(u64::from(self.link))),
        ];
        let columns = format!(
            "{:>5} {:>9} {:>9} {:>7} {:>7} | {:>7} {:>5} {:>6} {:>6} | {:>6} {:>9} {:>7} {:>6}",
            "",
            "records",
            "patches",
            "kB",
            "clients",
            "books",
            "wrong",
            "kB/s",
            "age",
            "kB/s",
            "conflated",
            "expired",
            "age",
        );
        let units = format!(
            "{:>5} {:>9} {:>9} {:>7} {:>7} | {:>7} {:>5} {:>6} {:>6} | {:>6} {:>9} {:>7} {:>6}",
            "", "in", "out", "out", "", "right/s", "", "each", "ms", "taken", "records", "events", "ms",
        );
        format!("\n{}\n{columns}\n{units}\n", groups.join("| "))
    }

    /// What became of every record, from both ends.
    pub(super) fn summary(&self, end: &Sample) -> String {
        let healthy = end.all_healthy();
        let all = healthy.plus(end.slow);
        let subscribers = end.healthy.len() as u64 + 1;
        let counters = &end.report.counters;
        let published: u64 = counters.classes.iter().map(|class| class.published).sum();
        let engine = counters.classes.iter().fold(Totals::default(), |sum, class| {
            let ledger = class.ledger;
            let counts = Counts {
                records: ledger.delivered,
                conflated: ledger.conflated,
                filtered: ledger.filtered,
                expired: ledger.expired,
                overrun: ledger.overrun,
                lost: ledger.lost,
            };
            sum.plus(Totals { due: ledger.due, counts, ..Totals::default() })
        });
        let mut text = format!(
            "\nWhat became of {} records for each of {subscribers} subscribers:\n\n{:<24} {:>11} = {:>11} + {:>10} + {:>8} + {:>8} + {:>7} + {:>5}\n",
            grouped(published),
            "",
            "due",
            "delivered",
            "conflated",
            "filtered",
            "expired",
            "overrun",
            "lost",
        );
        for (name, totals) in [
            (format!("{} healthy subscribers", end.healthy.len()), healthy),
            ("the one on the slow link".to_owned(), end.slow),
            ("together".to_owned(), all),
            ("as the engine counted".to_owned(), engine),
        ] {
            let Counts { records, conflated, filtered, expired, overrun, lost } = totals.counts;
            let numbers = [totals.due, records, conflated, filtered, expired, overrun, lost].map(grouped);
            let [due, records, conflated, filtered, expired, overrun, lost] = numbers;
            writeln!(
                text,
                "{name:<24} {due:>11} = {records:>11} + {conflated:>10} + {filtered:>8} + {expired:>8} + {overrun:>7} + {lost:>5}"
            )
            .expect("a String can always be written to");
        }
        let is_whole = all.due == published * subscribers;
        let verdict = match (is_whole, engine.due == all.due && engine.counts == all.counts) {
            (true, true) => "Every record is accounted for, and both ends agree.",
            (true, false) => "Every record is accounted for; the engine had other subscribers, too.",
            (false, _) => "Not every subscriber was brought to the end before this one came.",
        };
        let [healthy_oldest, slow_oldest] = self.oldest.map(|age| age.as_millis());
        write!(
            text,
            "\n{} × {subscribers} = {}. {verdict}\n\
             Books: {} right, {} wrong. Checksums: {} right, {} wrong.\n\
             Oldest book after the first second: {healthy_oldest} ms, on the slow link {slow_oldest} ms.\n",
            grouped(published),
            grouped(published * subscribers),
            grouped(all.books_right),
            grouped(all.books_wrong),
            grouped(all.verified),
            grouped(all.mismatches),
        )
        .expect("a String can always be written to");
        text
    }
}

/// Thousands of bytes.
fn kilo(bytes: u64) -> String {
    if bytes < 10_000_000 && !bytes.is_multiple_of(1_000) {
        format!("{:.1}", bytes as f64 / 1e3)
    } else {
        grouped(bytes / 1_000)
    }
}

/// With commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
