//! What travels from a topic's home to a replica of its log.

use bytes::Bytes;
use prost::encoding::decode_varint;

use super::entry::RECORDS_TAG;
use super::kinds::Fates;
use super::patch::SERVER_FRAME_PATCH_TAG;
use super::{Log, Patch};
use crate::clock::Moment;
use crate::ids::Offset;

/// Where a replica has been brought to. The home keeps one for each attached shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaCursor {
    pub(super) offset: Offset,
    /// Nothing was sent yet.
    pub(super) is_new: bool,
    /// The head when it began from nothing: what was sent since was live then, so only later deletes have to reach it.
    pub(super) reset_head: Offset,
    /// What became of the events up to here was told.
    pub(super) evicted_to: Offset,
    pub(super) tombstone_floor: Offset,
    /// So many restarted windows were told.
    pub(super) restarts: u64,
}

impl ReplicaCursor {
    pub(super) fn new(home: &Log) -> Self {
        Self {
            offset: Offset::ZERO,
            is_new: true,
            reset_head: home.head,
            evicted_to: home.kinds.floor(),
            tombstone_floor: home.tombstone_floor,
            restarts: home.restarts,
        }
    }

    /// The offset it has been brought to.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// The home's memory of what its events were should reach back to here: the replica was not told of later ones. One of
    /// those that [`Log::retain`] wants the lowest of.
    #[must_use]
    pub fn needs(&self) -> Offset {
        self.evicted_to
    }

    /// Deletes above this offset have to reach the replica.
    pub(super) fn deletes_due_after(&self) -> Offset {
        self.offset.max(self.reset_head)
    }
}

/// What moves a replica from one offset to a later one: the encoded client bytes, and beside them what those do not say.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// The records of `(from, to]`. [`Transfer::shareable`] says whether clients may be sent it.
    pub patch: Patch,
    /// The home still knew what every offset of the patch was, so its counts are right.
    pub(super) is_counted: bool,
    /// The replica forgets everything it holds first.
    pub(super) is_anew: bool,
    /// Not yet a moment of the home's state: another one follows.
    pub(super) more: bool,
    /// Each live record of `(from, to]`, in order.
    pub(super) beside: Vec<Beside>,
    /// The windows of older records that a `replace` began anew.
    pub(super) restarted: Vec<(Offset, Moment)>,
    /// What became of the events that left the home's log since the last transfer.
    pub(super) fates: Fates,
    pub(super) tombstone_floor: Offset,
    pub(super) head_arrived: Moment,
    pub(super) last_of_priority: [Offset; 4],
    /// The home's, which is the replica's when `more` is not set.
    pub(super) checksum: u32,
}

/// What the bytes do not say of a live record. An event whose window had passed is not in them at all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beside {
    pub(super) offset: Offset,
    pub(super) arrived: Moment,
    pub(super) deadline: Moment,
}

impl Transfer {
    /// Approximate bytes that it keeps alive.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>()
            + self.patch.frame.len()
            + self.beside.capacity() * size_of::<Beside>()
            + self.restarted.capacity() * size_of::<(Offset, Moment)>()
            + self.fates.memory_bytes()
    }

    /// Not yet a moment of the home's state: the replica holds it until the last one has come.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// True if the replica begins from nothing.
    #[must_use]
    pub fn is_anew(&self) -> bool {
        self.is_anew
    }

    /// The patch, if everyone who is at its `from` may be sent it untouched once the replica has followed, until its
    /// `valid_until`.
    #[must_use]
    pub fn shareable(&self) -> Option<&Patch> {
        (!self.is_anew && !self.more && self.is_counted && !self.patch.next.is_catching_up()).then_some(&self.patch)
    }

    /// The encoded records, without their tags and lengths.
    pub(super) fn records(&self) -> Records<'_> {
        Records::new(&self.patch.frame, self.patch.payload_len)
    }
}

/// Walks the records in a frame that [`Log::patch`] made.
#[derive(Clone)]
pub(super) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    fn new(frame: &'a Bytes, payload_len: usize) -> Self {
        let mut rest = &frame[frame.len() - payload_len..];
        assert_eq!(rest.split_off_first(), Some(&SERVER_FRAME_PATCH_TAG), "the payload is a patch");
        let len = varint(&mut rest);
        assert_eq!(len, rest.len() as u64, "the frame ends with its patch");
        // The fields before the records.
        while let Some(&tag) = rest.first()
            && tag != RECORDS_TAG
        {
            rest = &rest[1..];
            match tag & 7 {
                0 => _ = varint(&mut rest),
                5 => rest = &rest[4..],
                wire_type => panic!("a patch has no field of wire type {wire_type} before its records"),
            }
        }
        Self { rest }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let tag = self.rest.split_off_first()?;
        assert_eq!(*tag, RECORDS_TAG, "nothing but records follows the first one");
        let len = usize::try_from(varint(&mut self.rest)).expect("a record is shorter than its frame");
        let (record, rest) = self.rest.split_at(len);
        self.rest = rest;
        Some(record)
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    decode_varint(bytes).expect("the home wrote it")
}
