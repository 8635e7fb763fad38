//! Whether a patch says exactly what it has to say: each offset that it passes is in it, or counted for a reason that holds.

use std::ops::RangeInclusive;
use std::time::Duration;

use tidegate::clock::Moment;
use tidegate::protocol::wire;
use tidegate::topic::{Priority, TopicClass};

use crate::model::{Fate, Gone, Kind, Past, Topic};

/// The options of a subscription, as the test's client asked for them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub window_ms: u32,
    pub max_hz: u32,
    pub min_priority: i32,
    pub key_prefix: Vec<u8>,
    pub events_only_new: bool,
}

impl Options {
    pub fn has_filter(&self) -> bool {
        self.min_priority > 1 || !self.key_prefix.is_empty()
    }

    fn holds_back(&self, past: &Past) -> bool {
        (past.kind != Kind::Delete && (past.priority as i32) < self.min_priority)
            || (past.kind != Kind::Event && !past.key.starts_with(&self.key_prefix))
    }
}

/// Where a subscriber stands, as far as the wire says it. Bounds stand where it does not say when the engine looked.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The `request` of the subscription that serves.
    pub subscription: u64,
    pub options: Options,
    pub cursor: u64,
    pub is_reset_due: bool,
    /// The head at the reset.
    pub reset_head: RangeInclusive<u64>,
    /// The last event that was gone at the reset.
    pub never_due: RangeInclusive<u64>,
}

/// What a patch is looked at with.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub topic: &'a Topic,
    pub class: &'a TopicClass,
    pub now: Moment,
    pub turn: u64,
    pub pressure: Pressure,
}

/// Whether a connection is under pressure: it was not brought to the head in the last turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pressure {
    /// It was: nothing is shed before its own window.
    None,
    /// The wire does not say.
    #[default]
    Possible,
    /// It was not: no frame begins with an event past the pressure window of its priority.
    Certain,
}

impl View<'_> {
    fn is_past_pressure_window(&self, past: &Past) -> bool {
        let window = match past.priority {
            Priority::Low => self.class.pressure_low,
            Priority::Normal => self.class.pressure_normal,
            Priority::High | Priority::Critical => return false,
        };
        past.arrived + window <= self.now
    }
}

/// Why an offset may be passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Conflated,
    Filtered,
    Expired,
    Overrun,
    Lost,
}

const REASONS: [Reason; 5] = [Reason::Conflated, Reason::Filtered, Reason::Expired, Reason::Overrun, Reason::Lost];

/// Moves `standing` over `patch`, or says what is wrong with it.
pub fn explain(standing: &Standing, patch: &wire::Patch, view: View<'_>) -> Result<Standing, String> {
    let (from, to, head) = (patch.from, patch.to, view.topic.head());
    let wanted = if standing.is_reset_due { (0, true) } else { (standing.cursor, false) };
    if (from, patch.reset) != wanted {
        return Err(format!("the chain is broken: {wanted:?} expected, {:?} came", (from, patch.reset)));
    }
    if to < from || to > head || (to == head) == patch.more {
        return Err(format!("{from} to {to} with the head at {head} and more {}", patch.more));
    }
    let mut records = patch.records.iter().peekable();
    let mut counts = [(0, 0); 5];
    for offset in from + 1..=to {
        let past = &view.topic.past[offset as usize - 1];
        if let Some(record) = records.next_if(|record| record.offset == offset) {
            check_sent(standing, offset, past, record, view)?;
            continue;
        }
        let reasons = reasons(standing, offset, past, view);
        if reasons.is_empty() {
            return Err(format!("{offset} is missing: {past:?}"));
        }
        for (reason, (least, most)) in REASONS.iter().zip(&mut counts) {
            *least += u64::from(reasons == [*reason]);
            *most += u64::from(reasons.contains(reason));
        }
    }
    if let Some(record) = records.next() {
        return Err(format!("record {} is out of place", record.offset));
    }
    let named = patch.records.len() as u64 + patch.filtered + patch.expired + patch.overrun + patch.lost;
    let conflated = (to - from).checked_sub(named).ok_or("more is named than was passed")?;
    let said = [conflated, patch.filtered, patch.expired, patch.overrun, patch.lost];
    for (reason, (said, (least, most))) in REASONS.iter().zip(said.into_iter().zip(counts)) {
        if said < least || said > most {
            return Err(format!("{reason:?}: {said} said, {least} to {most} are right"));
        }
    }
    check_ahead(standing, patch, view)?;
    let says_checksum = !patch.more && !standing.options.has_filter();
    if patch.checksum.is_some() != says_checksum {
        return Err(format!("checksum {:?} with more {}", patch.checksum, patch.more));
    }
    if patch.checksum.is_some_and(|checksum| checksum != view.topic.checksum()) {
        return Err("the checksum is not that of the state".to_owned());
    }
    let mut next = Standing { cursor: to, is_reset_due: false, ..standing.clone() };
    if !patch.more {
        (next.reset_head, next.never_due) = (0..=0, 0..=0);
    }
    Ok(next)
}

