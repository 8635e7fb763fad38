//! `tidegate pub`: publishes records, from arguments or from lines of JSON.

use std::collections::VecDeque;
use std::io::Write;

use serde::Deserialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

use super::failure::{Failure, FailureKind};
use super::text::shown;
use crate::client::names::check_name;
use crate::client::{Acknowledgement, Client, ClientError, Options, Priority, Published, Record};

/// Longest line of input: a value of 16 KiB whose every byte is escaped, and room around it.
const LINE_BYTES: u64 = 128 * 1024;
/// Publishes under way while more lines are read.
const OUTSTANDING: usize = 64;

/// Publish records, and print the offset of the last one as it is acknowledged.
///
/// KEY=VALUE and --delete change keys; --event is a record without a key. They are applied together, deletes last.
///
/// With `-`, each line of standard input is one record:
/// {"key":"BTC","value":"64000","priority":"high","window_ms":100}, {"key":"BTC","delete":true}, {"value":"an event"}.
/// Offsets are printed one per line.
#[derive(Debug, clap::Args)]
pub struct PubArgs {
    /// The topic
    pub topic: String,
    /// KEY=VALUE, or - for lines of JSON on standard input
    #[arg(value_name = "KEY=VALUE", required_unless_present_any = ["event", "delete"])]
    pub records: Vec<String>,
    /// An event, which has no key
    #[arg(long, value_name = "VALUE")]
    pub event: Vec<String>,
    /// Delete a key
    #[arg(long, value_name = "KEY")]
    pub delete: Vec<String>,
    /// Priority of the records (default: the topic's)
    #[arg(long, value_name = "P")]
    pub priority: Option<PriorityArg>,
    /// Relevance window of the records (default: the topic's)
    #[arg(long, value_name = "N")]
    pub window_ms: Option<u32>,
    /// The server
    #[arg(long, env = "TIDEGATE_URL", default_value = "ws://127.0.0.1:8433")]
    pub url: String,
    /// Capability token
    #[arg(long, env = "TIDEGATE_TOKEN", hide_env_values = true, default_value = "")]
    pub token: String,
}

/// A priority by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PriorityArg {
    /// Shed first.
    Low,
    /// The usual one.
    Normal,
    /// Shed only past its own window.
    High,
    /// Never shed.
    Critical,
}

impl From<PriorityArg> for Priority {
    fn from(priority: PriorityArg) -> Self {
        match priority {
            PriorityArg::Low => Self::Low,
            PriorityArg::Normal => Self::Normal,
            PriorityArg::High => Self::High,
            PriorityArg::Critical => Self::Critical,
        }
    }
}

/// Runs the command: reads `input` if it is asked to, prints offsets to `out`.
///
/// # Errors
///
/// What the client says; with [`FailureKind::BadInput`], the line that is wrong. Lines before it were published.
pub async fn run(
    args: PubArgs,
    input: impl AsyncBufRead + Unpin + Send,
    out: &mut (impl Write + Send),
) -> Result<(), Failure> {
    let reads_input = args.records.iter().any(|argument| argument == "-");
    let records = if reads_input {
        if args.records.len() > 1 || !args.event.is_empty() || !args.delete.is_empty() {
            return Err(Failure::new(FailureKind::BadArgument, "- stands alone: the records come from standard input"));
        }
        Vec::new()
    } else {
        records_of(&args)?
    };
    // Before a server is looked for: what is wrong here is wrong everywhere.
    check_name(&args.topic)?;
    let client = Client::connect(Options {
        token: args.token.clone(),
        agent: concat!("tidegate-pub/", env!("CARGO_PKG_VERSION")).into(),
        publishes_outstanding: OUTSTANDING,
        ..Options::new(&args.url)
    })
    .await?;
    let publishing = async {
        if reads_input {
            publish_lines(&client, &args, input, out).await
        } else {
            let published = client.publish(&args.topic, records).await?;
            print_offset(published, out)
        }
    };
    let result = tokio::select! {
        result = publishing => result,
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::new(FailureKind::Interrupted, "interrupted; what was not acknowledged may or may not be applied"))
        }
    };
    client.close().await;
    result
}

fn records_of(args: &PubArgs) -> Result<Vec<Record>, Failure> {
    let mut records = Vec::new();
    for argument in &args.records {
        match argument.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                records.push(Record::state(key.to_owned(), value.to_owned()));
            }
            _ => {
                let sentence = format!("{argument:?} is not KEY=VALUE; an event is given by --event");
                return Err(Failure::new(FailureKind::BadArgument, sentence));
            }
        }
    }
    records.extend(args.event.iter().map(|value| Record::event(value.clone())));
    records.extend(args.delete.iter().map(|key| Record::delete(key.clone())));
    Ok(records.into_iter().map(|record| decorated(record, args.priority, args.window_ms)).collect())
}

