//! One live record: encoded once when it is appended, copied from then on.

use prost::encoding::{encode_varint, encoded_len_varint};

use super::{Priority, checksum};
use crate::clock::Moment;
use crate::ids::Offset;

/// The tag of `Patch.records`, field 4.
pub(super) const RECORDS_TAG: u8 = (4 << 3) | LENGTH_DELIMITED;
/// The tag of `Patch.ahead`, field 12.
pub(super) const AHEAD_TAG: u8 = (12 << 3) | LENGTH_DELIMITED;

const LENGTH_DELIMITED: u8 = 2;
const KEY_TAG: u8 = (1 << 3) | LENGTH_DELIMITED;
const VALUE_TAG: u8 = (2 << 3) | LENGTH_DELIMITED;
const DELETE_TAG: u8 = 3 << 3;
const PRIORITY_TAG: u8 = 4 << 3;
const WINDOW_TAG: u8 = 5 << 3;
const OFFSET_TAG: u8 = 6 << 3;

/// What a live record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Event,
    Value,
    /// The delete of a key, kept for those who still hold the key.
    Tombstone,
}

/// A live record.
#[derive(Debug)]
pub(super) struct Entry {
    /// The `Record` message without `window_ms`, which shrinks as time passes and is added in [`Entry::put`].
    body: Box<[u8]>,
    pub(super) arrived: Moment,
    /// When its window passes; `NEVER` for critical events and deletes.
    pub(super) deadline: Moment,
    /// Its part of the topic's checksum; zero unless it is a value.
    pub(super) term: u32,
    key_len: u32,
    pub(super) kind: Kind,
    pub(super) priority: Priority,
}

impl Entry {
    pub(super) fn new(kind: Kind, key: &[u8], value: &[u8], priority: Priority, offset: Offset) -> Self {
        let len = field_len(key) + field_len(value) + 2 * usize::from(kind == Kind::Tombstone) + 2;
        let mut body = Vec::with_capacity(len + 1 + encoded_len_varint(offset.0));
        put_field(KEY_TAG, key, &mut body);
        put_field(VALUE_TAG, value, &mut body);
        if kind == Kind::Tombstone {
            body.extend_from_slice(&[DELETE_TAG, 1]);
        }
        body.extend_from_slice(&[PRIORITY_TAG, priority as u8, OFFSET_TAG]);
        encode_varint(offset.0, &mut body);
        debug_assert_eq!(body.len(), body.capacity(), "the length is known beforehand, so the box is not moved");
        Self {
            body: body.into_boxed_slice(),
            arrived: Moment::default(),
            deadline: Moment::NEVER,
            term: if kind == Kind::Value { checksum::term(key, value) } else { 0 },
            key_len: u32::try_from(key.len()).expect("keys are shorter than a message"),
            kind,
            priority,
        }
    }

    /// An entry from its `Record` message as [`Entry::put`] wrote it, and its offset. Arrival and deadline are left open.
    pub(super) fn decode(record: &[u8]) -> (Offset, Self) {
        let mut rest = record;
        let key = take_field(KEY_TAG, &mut rest);
        let value = take_field(VALUE_TAG, &mut rest);
        let is_delete = take_varint(DELETE_TAG, &mut rest).is_some();
        let priority = take_varint(PRIORITY_TAG, &mut rest).and_then(|number| Priority::from_wire(number as i32));
        let offset = take_varint(OFFSET_TAG, &mut rest).expect("a record in a patch has its offset");
        let kind = match (key.is_empty(), is_delete) {
            (true, _) => Kind::Event,
            (false, false) => Kind::Value,
            (false, true) => Kind::Tombstone,
        };
        let entry = Self {
            body: record[..record.len() - rest.len()].into(),
            arrived: Moment::default(),
            deadline: Moment::NEVER,
            term: if kind == Kind::Value { checksum::term(key, value) } else { 0 },
            key_len: u32::try_from(key.len()).expect("keys are shorter than a message"),
            kind,
            priority: priority.expect("a record in a patch has a priority"),
        };
        (Offset(offset), entry)
    }

    /// Stands for an event whose window had passed before it came: it is counted, and never sent.
    pub(super) fn expired_event() -> Self {
        Self {
            body: Box::default(),
            arrived: Moment::default(),
            // Before every clock: the home's may have been ahead of this shard's by some microseconds.
            deadline: Moment(0),
            term: 0,
            key_len: 0,
            kind: Kind::Event,
            priority: Priority::Low,
        }
    }

    /// Bytes it keeps on the heap.
    pub(super) fn body_bytes(&self) -> usize {
        self.body.len()
    }

