//! What shards report, as OpenMetrics text. Every field of the reports is a series; the destructuring below has no `..`,
//! so that a counter that is added does not compile until it is exported.
//!
//! Labels are bounded by the configuration: the shard, the topic class, the limit. Never what clients choose.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use crate::kernel::KernelCounters;
use crate::shard::{ClassCounters, Counters, Gauges, Ledger, LimitHits, Report};

/// The media type of `/metrics`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text of `/metrics`. `reports` are by shard; one without a report has no series but `tidegate_shard_up`, which is 0:
/// sums over its counters must not seem to fall.
pub(super) fn exposition(class_names: Vec<String>, reports: Vec<Option<Report>>) -> String {
    let mut registry = Registry::with_prefix("tidegate");
    registry.register_collector(Box::new(Exposition { class_names, reports }));
    let mut out = String::new();
    text::encode(&mut out, &registry).expect("writing into a string cannot fail");
    out
}

/// One scrape.
#[derive(Debug)]
struct Exposition {
    class_names: Vec<String>,
    reports: Vec<Option<Report>>,
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        build_info().encode(&mut encoder)?;
        let mut up = Family::gauge("shard_up", "Whether the shard answered in time");
        for (shard, report) in self.reports.iter().enumerate() {
            up.push(&[("shard", &shard.to_string())], u64::from(report.is_some()));
        }
        up.encode(&mut encoder)?;

        let mut families = Vec::new();
        for (shard, report) in self.reports.iter().enumerate() {
            let Some(report) = report else { continue };
            merge(&mut families, &shard.to_string(), report_families(report, &self.class_names));
        }
        families.iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

/// One metric: a name, and values by labels.
struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    is_counter: bool,
    series: Vec<(Vec<(&'static str, String)>, Value)>,
}

enum Value {
    Whole(u64),
    Seconds(f64),
}

impl Family {
    fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, unit: None, is_counter: true, series: Vec::new() }
    }

    fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { is_counter: false, ..Self::counter(name, help) }
    }

    fn bytes(self) -> Self {
        Self { unit: Some(Unit::Bytes), ..self }
    }

    /// With a single series.
    fn of(mut self, value: u64) -> Self {
        self.push(&[], value);
        self
    }

    fn of_count(self, value: usize) -> Self {
        self.of(value as u64)
    }

    fn push(&mut self, labels: &[(&'static str, &str)], value: u64) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.series.push((labels, Value::Whole(value)));
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = if self.is_counter { MetricType::Counter } else { MetricType::Gauge };
        let mut encoder = encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), kind)?;
        for (labels, value) in &self.series {
            let mut series = encoder.encode_family(labels)?;
            match value {
                Value::Whole(value) if self.is_counter => {
                    series.encode_counter(value, None::<&Exemplar<NoLabels, u64>>)?
                }
                Value::Whole(value) => series.encode_gauge(value)?,
                Value::Seconds(value) => series.encode_gauge(value)?,
            }
        }
        Ok(())
    }
}

