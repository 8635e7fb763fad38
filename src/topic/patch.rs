//! Patches: the bytes that move one cursor towards the head.
//!
//! A patch is a head of its own and slices of the log's [runs](super::run), which all cursors of a turn share: no record is
//! encoded for one client.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use prost::encoding::{encode_varint, encoded_len_varint};

use super::cursor::CatchUp;
use super::entry::Kind;
use super::run::{Run, RunRecord};
use super::{Cursor, Log, Priority};
use crate::clock::{Moment, WallEpoch};
use crate::ids::{Offset, TopicId};

/// One patch looks at so many runs at most, however many of their records a filter holds back.
const RUNS_PER_PATCH: usize = 16;

/// What a cursor asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The present moment.
    pub now: Moment,
    /// What turns moments into `time_us`.
    pub wall: WallEpoch,
    /// Bytes of the `ServerFrame`. A record that is larger goes alone.
    pub room: usize,
    /// The windows of a connection under pressure.
    pub pressure: Option<PressureWindows>,
    /// The subscriber's own window.
    pub window: Option<Duration>,
    /// The subscriber's filter.
    pub filter: Option<&'a Filter>,
    /// Events that were there at the reset count as filtered.
    pub only_new_events: bool,
}

impl Ask<'_> {
    /// Without pressure, window or filter: what a shared frame is made for.
    #[must_use]
    pub fn plain(now: Moment, wall: WallEpoch, room: usize) -> Self {
        Self { now, wall, room, pressure: None, window: None, filter: None, only_new_events: false }
    }
}

/// Under pressure, events of these priorities are not sent when they are older.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PressureWindows {
    /// Of low priority.
    pub low: Duration,
    /// Of normal priority.
    pub normal: Duration,
}

/// What a subscription holds back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Records below it, deletes excepted.
    pub min_priority: Option<Priority>,
    /// Records of keys that do not start so; events pass.
    pub key_prefix: Bytes,
}

/// The frame that moves one cursor.
#[derive(Clone, Debug)]
pub struct Patch {
    /// A WebSocket binary frame, its header included: ready to send.
    pub frame: Bytes,
    /// Its length without the WebSocket header; what credit counts.
    pub payload_len: usize,
    /// The cursor once the frame is on its way.
    pub next: Cursor,
    /// Where the cursor was; 0 if it starts anew.
    pub from: Offset,
    /// Where it is then.
    pub to: Offset,
    /// Not yet at the head.
    pub more: bool,
    /// The client forgets the topic's keys first.
    pub reset: bool,
    /// What became of the offsets in between.
    pub counts: Counts,
    /// The earliest moment at which the window of an event in it passes, windows of the subscriber and of pressure
    /// included; `NEVER` if none does.
    pub valid_until: Moment,
    /// The earliest arrival of an event in it that is not critical; `NEVER` if there is none.
    pub oldest_event: Moment,
}

/// What became of the offsets of a patch: `to - from` is the sum of all but `ahead`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sent in their place.
    pub records: u64,
    /// Superseded, or gone before the subscriber came.
    pub conflated: u64,
    /// Held back by the subscription.
    pub filtered: u64,
    /// Events whose window passed.
    pub expired: u64,
    /// Events that the log no longer held.
    pub overrun: u64,
    /// Critical events that the log no longer held.
    pub lost: u64,
    /// Sent ahead of their place.
    pub ahead: u64,
}

/// Slices of runs, and what they contain.
#[derive(Debug)]
struct Selection {
    spans: Vec<Span>,
    bytes: usize,
    /// Everything up to here is passed.
    to: Offset,
    records: u64,
    filtered: u64,
    expired: u64,
    valid_until: Moment,
    oldest_event: Moment,
    newest_arrived: Option<Moment>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    run: usize,
    start: u32,
    end: u32,
}

/// What one cursor is given of one record.
enum Verdict {
    /// Sent; if it is an event that may expire, until when.
    Send(Moment),
    /// Never due: a delete of a key it was never sent.
    Skip,
    Filtered,
    Expired,
}

