//! What one turn sends: one send for each connection, and the patches that the sends share.
//!
//! Everything here lives for one turn. Cursors move when a patch is queued; [`Outbox::cut`] says which frames a short send did
//! not begin, so that their cursors move back.

use bytes::Bytes;

use crate::fanout::Announcement;
use crate::ids::ClassId;
use crate::topic::{Cursor, Patch};

/// No frame.
const NONE: u32 = u32::MAX;

/// A patch made this turn, for one subscriber or for all at the same place.
pub(super) struct TurnPatch {
    pub(super) patch: Patch,
    pub(super) class: ClassId,
    /// Where a subscriber that takes it stood before.
    pub(super) before: Cursor,
}

/// One frame in one connection's send.
struct Queued {
    bytes: Bytes,
    subscriber: u32,
    kind: Kind,
    next: u32,
}

/// What a frame is: an index among the turn's.
#[derive(Clone, Copy)]
enum Kind {
    Patch(u32),
    Announcement(u32),
}

/// One connection's send.
pub(super) struct Entry {
    pub(super) connection: u32,
    /// The rest of a cut frame, and answers.
    waiting: [Bytes; 2],
    marker: Option<Bytes>,
    first: u32,
    last: u32,
    /// All bytes.
    pub(super) bytes: usize,
    /// Bytes of patches, without WebSocket headers.
    pub(super) payload: usize,
    /// Set when the socket did not take all.
    pub(super) is_settled: bool,
}

/// What a short send did not begin, newest first, so that undoing in this order ends at the oldest cursor.
pub(super) enum TakenBack {
    /// A patch for a subscriber.
    Patch { subscriber: u32, patch: u32 },
    /// A `Subscribed`.
    Announcement { subscriber: u32, announcement: Announcement },
}

/// The sends of one turn.
#[derive(Default)]
pub(super) struct Outbox {
    pub(super) entries: Vec<Entry>,
    pub(super) patches: Vec<TurnPatch>,
    queued: Vec<Queued>,
    announcements: Vec<Announcement>,
}

impl Outbox {
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.queued.clear();
        self.patches.clear();
        self.announcements.clear();
    }

    /// Begins a connection's send; returns its index.
    pub(super) fn open(&mut self, connection: u32, waiting: [Bytes; 2]) -> u32 {
        let bytes = waiting[0].len() + waiting[1].len();
        self.entries.push(Entry {
            connection,
            waiting,
            marker: None,
            first: NONE,
            last: NONE,
            bytes,
            payload: 0,
            is_settled: false,
        });
        index(self.entries.len() - 1)
    }

    /// Keeps a patch for this turn; returns its index.
    pub(super) fn keep(&mut self, patch: TurnPatch) -> u32 {
        self.patches.push(patch);
        index(self.patches.len() - 1)
    }

    /// Puts a patch into a connection's send.
    pub(super) fn push_patch(&mut self, entry: u32, subscriber: u32, patch: u32) {
        let made = &self.patches[patch as usize].patch;
        let (bytes, payload) = (made.frame.clone(), made.payload_len);
        self.entries[entry as usize].payload += payload;
        self.push(entry, Queued { bytes, subscriber, kind: Kind::Patch(patch), next: NONE });
    }

    /// Puts a `Subscribed` into a connection's send.
    pub(super) fn push_announcement(&mut self, entry: u32, subscriber: u32, bytes: Bytes, announcement: Announcement) {
        let kind = Kind::Announcement(index(self.announcements.len()));
        self.announcements.push(announcement);
        self.push(entry, Queued { bytes, subscriber, kind, next: NONE });
    }

    /// Puts the marker behind everything.
    pub(super) fn push_marker(&mut self, entry: u32, bytes: Bytes) {
        let entry = &mut self.entries[entry as usize];
        entry.bytes += bytes.len();
        entry.marker = Some(bytes);
    }

    fn push(&mut self, entry: u32, queued: Queued) {
        let at = index(self.queued.len());
        let entry = &mut self.entries[entry as usize];
        entry.bytes += queued.bytes.len();
        if entry.first == NONE {
            entry.first = at;
        } else {
            self.queued[entry.last as usize].next = at;
        }
        entry.last = at;
        self.queued.push(queued);
    }

    /// The pieces of a send, in order, the first two as [`crate::fanout::Outlet::take`] gave them.
    pub(super) fn pieces(&self, entry: u32, into: &mut Vec<Bytes>) {
        let entry = &self.entries[entry as usize];
        into.extend(entry.waiting.iter().cloned());
        let mut at = entry.first;
        while let Some(queued) = self.queued.get(at as usize) {
            into.push(queued.bytes.clone());
            at = queued.next;
        }
        into.extend(entry.marker.clone());
    }

    /// Whether the send has a marker, and it is among the first `begun` frames.
    pub(super) fn has_marker(&self, entry: u32, begun: usize) -> bool {
        self.entries[entry as usize].marker.is_some() && self.frames(entry).count() < begun
    }

    /// The patches of a send whose frames were begun: the first `begun`.
    pub(super) fn begun(&self, entry: u32, begun: usize) -> impl Iterator<Item = &TurnPatch> {
        self.frames(entry).take(begun).filter_map(|queued| match queued.kind {
            Kind::Patch(patch) => Some(&self.patches[patch as usize]),
            Kind::Announcement(_) => None,
        })
    }

    /// What is taken back when only the first `begun` frames were begun.
    pub(super) fn cut(&self, entry: u32, begun: usize) -> Vec<TakenBack> {
        let mut back: Vec<_> = self
            .frames(entry)
            .skip(begun)
            .map(|queued| match queued.kind {
                Kind::Patch(patch) => TakenBack::Patch { subscriber: queued.subscriber, patch },
                Kind::Announcement(at) => TakenBack::Announcement {
                    subscriber: queued.subscriber,
                    announcement: self.announcements[at as usize],
                },
            })
            .collect();
        back.reverse();
        back
    }

    fn frames(&self, entry: u32) -> impl Iterator<Item = &Queued> {
        let mut at = self.entries[entry as usize].first;
        std::iter::from_fn(move || {
            let queued = self.queued.get(at as usize)?;
            at = queued.next;
            Some(queued)
        })
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("one turn sends far fewer than 2^32 frames")
}
