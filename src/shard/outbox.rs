//! What one turn sends: one send for each connection, and the patches that the sends share.
//!
//! Everything here lives for one turn. Cursors move when a patch is queued; [`Outbox::cut`] says which frames a short send did
//! not begin, so that their cursors move back.

use bytes::Bytes;

use crate::fanout::Announcement;
use crate::ids::ClassId;
use crate::kernel::SocketId;
use crate::topic::{Cursor, Patch};

/// Nothing: no index is as large.
const NONE: u32 = u32::MAX;

/// A patch made this turn, for one subscriber or for all at the same place.
pub(super) struct TurnPatch {
    pub(super) patch: Patch,
    pub(super) class: ClassId,
    /// Where a subscriber that takes it stood before.
    pub(super) before: Cursor,
    /// Subscribers whose sockets began to take it; booked when the turn is settled.
    pub(super) takers: u64,
}

/// One frame in one connection's send; its bytes are the turn's.
struct Queued {
    kind: Kind,
    subscriber: u32,
    next: u32,
}

/// What a frame is: an index among the turn's.
#[derive(Clone, Copy)]
enum Kind {
    Patch(u32),
    Announcement(u32),
}

/// One connection's send. Small, since there is one for each delivery: what few sends have stands elsewhere.
pub(super) struct Entry {
    pub(super) socket: SocketId,
    /// The rest of a cut frame, and answers: an index among the turn's.
    waiting: u32,
    /// An index among the turn's.
    marker: u32,
    first: u32,
    last: u32,
    /// All bytes.
    pub(super) bytes: usize,
    /// Bytes of patches, without WebSocket headers.
    pub(super) payload: usize,
    /// Set when the socket did not take all.
    pub(super) is_settled: bool,
}

const _: () = assert!(size_of::<Entry>() <= 48 && size_of::<Queued>() <= 16, "one is written for each delivery");

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
    announcements: Vec<(Announcement, Bytes)>,
    waiting: Vec<[Bytes; 2]>,
    markers: Vec<Bytes>,
}

impl Outbox {
    pub(super) fn clear(&mut self) {
        let Self { entries, patches, queued, announcements, waiting, markers } = self;
        entries.clear();
        patches.clear();
        queued.clear();
        announcements.clear();
        waiting.clear();
        markers.clear();
    }

    /// Begins a connection's send; returns its index.
    pub(super) fn open(&mut self, socket: SocketId, waiting: Option<[Bytes; 2]>) -> u32 {
        let mut entry = Entry {
            socket,
            waiting: NONE,
            marker: NONE,
            first: NONE,
            last: NONE,
            bytes: 0,
            payload: 0,
            is_settled: false,
        };
        if let Some(waiting) = waiting {
            entry.bytes = waiting[0].len() + waiting[1].len();
            entry.waiting = index(self.waiting.len());
            self.waiting.push(waiting);
        }
        self.entries.push(entry);
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
        self.entries[entry as usize].payload += made.payload_len;
        let bytes = made.frame.len();
        self.push(entry, bytes, Queued { subscriber, kind: Kind::Patch(patch), next: NONE });
    }

    /// Puts a `Subscribed` into a connection's send.
    pub(super) fn push_announcement(&mut self, entry: u32, subscriber: u32, bytes: Bytes, announcement: Announcement) {
        let (kind, len) = (Kind::Announcement(index(self.announcements.len())), bytes.len());
        self.announcements.push((announcement, bytes));
        self.push(entry, len, Queued { subscriber, kind, next: NONE });
    }

    /// Puts the marker behind everything.
    pub(super) fn push_marker(&mut self, entry: u32, bytes: Bytes) {
        let entry = &mut self.entries[entry as usize];
        entry.bytes += bytes.len();
        entry.marker = index(self.markers.len());
        self.markers.push(bytes);
    }

    fn push(&mut self, entry: u32, bytes: usize, queued: Queued) {
        let at = index(self.queued.len());
        let entry = &mut self.entries[entry as usize];
        entry.bytes += bytes;
        if entry.first == NONE {
            entry.first = at;
        } else {
            self.queued[entry.last as usize].next = at;
        }
        entry.last = at;
        self.queued.push(queued);
    }

    /// The only piece of a send, if it is one frame and nothing else: so are most.
    pub(super) fn only_piece(&self, entry: &Entry) -> Option<&Bytes> {
        let is_alone = entry.waiting == NONE && entry.marker == NONE && entry.first == entry.last;
        self.queued.get(entry.first as usize).filter(|_| is_alone).map(|queued| self.bytes_of(queued))
    }

    /// The pieces of a send, in order, the first two as [`crate::fanout::Outlet::take`] gave them.
    pub(super) fn pieces(&self, entry: u32, into: &mut Vec<Bytes>) {
        let at = &self.entries[entry as usize];
        into.extend(self.waiting.get(at.waiting as usize).cloned().unwrap_or_default());
        into.extend(self.frames(entry).map(|queued| self.bytes_of(queued).clone()));
        into.extend(self.markers.get(at.marker as usize).cloned());
    }

    fn bytes_of(&self, queued: &Queued) -> &Bytes {
        match queued.kind {
            Kind::Patch(patch) => &self.patches[patch as usize].patch.frame,
            Kind::Announcement(at) => &self.announcements[at as usize].1,
        }
    }

    /// Whether the send has a marker, and it is among the first `begun` frames.
    pub(super) fn has_marker(&self, entry: u32, begun: usize) -> bool {
        self.entries[entry as usize].marker != NONE && self.frames(entry).count() < begun
    }

    /// Notes that the first `begun` frames of a send were begun. Returns how many bytes of patches that is.
    pub(super) fn begin(&mut self, entry: u32, begun: usize) -> u64 {
        let mut payload = 0;
        let mut at = self.entries[entry as usize].first;
        for _ in 0..begun {
            let Some(queued) = self.queued.get(at as usize) else { break };
            if let Kind::Patch(patch) = queued.kind {
                let made = &mut self.patches[patch as usize];
                made.takers += 1;
                payload += made.patch.payload_len as u64;
            }
            at = queued.next;
        }
        payload
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
                    announcement: self.announcements[at as usize].0,
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
