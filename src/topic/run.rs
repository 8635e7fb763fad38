//! Runs of encoded live records, made at most once per state and moment, and copied from by every cursor that passes.

use super::Priority;
use super::entry::{AHEAD_TAG, Entry, Kind, RECORDS_TAG};
use super::segment::Segments;
use crate::clock::Moment;
use crate::ids::Offset;
use crate::limits::PATCH_BYTES;

/// The runs that some cursor asked for since the log last changed or the clock last moved.
#[derive(Debug, Default)]
pub(super) struct Runs {
    made_at: Moment,
    /// Disjoint, ascending.
    runs: Vec<Run>,
    /// The newest keyed records, as the field `ahead`.
    newest: Option<Run>,
    /// How many were made, those among them that were forgotten since.
    made: u32,
}

/// The live records of `(after, to]`, encoded one behind the other.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) after: Offset,
    pub(super) to: Offset,
    pub(super) bytes: Vec<u8>,
    pub(super) records: Vec<RunRecord>,
}

/// One record of a run: what decides whether a cursor is given it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunRecord {
    pub(super) offset: Offset,
    pub(super) arrived: Moment,
    pub(super) deadline: Moment,
    /// Its bytes in the run; empty for an event whose window has passed.
    pub(super) start: u32,
    pub(super) end: u32,
    key_start: u32,
    key_len: u32,
    pub(super) kind: Kind,
    pub(super) priority: Priority,
}

impl Runs {
    /// Forgets all: the log changed, or nobody will ask again in this turn.
    pub(super) fn clear(&mut self) {
        self.runs = Vec::new();
        self.newest = None;
    }

    /// How many runs were made since this was asked last.
    pub(super) fn take_made(&mut self) -> u32 {
        std::mem::take(&mut self.made)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.runs.iter().chain(&self.newest).map(Run::memory_bytes).sum()
    }

    /// Runs say what is left of windows now, not what was left earlier.
    pub(super) fn set_moment(&mut self, now: Moment) {
        if self.made_at != now {
            self.clear();
            self.made_at = now;
        }
    }

    pub(super) fn run(&self, index: usize) -> &Run {
        &self.runs[index]
    }

    /// The index of the run with the records directly above `position`, which is below `head`; made if there is none.
    pub(super) fn covering(&mut self, position: Offset, head: Offset, records: &Segments) -> usize {
        let next = self.runs.partition_point(|run| run.after <= position);
        if next > 0 && position < self.runs[next - 1].to {
            return next - 1;
        }
        let limit = self.runs.get(next).map_or(head, |run| run.after);
        let mut run = Run { after: position, to: limit, bytes: Vec::new(), records: Vec::new() };
        for (offset, entry) in records.after(position) {
            if offset > limit {
                break;
            }
            if run.bytes.len() + entry.body_bytes() > PATCH_BYTES && !run.records.is_empty() {
                run.to = Offset(offset.0 - 1);
                break;
            }
            run.push(offset, entry, RECORDS_TAG, self.made_at);
        }
        self.runs.insert(next, run);
        self.made += 1;
        next
    }

    /// The newest keyed records, to half a patch, as the field `ahead`.
    pub(super) fn newest(&mut self, head: Offset, records: &Segments) -> &Run {
        let now = self.made_at;
        let made = &mut self.made;
        self.newest.get_or_insert_with(|| {
            *made += 1;
            let mut bytes = 0;
            let mut newest: Vec<_> = records
                .newest_first()
                .filter(|(_, entry)| entry.kind != Kind::Event)
                .take_while(|(_, entry)| {
                    bytes += entry.body_bytes();
                    bytes <= PATCH_BYTES / 2
                })
                .collect();
            newest.reverse();
            let mut run = Run { after: Offset::ZERO, to: head, bytes: Vec::new(), records: Vec::new() };
            newest.into_iter().for_each(|(offset, entry)| run.push(offset, entry, AHEAD_TAG, now));
            run
        })
    }

    /// The run that [`Runs::newest`] made.
    pub(super) fn made_newest(&self) -> Option<&Run> {
        self.newest.as_ref()
    }
}

impl Run {
    fn push(&mut self, offset: Offset, entry: &Entry, tag: u8, now: Moment) {
        let start = self.len();
        let is_sent = !entry.is_expired_event(now);
        let (key_start, key_len) = if is_sent { entry.put(tag, now, &mut self.bytes) } else { (start, 0) };
        self.records.push(RunRecord {
            offset,
            arrived: entry.arrived,
            deadline: entry.deadline,
            start,
            end: self.len(),
            key_start,
            key_len,
            kind: entry.kind,
            priority: entry.priority,
        });
    }

    fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("a run is one patch and one record long at most")
    }

    fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.records.capacity() * size_of::<RunRecord>()
    }

    pub(super) fn key_of(&self, record: &RunRecord) -> &[u8] {
        &self.bytes[record.key_start as usize..][..record.key_len as usize]
    }

    /// The records above `position`.
    pub(super) fn records_after(&self, position: Offset) -> &[RunRecord] {
        &self.records[self.records.partition_point(|record| record.offset <= position)..]
    }
}

impl RunRecord {
    pub(super) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }
}
