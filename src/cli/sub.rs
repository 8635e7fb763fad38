//! `tidegate sub`: prints what happens in topics.

use std::io::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::publish::PriorityArg;
use super::seconds::seconds;
use super::text::{put, shown};
use crate::client::names::check_pattern;
use crate::client::{Client, Options, PatchUpdate, SubscribeOptions, Subscription, TopicState, Update};

/// Print what happens in topics, until Ctrl-C.
///
/// One line for each change: `TOPIC @OFFSET KEY = VALUE`, `TOPIC @OFFSET - KEY` for a deleted key, `TOPIC @OFFSET !
/// VALUE` for an event; `+` before the offset marks a record sent ahead of its place. What a patch left out is
/// counted in a line of its own. Control characters are printed as escapes.
///
/// With --json, each line is an object with `type` (`subscribed`, `record`, `patch`, `unsubscribed`, `waiting`, `notice`)
/// and `topic`. A `record` has `offset`, `priority` and either `key` with `value` or `delete`, or only `value`. Keys and
/// values that are not UTF-8 stand in `key_base64` and `value_base64`. A `patch` follows its records with `from`, `to`
/// and the counts.
#[derive(Debug, clap::Args)]
pub struct SubArgs {
    /// A topic, or a pattern: `*` for one segment, a last `**` for one or more
    pub pattern: String,
    /// The server
    #[arg(long, env = "TIDEGATE_URL", default_value = "ws://127.0.0.1:8433")]
    pub url: String,
    /// Capability token
    #[arg(long, env = "TIDEGATE_TOKEN", hide_env_values = true, default_value = "")]
    pub token: String,
    /// Print one JSON object per line
    #[arg(long, conflicts_with = "state")]
    pub json: bool,
    /// Print the whole state of a topic each time it is brought to the head
    #[arg(long)]
    pub state: bool,
    /// At most so many patches a second for each topic
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_hz: u32,
    /// No events older than this
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub window_ms: u32,
    /// Bytes that may be under way unread (default: the server finds out)
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub credit: u64,
    /// Only records of this priority and above
    #[arg(long, value_name = "P")]
    pub min_priority: Option<PriorityArg>,
    /// Only keys that start so, and events
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub key_prefix: String,
    /// No events from before the subscription
    #[arg(long)]
    pub events_only_new: bool,
    /// End after so many patches
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "N", value_parser = seconds, allow_negative_numbers = true)]
    pub seconds: Option<Duration>,
}

/// Runs the command until its end, Ctrl-C or a failure, and prints to `out`.
///
/// # Errors
///
/// What the client says, or that `out` cannot be written. A closed pipe is a normal end.
pub async fn run(args: SubArgs, out: &mut (impl Write + Send)) -> Result<(), Failure> {
    // Before a server is looked for: what is wrong here is wrong everywhere.
    check_pattern(&args.pattern)?;
    let client = Client::connect(Options {
        token: args.token.clone(),
        credit_bytes: args.credit,
        agent: concat!("tidegate-sub/", env!("CARGO_PKG_VERSION")).into(),
        ..Options::new(&args.url)
    })
    .await?;
    let mut subscription = client
        .subscribe(SubscribeOptions {
            window_ms: args.window_ms,
            max_hz: args.max_hz,
            min_priority: args.min_priority.map(Into::into),
            key_prefix: args.key_prefix.clone().into(),
            events_only_new: args.events_only_new,
            ..SubscribeOptions::new(&args.pattern)
        })
        .await?;
    let result = print_all(&args, &mut subscription, out).await;
    client.close().await;
    result
}

