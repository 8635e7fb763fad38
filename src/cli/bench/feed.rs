//! What was recorded, published when it is due, and how large it is as JSON.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::dialect::put_message;
use crate::cli::CliError;
use crate::cli::failure::Failure;
use crate::feed::records::Publication;
use crate::feed::source::{Source, Step};
use crate::protocol::wire::{self, client_frame};

/// A recording that is being published.
pub(super) struct Feed {
    source: Source,
    speed: f64,
    /// When the first step was published, and its time in the recording.
    begun: Option<(Instant, u64)>,
    next: Option<Step>,
    is_over: bool,
    /// A topic's number is the request of its publishes.
    topics: HashMap<String, u64>,
    /// Records published.
    pub(super) records: u64,
    /// Updates: publications.
    pub(super) updates: u64,
    /// What the updates are as JSON messages over WebSocket, one for each, to one subscriber.
    pub(super) json_bytes: u64,
}

impl Feed {
    pub(super) fn new(source: Source, speed: f64) -> Self {
        Self {
            source,
            speed,
            begun: None,
            next: None,
            is_over: false,
            topics: HashMap::new(),
            records: 0,
            updates: 0,
            json_bytes: 0,
        }
    }

    /// The recording has come to its end.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Appends what is due; returns how many publishes these are, and when the next one is due.
    ///
    /// # Errors
    /// What is wrong with the recording.
    pub(super) fn publish_due(&mut self, out: &mut Vec<u8>) -> Result<(u64, Option<Instant>), CliError> {
        let mut publishes = 0;
        loop {
            if self.next.is_none() && !self.is_over {
                self.next = self.source.next().transpose().map_err(Failure::from)?;
                self.is_over = self.next.is_none();
            }
            let Some(step) = &self.next else { return Ok((publishes, None)) };
            let (start, first_ns) = *self.begun.get_or_insert((Instant::now(), step.at_ns));
            let due = start + Duration::from_nanos((step.at_ns.saturating_sub(first_ns) as f64 / self.speed) as u64);
            if due > Instant::now() {
                return Ok((publishes, Some(due)));
            }
            for publication in self.next.take().into_iter().flat_map(|step| step.publications) {
                publishes += 1;
                self.publish(publication, out);
            }
        }
    }

    fn publish(&mut self, publication: Publication, out: &mut Vec<u8>) {
        self.updates += 1;
        self.records += publication.records.len() as u64;
        self.json_bytes += json_len(&publication);
        let number = self.topics.len() as u64 + 1;
        let request = *self.topics.entry(publication.topic.clone()).or_insert(number);
        let Publication { topic, records, replace } = publication;
        let publish = wire::Publish { topic, records, replace, ..Default::default() };
        put_message(out, request, client_frame::Body::Publish(publish));
    }
}

/// Bytes of an update as JSON in a WebSocket frame of a server: the topic, keys with their values (`null`: deleted), events in
/// a list. Values that are JSON stand as such.
fn json_len(publication: &Publication) -> u64 {
    let value = |bytes: &[u8]| {
        let as_text = || Value::from(String::from_utf8_lossy(bytes).into_owned());
        serde_json::from_slice(bytes).ok().filter(|value: &Value| !value.is_number()).unwrap_or_else(as_text)
    };
    let (mut keys, mut events) = (Map::new(), Vec::new());
    for record in &publication.records {
        if record.key.is_empty() {
            events.push(value(&record.value));
        } else {
            let held = if record.delete { Value::Null } else { value(&record.value) };
            keys.insert(String::from_utf8_lossy(&record.key).into_owned(), held);
        }
    }
    let mut message = json!({"topic": publication.topic});
    for (name, part) in [("keys", Value::Object(keys)), ("events", Value::Array(events))] {
        let is_empty = part.as_object().is_some_and(Map::is_empty) || part.as_array().is_some_and(Vec::is_empty);
        if !is_empty {
            message[name] = part;
        }
    }
    let len = message.to_string().len() as u64;
    len + if len < 126 { 2 } else { 4 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::wire::Record;

    #[test]
    fn json_has_what_the_records_have() {
        let state = |key: &'static str, value: &'static str| Record {
            key: key.into(),
            value: value.into(),
            ..Record::default()
        };
        let records = vec![
            state("b1.5", "20"),
            state("bbo", r#"{"a":1}"#),
            Record { key: "gone".into(), delete: true, ..Record::default() },
            Record { value: "e".into(), ..Record::default() },
        ];
        let publication = Publication { topic: "depth/X".into(), records, replace: false };
        let text = r#"{"topic":"depth/X","keys":{"b1.5":"20","bbo":{"a":1},"gone":null},"events":["e"]}"#;
        assert_eq!(json_len(&publication), text.len() as u64 + 2);
    }
}