    pub(super) fn key(&self) -> &[u8] {
        let start = key_start(self.key_len);
        &self.body[start..start + self.key_len as usize]
    }

    pub(super) fn value(&self) -> &[u8] {
        let after_key = key_start(self.key_len) + self.key_len as usize;
        match self.body[after_key..].split_first() {
            Some((&VALUE_TAG, mut rest)) => {
                let len = prost::encoding::decode_varint(&mut rest).expect("the log wrote it itself");
                &rest[..usize::try_from(len).expect("it is shorter than the body")]
            }
            _ => &[],
        }
    }

    /// True if it is an event whose window has passed.
    pub(super) fn is_expired_event(&self, now: Moment) -> bool {
        self.kind == Kind::Event && self.deadline <= now
    }

    /// Appends it as a field of a patch, with what is left of its window. Returns where in `out` its key stands.
    pub(super) fn put(&self, tag: u8, now: Moment, out: &mut Vec<u8>) -> (u32, u32) {
        let window_ms = (self.deadline != Moment::NEVER).then(|| {
            let left_ms = self.deadline.since(now).as_millis();
            u64::try_from(left_ms).map_or(u64::from(u32::MAX), |left_ms| left_ms.clamp(1, u32::MAX.into()))
        });
        let window_len = window_ms.map_or(0, |window_ms| 1 + encoded_len_varint(window_ms));
        out.push(tag);
        encode_varint((self.body.len() + window_len) as u64, out);
        let key_start = out.len() + key_start(self.key_len);
        out.extend_from_slice(&self.body);
        if let Some(window_ms) = window_ms {
            out.push(WINDOW_TAG);
            encode_varint(window_ms, out);
        }
        (u32::try_from(key_start).expect("runs are far shorter than 4 GiB"), self.key_len)
    }
}

/// The key is the first field of a body that has one.
fn key_start(key_len: u32) -> usize {
    if key_len == 0 { 0 } else { 1 + encoded_len_varint(key_len.into()) }
}

fn field_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { 1 + encoded_len_varint(bytes.len() as u64) + bytes.len() }
}

/// The field's bytes, if it comes next.
fn take_field<'a>(tag: u8, rest: &mut &'a [u8]) -> &'a [u8] {
    let len = take_varint(tag, rest).map_or(0, |len| usize::try_from(len).expect("it is shorter than its record"));
    let (field, after) = rest.split_at(len);
    *rest = after;
    field
}

/// The number behind `tag`, if that comes next.
fn take_varint(tag: u8, rest: &mut &[u8]) -> Option<u64> {
    let (&first, mut after) = rest.split_first()?;
    (first == tag).then(|| {
        let number = prost::encoding::decode_varint(&mut after).expect("an entry wrote it");
        *rest = after;
        number
    })
}

fn put_field(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        out.push(tag);
        encode_varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Message;

    use super::*;
    use crate::protocol::wire;

    #[test]
    fn an_entry_is_the_wire_record_and_gives_back_key_and_value() {
        for (kind, key, value) in [
            (Kind::Event, vec![], vec![7; 300]),
            (Kind::Event, vec![], vec![]),
            (Kind::Value, vec![1; 255], vec![2; 127]),
            (Kind::Value, vec![1], vec![]),
            (Kind::Tombstone, vec![1; 128], vec![]),
        ] {
            let mut entry = Entry::new(kind, &key, &value, Priority::High, Offset(300));
            assert_eq!((entry.key(), entry.value()), (&key[..], &value[..]));
            entry.deadline = Moment(0) + Duration::from_micros(2_500);
            let mut field = vec![9];
            let (key_start, key_len) = entry.put(RECORDS_TAG, Moment(0), &mut field);
            assert_eq!(field[key_start as usize..][..key_len as usize], key);
            assert_eq!(field[1], RECORDS_TAG);
            let record = wire::Record::decode_length_delimited(&field[2..]).expect("a record");
            assert_eq!(record.key, key);
            assert_eq!(record.value, value);
            assert_eq!((record.delete, record.priority), (kind == Kind::Tombstone, 3));
            assert_eq!((record.offset, record.window_ms), (300, 2));
        }
    }

    #[test]
    fn what_is_left_of_a_window_is_never_said_to_be_nothing() {
        let mut entry = Entry::new(Kind::Value, b"k", b"v", Priority::Low, Offset(1));
        entry.deadline = Moment(10);
        let mut field = Vec::new();
        entry.put(RECORDS_TAG, Moment(20), &mut field);
        assert_eq!(wire::Record::decode_length_delimited(&field[1..]).expect("a record").window_ms, 1);
    }
}