impl Log {
    /// The next patch of a cursor: everything up to the head, if it fits the room; else half a room of what comes next and
    /// half a room of the newest keyed records beyond, and `more`. A cursor that the floor has passed starts anew.
    pub fn patch(&mut self, topic: TopicId, cursor: &Cursor, ask: &Ask<'_>) -> Patch {
        let anew = (!self.is_valid(cursor)).then(|| self.start(None).0);
        let cursor = anew.as_ref().unwrap_or(cursor);
        assert!(cursor.offset <= self.head, "a cursor is never beyond its log's head");
        self.runs.set_moment(ask.now);

        let room = ask.room.saturating_sub(self.head_len_bound(topic, cursor));
        let mut selected = self.select(cursor, ask, room);
        let mut ahead = Selection::empty(cursor.offset);
        let more = selected.to < self.head;
        if more {
            let half = self.select(cursor, ask, room / 2);
            let ahead_room = (room / 2).min(room.saturating_sub(half.bytes));
            ahead = self.select_ahead(cursor, ask, half.to, ahead_room);
            // What `ahead` does not need goes to the records.
            if ahead.bytes > 0 {
                selected = self.select(cursor, ask, room - ahead.bytes.min(room));
                ahead = self.select_ahead(cursor, ask, selected.to, ahead_room);
            }
        }
        self.assemble(topic, cursor, ask, &selected, &ahead, more)
    }

    /// The patch of a replica at `from`: as many of the next records as fit the room, tombstones among them however old they
    /// are.
    pub(super) fn patch_for_replica(
        &mut self,
        topic: TopicId,
        from: Offset,
        now: Moment,
        wall: WallEpoch,
        room: usize,
    ) -> Patch {
        let mut cursor = Cursor::at(from);
        if !self.is_valid(&cursor) {
            // Its counts mean nothing, and nobody reads them.
            let never_due = self.kinds.evicted_to();
            cursor.catch_up = Some(Box::new(CatchUp { never_due, ..CatchUp::default() }));
        }
        self.runs.set_moment(now);
        let ask = Ask::plain(now, wall, room);
        let selected = self.select(&cursor, &ask, room.saturating_sub(self.head_len_bound(topic, &cursor)));
        let more = selected.to < self.head;
        self.assemble(topic, &cursor, &ask, &selected, &Selection::empty(selected.to), more)
    }

    /// Takes records in order until `limit` bytes are full; one goes anyway.
    fn select(&mut self, cursor: &Cursor, ask: &Ask<'_>, limit: usize) -> Selection {
        let mut selection = Selection::empty(cursor.offset);
        let mut runs = 0;
        while selection.to < self.head && runs < RUNS_PER_PATCH {
            runs += 1;
            let index = self.runs.covering(selection.to, self.head, &self.records);
            let run = self.runs.run(index);
            for record in run.records_after(selection.to) {
                match judge(run, record, cursor, ask) {
                    Verdict::Skip => {}
                    Verdict::Filtered => selection.filtered += 1,
                    Verdict::Expired => selection.expired += 1,
                    Verdict::Send(_) if selection.records > 0 && selection.bytes + record.len() > limit => {
                        selection.to = Offset(record.offset.0 - 1);
                        return selection;
                    }
                    Verdict::Send(valid_until) => selection.add(index, record, valid_until),
                }
            }
            selection.to = run.to;
        }
        selection
    }

    /// Takes the newest keyed records above `to` that were not sent ahead yet, until `limit` bytes are full.
    fn select_ahead(&mut self, cursor: &Cursor, ask: &Ask<'_>, to: Offset, limit: usize) -> Selection {
        let mut selection = Selection::empty(to);
        let sent = cursor.catch_up.as_ref().map_or(Offset::ZERO, |catch_up| catch_up.ahead_to);
        let run = self.runs.newest(self.head, &self.records);
        for record in run.records_after(to.max(sent)).iter().rev() {
            if let Verdict::Send(valid_until) = judge(run, record, cursor, ask) {
                if selection.bytes + record.len() > limit {
                    break;
                }
                selection.add(0, record, valid_until);
            }
        }
        selection.spans.reverse();
        selection
    }