async fn print_all(
    args: &SubArgs,
    subscription: &mut Subscription,
    out: &mut (impl Write + Send),
) -> Result<(), Failure> {
    let end = async {
        match args.seconds {
            Some(seconds) => tokio::time::sleep(seconds).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    let mut patches_left = args.count.unwrap_or(u64::MAX);
    while patches_left > 0 {
        let update = tokio::select! {
            update = subscription.next() => update?,
            () = &mut end => return Ok(()),
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        patches_left -= u64::from(matches!(update, Update::Patch(_)));
        let mut text = String::new();
        if args.json {
            write_json(&update, &mut text);
        } else if args.state {
            write_state(&update, subscription, &mut text);
        } else {
            write_lines(&update, &mut text);
        }
        if let ControlFlow::Break(result) = print(&text, out) {
            return result;
        }
    }
    Ok(())
}

fn print(text: &str, out: &mut impl Write) -> ControlFlow<Result<(), Failure>> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ControlFlow::Continue(()),
        // `sub ... | head` ends so.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ControlFlow::Break(Ok(())),
        Err(error) => ControlFlow::Break(Err(error.into())),
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    use std::fmt::Write as _;
    writeln!(text, "{line}").expect("a String can always be written to");
}

fn write_lines(update: &Update, text: &mut String) {
    match update {
        Update::Subscribed { topic, head, is_resumed, .. } => {
            let how = if *is_resumed { "resumed" } else { "subscribed" };
            line(text, format_args!("# {} {how}, head {head}", shown(topic.as_bytes())));
        }
        Update::Patch(patch) => write_patch_lines(patch, text),
        Update::Unsubscribed { topic, reason } => {
            line(text, format_args!("# {} ended ({})", shown(topic.as_bytes()), reason.as_str_name()));
        }
        Update::Unmatched { pattern } => {
            line(text, format_args!("# {}: no such topic yet, waiting", shown(pattern.as_bytes())));
        }
        Update::Notice { code, message } => {
            line(text, format_args!("# {} ({})", shown(message.as_bytes()), code.as_str_name()));
        }
    }
}

fn write_patch_lines(patch: &PatchUpdate, text: &mut String) {
    let topic = shown(patch.topic.as_bytes());
    for entry in in_order(patch) {
        match entry {
            Entry::Change(change) => {
                let mark = if change.is_ahead { "+" } else { "" };
                let (key, offset) = (shown(&change.key), change.offset);
                match &change.value {
                    Some(value) => line(text, format_args!("{topic} {mark}@{offset} {key} = {}", shown(value))),
                    None => line(text, format_args!("{topic} {mark}@{offset} - {key}")),
                }
            }
            Entry::Event(event) => line(text, format_args!("{topic} @{} ! {}", event.offset, shown(&event.value))),
        }
    }
    let counts = patch.counts;
    let left_out = [
        ("conflated", counts.conflated),
        ("filtered", counts.filtered),
        ("expired", counts.expired),
        ("overrun", counts.overrun),
        ("lost", counts.lost),
    ];
    let left_out: Vec<String> =
        left_out.iter().filter(|(_, n)| *n > 0).map(|(name, count)| format!("{count} {name}")).collect();
    if !left_out.is_empty() {
        line(text, format_args!("# {topic} {}..{}: {}", patch.from, patch.to, left_out.join(", ")));
    }
}

enum Entry<'a> {
    Change(&'a crate::client::Change),
    Event(&'a crate::client::Event),
}

/// Changes and events as they stand in the log, what was sent ahead at the end.
fn in_order(patch: &PatchUpdate) -> Vec<Entry<'_>> {
    let changes = patch.changes.iter().map(|change| (change.offset, Entry::Change(change)));
    let events = patch.events.iter().map(|event| (event.offset, Entry::Event(event)));
    let mut entries: Vec<_> = changes.chain(events).collect();
    entries.sort_by_key(|(offset, _)| *offset);
    entries.into_iter().map(|(_, entry)| entry).collect()
}

fn write_json(update: &Update, text: &mut String) {
    let mut object = |value: Value| line(text, format_args!("{value}"));
    match update {
        Update::Subscribed { topic, epoch, head, is_resumed } => object(json!({
            // As text: 64 bits are more than a JSON number holds everywhere.
            "type": "subscribed", "topic": **topic, "epoch": format!("{epoch:016x}"), "head": head, "resumed": is_resumed,
        })),
        Update::Unsubscribed { topic, reason } => {
            object(json!({ "type": "unsubscribed", "topic": **topic, "reason": reason.as_str_name() }));
        }
        Update::Unmatched { pattern } => object(json!({ "type": "waiting", "topic": **pattern })),
        Update::Notice { code, message } => {
            object(json!({ "type": "notice", "code": code.as_str_name(), "message": message }));
        }
        Update::Patch(patch) => {
            for entry in in_order(patch) {
                object(record_json(patch, &entry));
            }
            let counts = patch.counts;
            object(json!({
                "type": "patch", "topic": *patch.topic, "from": patch.from, "to": patch.to, "reset": patch.is_reset,
                "current": patch.is_current, "verified": patch.is_verified, "records": counts.records,
                "conflated": counts.conflated, "filtered": counts.filtered, "expired": counts.expired,
                "overrun": counts.overrun, "lost": counts.lost, "time_us": patch.time_us,
            }));
        }
    }
}

fn record_json(patch: &PatchUpdate, entry: &Entry<'_>) -> Value {
    let mut object = Map::new();
    object.insert("type".into(), "record".into());
    object.insert("topic".into(), (*patch.topic).into());
    let (offset, priority) = match entry {
        Entry::Change(change) => {
            put(&mut object, "key", &change.key);
            match &change.value {
                Some(value) => put(&mut object, "value", value),
                None => drop(object.insert("delete".into(), true.into())),
            }
            if change.is_ahead {
                object.insert("ahead".into(), true.into());
            }
            (change.offset, change.priority)
        }
        Entry::Event(event) => {
            put(&mut object, "value", &event.value);
            (event.offset, event.priority)
        }
    };
    object.insert("offset".into(), offset.into());
    object
        .insert("priority".into(), priority.as_str_name().trim_start_matches("PRIORITY_").to_ascii_lowercase().into());
    Value::Object(object)
}

fn write_state(update: &Update, subscription: &Subscription, text: &mut String) {
    match update {
        Update::Patch(patch) if patch.is_current => {
            if let Some(state) = subscription.state(&patch.topic) {
                write_state_of(&patch.topic, state, text);
            }
        }
        Update::Patch(_) | Update::Subscribed { .. } => {}
        Update::Unsubscribed { .. } | Update::Unmatched { .. } | Update::Notice { .. } => write_lines(update, text),
    }
}

fn write_state_of(topic: &str, state: &TopicState, text: &mut String) {
    let (offset, count, sum) = (state.offset(), state.key_count(), state.checksum());
    line(text, format_args!("# {} at {offset}: {count} keys, checksum {sum:08x}", shown(topic.as_bytes())));
    for (key, value) in state.iter() {
        line(text, format_args!("{} = {}", shown(key), shown(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Change, Counts, Event, Priority};

    fn patch() -> Update {
        let change = |key: &str, value: Option<&str>, offset, is_ahead| Change {
            key: key.to_owned().into(),
            value: value.map(|value| value.to_owned().into()),
            offset,
            priority: Priority::High,
            is_ahead,
        };
        let changes = vec![
            change("a\n# forged", Some("\x1b[2J1"), 1, false),
            change("gone", None, 4, false),
            change("hot", Some("9"), 12, true),
        ];
        let event = Event { value: vec![0xff, b'e'].into(), offset: 3, priority: Priority::Low, window_ms: 0 };
        Update::Patch(PatchUpdate {
            topic: "t/x".into(),
            epoch: 1,
            from: 0,
            to: 5,
            is_reset: true,
            is_current: false,
            is_verified: false,
            changes,
            events: vec![event],
            counts: Counts { records: 3, conflated: 1, expired: 1, ..Counts::default() },
            time_us: 8,
            frame_bytes: 0,
        })
    }

    #[test]
    fn lines_stand_in_order_and_cannot_be_forged() {
        let mut text = String::new();
        write_lines(&patch(), &mut text);
        let expected = [
            r"t/x @1 a\n# forged = \x1b[2J1",
            r"t/x @3 ! \xffe",
            "t/x @4 - gone",
            "t/x +@12 hot = 9",
            "# t/x 0..5: 1 conflated, 1 expired",
            "",
        ];
        assert_eq!(text, expected.join("\n"));
    }

    #[test]
    fn json_has_one_object_per_record_and_patch() {
        let mut text = String::new();
        write_json(&patch(), &mut text);
        let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("valid JSON")).collect();
        assert_eq!(objects.len(), 5);
        assert_eq!(objects[0]["key"], "a\n# forged");
        assert_eq!(objects[1]["value_base64"], "/2U=");
        assert_eq!((&objects[2]["delete"], &objects[2]["priority"]), (&json!(true), &json!("high")));
        assert_eq!(objects[3]["ahead"], true);
        assert_eq!((&objects[4]["type"], &objects[4]["expired"]), (&json!("patch"), &json!(1)));
    }

    #[test]
    fn a_closed_pipe_is_a_normal_end() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        assert!(matches!(print("x", &mut Closed), ControlFlow::Break(Ok(()))));
    }
}
