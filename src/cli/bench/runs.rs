//! Several runs of a scenario: each one's ledger is looked at, the medians of their figures are printed and recorded.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::failed;
use super::ledger::Balance;
use super::options::{CommonArgs, Cpus};
use crate::cli::{CliError, print};

/// What came of one run; displayed as a table.
pub(super) trait Outcome: Serialize + DeserializeOwned + Display {
    /// Each ledger of the run: it fails if one does not close.
    fn ledgers(&self) -> Vec<&Balance>;

    /// The figures in one line, for `--record`.
    fn figures(&self) -> String;
}

/// Makes the runs that were asked for, each with so many connections at once, and prints the medians of what came.
///
/// # Errors
/// If the options are wrong, a run fails, or a ledger does not close to the last record.
pub(super) fn repeat<R: Outcome>(
    options: &CommonArgs,
    connections: u64,
    once: impl Fn(Cpus) -> Result<R, CliError>,
) -> Result<(), CliError> {
    let cpus = options.check(connections)?;
    let mut results = Vec::new();
    let mut is_closed = true;
    for run in 0..options.runs {
        let result = once(cpus)?;
        is_closed &= result.ledgers().into_iter().all(Balance::closes);
        if options.runs > 1 && !options.json {
            print(&format!("run {} of {}: {}\n", run + 1, options.runs, result.figures()))?;
        }
        results.push(serde_json::to_value(&result).map_err(failed)?);
        if !is_closed {
            // Medians would hide it.
            results = results.split_off(results.len() - 1);
            break;
        }
    }
    let middle = median(&results);
    let result: R = serde_json::from_value(middle.clone()).map_err(failed)?;
    if options.json {
        let mut object = match middle {
            Value::Object(object) => object,
            other => Map::from_iter([("result".to_owned(), other)]),
        };
        object.insert("runs".to_owned(), Value::from(results.len()));
        object.insert("machine".to_owned(), machine().into());
        object.insert("kernel".to_owned(), kernel().into());
        if results.len() > 1 {
            object.insert("of_runs".to_owned(), Value::Array(results));
        }
        print(&format!("{}\n", Value::Object(object)))?;
    } else {
        let of = if results.len() > 1 { format!("medians of {} runs of ", results.len()) } else { String::new() };
        print(&format!("{of}{result}\n"))?;
    }
    if !is_closed {
        return Err(failed("the ledger does not close: records are unaccounted for"));
    }
    match &options.record {
        Some(file) => record(file, options.runs, &result.figures())
            .map_err(|error| failed(format!("{}: {error}", file.display()))),
        None => Ok(()),
    }
}

/// The median of each number, by itself, and nothing where one of the runs has none: what holds does if it did in each. What else
/// there is is the last run's, and so are ledgers, which close as they are.
fn median(runs: &[Value]) -> Value {
    let last = runs.last().cloned().unwrap_or_default();
    if runs.iter().any(Value::is_null) {
        return Value::Null;
    }
    match last {
        Value::Bool(_) => Value::Bool(runs.iter().all(|run| run.as_bool() == Some(true))),
        Value::Object(fields) if !fields.contains_key("published") => {
            let of = |name: &String| median(&runs.iter().filter_map(|run| run.get(name).cloned()).collect::<Vec<_>>());
            Value::Object(fields.keys().map(|name| (name.clone(), of(name))).collect())
        }
        Value::Number(_) => {
            let mut numbers: Vec<_> = runs.iter().filter(|run| run.is_number()).cloned().collect();
            numbers.sort_by(|a, b| a.as_f64().unwrap_or(0.0).total_cmp(&b.as_f64().unwrap_or(0.0)));
            numbers.swap_remove((numbers.len() - 1) / 2)
        }
        other => other,
    }
}

/// Appends a row of a Markdown table; begins the table where the file is new.
fn record(file: &Path, runs: u32, figures: &str) -> std::io::Result<()> {
    let mut out = OpenOptions::new().create(true).append(true).open(file)?;
    if out.metadata()?.len() == 0 {
        writeln!(out, "| date | machine | kernel | command | runs | figures (medians) |\n|---|---|---|---|---|---|")?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let command: Vec<_> = std::env::args().skip(1).collect();
    let command = command.join(" ").replace('|', "\\|");
    writeln!(
        out,
        "| {} | {} | {} | `tidegate {command}` | {runs} | {} |",
        date(now),
        machine().replace('|', "\\|"),
        kernel(),
        figures.replace('|', "\\|")
    )
}

fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of = |name: &str| text.lines().filter(|line| line.starts_with(name)).collect::<Vec<_>>();
    let model = of("model name").first().and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()));
    format!("{}, {} CPUs", model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()), of("processor").len())
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The day of a Unix time, in the Gregorian calendar, UTC.
fn date(unix_seconds: u64) -> String {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut days, mut year, mut month) = (unix_seconds / 86_400, 1970, 1);
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    for length in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_number_has_its_own_median() {
        let run = |a: f64, b: u64| json!({"name": "x", "a": a, "in": {"b": b}, "ledger": {"published": b}});
        let middle = median(&[run(1.5, 30), run(9.0, 10), run(2.5, 20)]);
        assert_eq!(middle, json!({"name": "x", "a": 2.5, "in": {"b": 20}, "ledger": {"published": 20}}));
        let middle = median(&[run(1.0, 1), run(2.0, 2)]);
        assert_eq!(middle["a"], json!(1.0), "of two, one that was measured");
    }

    #[test]
    fn medians_count_if_each_run_does_and_are_none_where_one_has_none() {
        let run = |counts: Option<bool>, latency: Option<f64>| json!({"counts": counts, "latency": latency.map(|p50_ms| json!({"p50_ms": p50_ms}))});
        let middle = median(&[run(Some(false), Some(1.0)), run(Some(true), Some(2.0)), run(Some(true), Some(3.0))]);
        assert_eq!(middle, json!({"counts": false, "latency": {"p50_ms": 2.0}}));
        assert_eq!(
            median(&[run(Some(true), None), run(Some(true), Some(2.0))]),
            json!({"counts": true, "latency": null})
        );
        assert_eq!(median(&[run(None, None)]), json!({"counts": null, "latency": null}));
    }

    #[test]
    fn days_are_counted_over_leap_years() {
        for (seconds, day) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_764_028_800, "2025-11-25"),
            (1_798_675_200, "2026-12-31"),
            (1_798_761_600, "2027-01-01"),
        ] {
            assert_eq!(date(seconds), day);
        }
    }
}