    fn assemble(
        &self,
        topic: TopicId,
        cursor: &Cursor,
        ask: &Ask<'_>,
        selected: &Selection,
        ahead: &Selection,
        more: bool,
    ) -> Patch {
        let (from, to) = (cursor.offset, selected.to);
        let counted_from = cursor.needs();
        let gone = self.kinds.between(counted_from, to.max(counted_from));
        let mut counts = Counts {
            records: selected.records,
            conflated: 0,
            filtered: selected.filtered,
            expired: selected.expired + gone.expired,
            overrun: gone.overrun,
            lost: gone.lost,
            ahead: ahead.records,
        };
        let named = counts.records + counts.filtered + counts.expired + counts.overrun + counts.lost;
        counts.conflated = to.since(from).checked_sub(named).expect("each offset is counted once");

        let reset = cursor.is_reset_due();
        let arrived = selected.newest_arrived.max(ahead.newest_arrived).unwrap_or(self.head_arrived);
        let head = Head {
            topic,
            from,
            to,
            counts,
            reset,
            more,
            checksum: (!more && ask.filter.is_none()).then_some(self.checksum()),
            time_us: ask.wall.unix_us(arrived),
        };
        let patch_len = head.len() + selected.bytes + ahead.bytes;
        let payload_len = 1 + encoded_len_varint(patch_len as u64) + patch_len;
        let mut frame = Vec::with_capacity(websocket_head_len(payload_len) + payload_len);
        put_websocket_head(&mut frame, payload_len);
        frame.push(SERVER_FRAME_PATCH_TAG);
        encode_varint(patch_len as u64, &mut frame);
        head.put(&mut frame);
        for span in &selected.spans {
            frame.extend_from_slice(&self.runs.run(span.run).bytes[span.start as usize..span.end as usize]);
        }
        if let Some(newest) = self.runs.made_newest() {
            for span in &ahead.spans {
                frame.extend_from_slice(&newest.bytes[span.start as usize..span.end as usize]);
            }
        }
        assert_eq!(frame.len(), frame.capacity(), "the length is known beforehand");

        let next = if more {
            let before = cursor.catch_up.as_deref().cloned().unwrap_or_default();
            let catch_up = CatchUp { is_reset_due: false, ahead_to: self.head, ..before };
            Cursor { offset: to, catch_up: Some(Box::new(catch_up)) }
        } else {
            Cursor::at(to)
        };
        let (valid_until, oldest_event) = (selected.valid_until, selected.oldest_event);
        Patch { frame: frame.into(), payload_len, next, from, to, more, reset, counts, valid_until, oldest_event }
    }

    /// What the fields before the records take at most.
    fn head_len_bound(&self, topic: TopicId, cursor: &Cursor) -> usize {
        let widest = Counts {
            filtered: self.head.0,
            expired: self.head.0,
            overrun: self.head.0,
            lost: self.head.0,
            ..Counts::default()
        };
        let head = Head {
            topic,
            from: cursor.offset,
            to: self.head,
            counts: widest,
            reset: true,
            more: true,
            checksum: Some(0),
            time_us: u64::MAX >> 1,
        };
        // The envelope: a tag and the patch's length, up to 4 GiB.
        head.len() + 1 + 5
    }
}

impl Selection {
    fn empty(to: Offset) -> Self {
        Self {
            spans: Vec::new(),
            bytes: 0,
            to,
            records: 0,
            filtered: 0,
            expired: 0,
            valid_until: Moment::NEVER,
            oldest_event: Moment::NEVER,
            newest_arrived: None,
        }
    }

    fn add(&mut self, run: usize, record: &RunRecord, valid_until: Moment) {
        match self.spans.last_mut() {
            Some(last) if last.run == run && last.end == record.start => last.end = record.end,
            Some(last) if last.run == run && last.start == record.end => last.start = record.start,
            _ => self.spans.push(Span { run, start: record.start, end: record.end }),
        }
        self.bytes += record.len();
        self.records += 1;
        self.newest_arrived = self.newest_arrived.max(Some(record.arrived));
        self.valid_until = self.valid_until.min(valid_until);
        if record.kind == Kind::Event && record.priority != Priority::Critical {
            self.oldest_event = self.oldest_event.min(record.arrived);
        }
    }
}