fn check_sent(
    standing: &Standing,
    offset: u64,
    past: &Past,
    record: &wire::Record,
    view: View<'_>,
) -> Result<(), String> {
    let is_right = record.key == past.key
        && record.value == past.value
        && record.delete == (past.kind == Kind::Delete)
        && record.priority == past.priority as i32;
    if !is_right {
        return Err(format!("{offset} was {past:?}, not {record:?}"));
    }
    let encoded_since = if view.topic.is_replica { view.topic.head_at } else { view.now };
    let is_left_of =
        |deadline| (left_of(deadline, view.now)..=left_of(deadline, encoded_since)).contains(&record.window_ms);
    let mut earlier = past.earlier.iter().filter(|(head, _)| *head == view.topic.head());
    if !is_left_of(past.deadline) && !earlier.any(|(_, deadline)| is_left_of(*deadline)) {
        return Err(format!("{offset} has {} ms left: {past:?}", record.window_ms));
    }
    match past.gone {
        None => {}
        Some(Gone::Evicted(_, turn)) if turn == view.turn => {}
        Some(gone) => return Err(format!("{offset} was sent although it was gone: {gone:?}")),
    }
    if standing.options.holds_back(past) {
        return Err(format!("{offset} was sent through the filter {:?}: {past:?}", standing.options));
    }
    if past.kind == Kind::Delete && offset <= *standing.reset_head.start() {
        return Err(format!("{offset}: a delete of what was never sent"));
    }
    if past.kind == Kind::Event {
        if past.deadline <= view.now || is_past_window(&standing.options, past, view.now) {
            return Err(format!("{offset}: the window has passed at {:?}: {past:?} {:?}", view.now, standing.options));
        }
        if view.pressure == Pressure::Certain && view.is_past_pressure_window(past) {
            return Err(format!("{offset}: past its pressure window at {:?}: {past:?}", view.now));
        }
        if standing.options.events_only_new && offset <= *standing.reset_head.start() {
            return Err(format!("{offset}: an old event for one who wants new ones only"));
        }
    }
    Ok(())
}

/// What is left of a window, as a record says it.
fn left_of(deadline: Moment, now: Moment) -> u32 {
    match deadline {
        Moment::NEVER => 0,
        deadline => u32::try_from(deadline.since(now).as_millis().max(1)).unwrap_or(u32::MAX),
    }
}

fn is_past_window(options: &Options, past: &Past, now: Moment) -> bool {
    let window = Duration::from_millis(options.window_ms.into());
    options.window_ms > 0 && past.priority != Priority::Critical && past.arrived + window <= now
}

/// The reasons for which an offset may be missing among a patch's records.
fn reasons(standing: &Standing, offset: u64, past: &Past, view: View<'_>) -> Vec<Reason> {
    let options = &standing.options;
    let held_back = options.holds_back(past).then_some(Reason::Filtered);
    match (past.kind, past.gone) {
        (_, Some(Gone::Superseded)) => vec![Reason::Conflated],
        (Kind::Value, _) => held_back.into_iter().collect(),
        (Kind::Delete, _) => {
            let never_sent = (offset <= *standing.reset_head.end()).then_some(Reason::Conflated);
            let is_certain = offset <= *standing.reset_head.start();
            never_sent.into_iter().chain(held_back.filter(|_| !is_certain)).collect()
        }
        (Kind::Event, Some(Gone::Evicted(fate, turn))) => {
            let mut reasons = Vec::new();
            if offset <= *standing.never_due.end() {
                reasons.push(Reason::Conflated);
            }
            if offset > *standing.never_due.start() {
                reasons.push(match fate {
                    Fate::Expired => Reason::Expired,
                    Fate::Overrun => Reason::Overrun,
                    Fate::Lost => Reason::Lost,
                });
            }
            if turn == view.turn {
                // Retention runs behind the flush of a topic, or before: only the patch can tell.
                reasons.extend(live_event_reasons(standing, offset, past, view));
                reasons.dedup();
            }
            reasons
        }
        (Kind::Event, None) => live_event_reasons(standing, offset, past, view),
    }
}

fn live_event_reasons(standing: &Standing, offset: u64, past: &Past, view: View<'_>) -> Vec<Reason> {
    let options = &standing.options;
    if past.deadline <= view.now {
        return vec![Reason::Expired];
    }
    let mut reasons = Vec::new();
    if options.events_only_new && offset <= *standing.reset_head.end() {
        reasons.push(Reason::Filtered);
        if offset <= *standing.reset_head.start() {
            return reasons;
        }
    }
    if options.holds_back(past) {
        return vec![Reason::Filtered];
    }
    let is_shed = view.pressure != Pressure::None && view.is_past_pressure_window(past);
    if is_shed || is_past_window(options, past, view.now) {
        reasons.push(Reason::Expired);
    }
    reasons
}

/// What goes ahead is live, keyed, beyond `to`, and ascending.
fn check_ahead(standing: &Standing, patch: &wire::Patch, view: View<'_>) -> Result<(), String> {
    if !patch.more && !patch.ahead.is_empty() {
        return Err("records ahead of the head".to_owned());
    }
    let mut last = patch.to;
    for record in &patch.ahead {
        let past = view.topic.past.get(record.offset as usize - 1).ok_or("ahead of the head")?;
        if record.offset <= last || past.kind == Kind::Event || past.gone.is_some() {
            return Err(format!("{} went ahead of {last}: {past:?}", record.offset));
        }
        check_sent(standing, record.offset, past, record, view)?;
        last = record.offset;
    }
    Ok(())
}