fn decorated(record: Record, priority: Option<PriorityArg>, window_ms: Option<u32>) -> Record {
    let record = priority.map_or(record.clone(), |priority| record.with_priority(priority.into()));
    match window_ms {
        Some(window_ms) => record.with_window_ms(window_ms),
        None => record,
    }
}

/// One line of the input.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Line {
    key: Option<String>,
    value: Option<String>,
    delete: bool,
    priority: Option<PriorityArg>,
    window_ms: Option<u32>,
}

impl Line {
    fn record(self, args: &PubArgs) -> Result<Record, String> {
        let record = match (self.key, self.value, self.delete) {
            (Some(key), _, _) if key.is_empty() => return Err("key is empty".into()),
            (Some(key), Some(value), false) => Record::state(key, value),
            (Some(key), None, true) => Record::delete(key),
            (None, Some(value), false) => Record::event(value),
            (_, Some(_), true) => return Err("it has both value and delete".into()),
            (None, None, true) => return Err("only a key can be deleted".into()),
            (_, None, false) => return Err("it has neither value nor delete".into()),
        };
        Ok(decorated(record, self.priority.or(args.priority), self.window_ms.or(args.window_ms)))
    }
}

async fn publish_lines(
    client: &Client,
    args: &PubArgs,
    input: impl AsyncBufRead + Unpin,
    out: &mut (impl Write + Send),
) -> Result<(), Failure> {
    let mut lines = Lines { input, buffer: Vec::new(), number: 0 };
    let mut under_way: VecDeque<(u64, Acknowledgement)> = VecDeque::new();
    let mut result = Ok(());
    let mut has_more = true;
    // What stood before a wrong line is published all the same, and said.
    while has_more || !under_way.is_empty() {
        let may_read = has_more && under_way.len() < OUTSTANDING;
        tokio::select! {
            (number, acknowledged) = oldest(&mut under_way) => {
                under_way.pop_front();
                print_offset(acknowledged.map_err(|error| at_line(number, error))?, out)?;
            }
            record = lines.next(args), if may_read => match record {
                Ok(Some(record)) => match client.publish_nowait(&args.topic, [record]).await {
                    Ok(acknowledgement) => under_way.push_back((lines.number, acknowledgement)),
                    Err(error) => (has_more, result) = (false, Err(at_line(lines.number, error))),
                },
                Ok(None) => has_more = false,
                Err(failure) => (has_more, result) = (false, Err(failure)),
            },
        }
    }
    result
}

/// The first to be answered; waits for ever if there is none.
async fn oldest(under_way: &mut VecDeque<(u64, Acknowledgement)>) -> (u64, Result<Published, ClientError>) {
    match under_way.front_mut() {
        Some((number, acknowledgement)) => (*number, acknowledgement.await),
        None => std::future::pending().await,
    }
}

/// Lines of JSON. What was read of a line stays when the future is dropped.
struct Lines<I> {
    input: I,
    buffer: Vec<u8>,
    /// Of the last line, from 1.
    number: u64,
}

impl<I: AsyncBufRead + Unpin> Lines<I> {
    /// The next record; blank lines are passed over.
    async fn next(&mut self, args: &PubArgs) -> Result<Option<Record>, Failure> {
        loop {
            let room = LINE_BYTES - self.buffer.len() as u64;
            (&mut self.input).take(room).read_until(b'\n', &mut self.buffer).await?;
            if self.buffer.is_empty() {
                return Ok(None);
            }
            self.number += 1;
            let line = std::mem::take(&mut self.buffer);
            if !line.trim_ascii().is_empty() {
                return record_of(&line, args).map(Some).map_err(|why| {
                    let number = self.number;
                    Failure::new(FailureKind::BadInput { line: number }, format!("line {number}: {why}"))
                });
            }
        }
    }
}

fn record_of(line: &[u8], args: &PubArgs) -> Result<Record, String> {
    if line.len() as u64 == LINE_BYTES && !line.ends_with(b"\n") {
        return Err(format!("it is longer than {LINE_BYTES} bytes"));
    }
    // Column and reason; serde's "at line 1" would contradict ours.
    let parsed: Line = serde_json::from_slice(line).map_err(|error| {
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or("it is no JSON object");
        format!("{} (column {})", shown(reason.as_bytes()), error.column())
    })?;
    parsed.record(args)
}

fn at_line(line: u64, error: ClientError) -> Failure {
    let is_argument = matches!(error, ClientError::Invalid(_));
    let failure = Failure::from(error);
    let kind = if is_argument { FailureKind::BadInput { line } } else { failure.kind };
    Failure::new(kind, format!("line {line}: {}", failure.sentence))
}

fn print_offset(published: Published, out: &mut impl Write) -> Result<(), Failure> {
    writeln!(out, "{}", published.offset)?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