/// What is true of the record for everyone comes first, then the subscription's filter, then the windows of this one cursor:
/// so an event counts the same for a cursor whether the log still holds it or not.
fn judge(run: &Run, record: &RunRecord, cursor: &Cursor, ask: &Ask<'_>) -> Verdict {
    let reset_head = cursor.catch_up.as_ref().map_or(Offset::ZERO, |catch_up| catch_up.reset_head);
    match record.kind {
        Kind::Tombstone if record.offset <= reset_head => return Verdict::Skip,
        Kind::Event if record.deadline <= ask.now => return Verdict::Expired,
        Kind::Event if ask.only_new_events && record.offset <= reset_head => return Verdict::Filtered,
        _ => {}
    }
    if ask.filter.is_some_and(|filter| filter.holds_back(run, record)) {
        return Verdict::Filtered;
    }
    if record.kind != Kind::Event || record.priority == Priority::Critical {
        return Verdict::Send(Moment::NEVER);
    }
    let pressure = ask.pressure.and_then(|pressure| match record.priority {
        Priority::Low => Some(pressure.low),
        Priority::Normal => Some(pressure.normal),
        Priority::High | Priority::Critical => None,
    });
    let end = |window: Option<Duration>| window.map_or(Moment::NEVER, |window| record.arrived + window);
    let until = record.deadline.min(end(pressure)).min(end(ask.window));
    if until <= ask.now { Verdict::Expired } else { Verdict::Send(until) }
}

impl Filter {
    fn holds_back(&self, run: &Run, record: &RunRecord) -> bool {
        let is_too_low =
            record.kind != Kind::Tombstone && self.min_priority.is_some_and(|least| record.priority < least);
        is_too_low || (record.kind != Kind::Event && !run.key_of(record).starts_with(&self.key_prefix))
    }
}

pub(super) const SERVER_FRAME_PATCH_TAG: u8 = 6 << 3 | 2;

/// The fields of a `Patch` before its records.
struct Head {
    topic: TopicId,
    from: Offset,
    to: Offset,
    counts: Counts,
    reset: bool,
    more: bool,
    checksum: Option<u32>,
    time_us: u64,
}

impl Head {
    /// Field number and value of the varint fields, as in the wire contract.
    fn varints(&self) -> [(u8, u64); 10] {
        [
            (1, self.topic.0.into()),
            (2, self.from.0),
            (3, self.to.0),
            (5, self.counts.expired),
            (6, self.counts.overrun),
            (7, self.reset.into()),
            (8, self.more.into()),
            (10, self.time_us),
            (11, self.counts.lost),
            (13, self.counts.filtered),
        ]
    }

    fn len(&self) -> usize {
        let present = self.varints().into_iter().filter(|&(_, value)| value != 0);
        present.map(|(_, value)| 1 + encoded_len_varint(value)).sum::<usize>() + self.checksum.map_or(0, |_| 5)
    }

    fn put(&self, out: &mut Vec<u8>) {
        for (field, value) in self.varints().into_iter().filter(|&(_, value)| value != 0) {
            out.push(field << 3);
            encode_varint(value, out);
        }
        if let Some(checksum) = self.checksum {
            out.push(9 << 3 | 5);
            out.put_u32_le(checksum);
        }
    }
}

/// RFC 6455 section 5.2: the length in 7, 16 or 64 bits, the fewest that hold it; servers do not mask.
fn websocket_head_len(payload_len: usize) -> usize {
    match payload_len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

fn put_websocket_head(out: &mut Vec<u8>, payload_len: usize) {
    const FIN_BINARY: u8 = 0x82;
    out.push(FIN_BINARY);
    match websocket_head_len(payload_len) {
        2 => out.put_u8(u8::try_from(payload_len).expect("at most 125")),
        4 => {
            out.put_u8(126);
            out.put_u16(u16::try_from(payload_len).expect("at most 65,535"));
        }
        _ => {
            out.put_u8(127);
            out.put_u64(payload_len as u64);
        }
    }
}