/// Of exemplars, which we have none of.
type NoLabels = Vec<(&'static str, String)>;

/// Adds a shard's families, which come in the same order from every shard, to those of the others.
fn merge(families: &mut Vec<Family>, shard: &str, more: Vec<Family>) {
    let is_first = families.is_empty();
    for (index, mut family) in more.into_iter().enumerate() {
        for (labels, _) in &mut family.series {
            labels.push(("shard", shard.to_owned()));
        }
        if is_first {
            families.push(family);
        } else {
            debug_assert_eq!(families[index].name, family.name);
            families[index].series.append(&mut family.series);
        }
    }
}

fn build_info() -> Family {
    let mut family = Family::gauge("build_info", "The version that runs; always 1");
    family.push(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    family
}

fn report_families(report: &Report, class_names: &[String]) -> Vec<Family> {
    let Report { counters, gauges, kernel } = report;
    let mut families = counter_families(counters);
    families.push(limit_family(&counters.limit_hits));
    families.extend(class_families(&counters.classes, class_names));
    families.extend(gauge_families(gauges));
    families.extend(kernel_families(kernel));
    families
}

fn counter_families(counters: &Counters) -> Vec<Family> {
    let Counters {
        turns,
        longest_turn_ns,
        turns_over_budget,
        accepted,
        closed,
        sessions,
        takeovers,
        violations,
        frames_received,
        bytes_received,
        bytes_sent,
        short_sends,
        frames_taken_back,
        shared_patches,
        own_patches,
        encodings,
        encoded_topics,
        transfers,
        forwarded,
        mesh_full,
        stale_transfers,
        restarts,
        markers_sent,
        markers_confirmed,
        duplicates,
        sequences_evicted,
        limit_hits: _, // `limit_family`
        classes: _,    // `class_families`
    } = counters;
    let mut longest_turn = Family::gauge("longest_turn", "The longest turn since the start, without waiting");
    longest_turn.unit = Some(Unit::Seconds);
    longest_turn.series.push((Vec::new(), Value::Seconds(*longest_turn_ns as f64 / 1e9)));
    vec![
        Family::counter("turns", "Turns of the event loop").of(*turns),
        longest_turn,
        Family::counter("turns_over_budget", "Turns that ended with subscribers still to be sent to")
            .of(*turns_over_budget),
        Family::counter("connections_accepted", "Connections accepted").of(*accepted),
        Family::counter("connections_closed", "Connections that ended, however").of(*closed),
        Family::counter("sessions_opened", "Sessions that said Hello").of(*sessions),
        Family::counter("takeovers", "Sessions taken over by another connection").of(*takeovers),
        Family::counter("violations", "Protocol violations: closes with 1002, 1003, 1007 or 1009").of(*violations),
        Family::counter("frames_received", "Client frames understood").of(*frames_received),
        Family::counter("received", "Bytes received").bytes().of(*bytes_received),
        Family::counter("sent", "Bytes that sockets took").bytes().of(*bytes_sent),
        Family::counter("short_sends", "Sends that sockets did not take whole").of(*short_sends),
        Family::counter("frames_taken_back", "Frames taken back after a short send").of(*frames_taken_back),
        Family::counter("shared_patches", "Patches encoded once for everyone at the head").of(*shared_patches),
        Family::counter("own_patches", "Patches made for one cursor").of(*own_patches),
        Family::counter("encodings", "Runs of live records encoded, from which all patches of a turn are cut")
            .of(*encodings),
        Family::counter("encoded_topics", "Topics of which something was encoded, summed over all turns")
            .of(*encoded_topics),
        Family::counter("transfers", "Transfers sent to other shards' replicas").of(*transfers),
        Family::counter("forwarded_patches", "Frames of other shards' topics forwarded untouched").of(*forwarded),
        Family::counter("mesh_full", "Times that a replica waited since the way to its shard was full").of(*mesh_full),
        Family::counter("stale_transfers", "Transfers for a replica that is no more").of(*stale_transfers),
        Family::counter("restarts", "Subscriptions that started anew since the log's floor had passed their cursor")
            .of(*restarts),
        Family::counter("markers_sent", "Pings sent as markers behind patches").of(*markers_sent),
        Family::counter("markers_confirmed", "Markers confirmed by a pong").of(*markers_confirmed),
        Family::counter("duplicates", "Publishes acknowledged as duplicates").of(*duplicates),
        Family::counter("sequences_evicted", "Publishing sequences forgotten for want of room").of(*sequences_evicted),
    ]
}

fn limit_family(hits: &LimitHits) -> Family {
    let mut family = Family::counter("limit_hits", "How often a limit was enforced");
    for (limit, count) in limit_series(hits) {
        family.push(&[("limit", limit)], count);
    }
    family
}

/// Names each field of a struct without leaving one out.
macro_rules! named_fields {
    ($type:ident, $value:expr, $($field:ident),+ $(,)?) => {{
        let $type { $($field),+ } = $value;
        vec![$((stringify!($field), *$field)),+]
    }};
}

fn limit_series(hits: &LimitHits) -> Vec<(&'static str, u64)> {
    named_fields!(
        LimitHits,
        hits,
        message_bytes,
        message_fragments,
        message_time,
        head_bytes,
        head_headers,
        head_time,
        hello_time,
        heartbeat,
        stall_timeout,
        idle_timeout,
        key_bytes,
        value_bytes,
        publish_records,
        subscriptions,
        matched_topics,
        topics,
        keys,
        messages_per_second,
        resent_bytes,
        connections,
        connections_per_address,
        accepts_per_second,
        answer_bytes,
        unflushed_event_bytes,
        sequences,
        shard_answer,
        descriptors,
    )
}

fn class_families(classes: &[ClassCounters], class_names: &[String]) -> Vec<Family> {
    debug_assert!(classes.len() <= class_names.len());
    let mut all_published =
        Family::counter("published_records", "Records appended, deletes by expired windows among them");
    let mut all_patches = Family::counter("patches", "Patches sent");
    let mut all_ahead =
        Family::counter("ahead_records", "Records sent ahead of their place while catching up; they come again");
    let mut all_due =
        Family::counter("due_records", "Offsets that subscribers were moved over: the sum of tidegate_records");
    let mut outcomes = Family::counter("records", "What became of records that were due to subscribers");
    for (ClassCounters { published, patches, ahead, ledger }, class) in classes.iter().zip(class_names) {
        let Ledger { due, delivered, conflated, filtered, expired, overrun, lost } = ledger;
        all_published.push(&[("class", class)], *published);
        all_patches.push(&[("class", class)], *patches);
        all_ahead.push(&[("class", class)], *ahead);
        all_due.push(&[("class", class)], *due);
        for (outcome, count) in [
            ("delivered", delivered),
            ("conflated", conflated),
            ("filtered", filtered),
            ("expired", expired),
            ("overrun", overrun),
            ("lost", lost),
        ] {
            outcomes.push(&[("class", class), ("outcome", outcome)], *count);
        }
    }
    vec![all_published, all_patches, all_ahead, all_due, outcomes]
}

fn gauge_families(gauges: &Gauges) -> Vec<Family> {
    let Gauges {
        connections,
        sessions,
        blocked,
        stalled,
        unmarked,
        subscribers,
        behind,
        topics,
        replicas,
        keys,
        events,
        log_bytes,
        mesh_bytes,
        connection_bytes,
    } = gauges;
    vec![
        Family::gauge("connections", "Connections, in whatever state").of_count(*connections),
        Family::gauge("sessions", "Connections that said Hello").of_count(*sessions),
        Family::gauge("blocked_connections", "Connections whose socket takes no bytes at the moment")
            .of_count(*blocked),
        Family::gauge("stalled_connections", "Connections past their heartbeat whose TCP still answers")
            .of_count(*stalled),
        Family::gauge("unmarked_connections", "Connections that answer no marker").of_count(*unmarked),
        Family::gauge("subscribers", "Subscriptions times the topics they match").of_count(*subscribers),
        Family::gauge("subscribers_behind", "Subscribers behind their topic's head").of_count(*behind),
        Family::gauge("topics", "Topics whose home the shard is").of_count(*topics),
        Family::gauge("replicas", "Copies of other shards' topics").of_count(*replicas),
        Family::gauge("keys", "Live keys").of_count(*keys),
        Family::gauge("events", "Events held").of_count(*events),
        Family::gauge("log", "Bytes held by the logs").bytes().of_count(*log_bytes),
        Family::gauge("mesh", "Bytes of patches and publishes on the way between shards").bytes().of_count(*mesh_bytes),
        Family::gauge("connection_memory", "Bytes held for connections: rests of frames, answers, incomplete messages")
            .bytes()
            .of_count(*connection_bytes),
    ]
}

fn kernel_families(kernel: &KernelCounters) -> Vec<Family> {
    let KernelCounters { enters, sends, send_bytes, stale_completions, buffer_shortages, overflows } = kernel;
    vec![
        Family::counter("kernel_enters", "System calls that entered the ring").of(*enters),
        Family::counter("kernel_sends", "Sends submitted").of(*sends),
        Family::counter("kernel_send", "Bytes handed over for sending, taken or not").bytes().of(*send_bytes),
        Family::counter("kernel_stale_completions", "Completions of an earlier holder of a slot, ignored")
            .of(*stale_completions),
        Family::counter("kernel_buffer_shortages", "Receives that ended for want of buffers and were armed again")
            .of(*buffer_shortages),
        Family::counter("kernel_overflows", "Overflows of the completion queue").of(*overflows),
    ]
}

#[cfg(test)]
mod tests;
