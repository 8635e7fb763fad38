//! Reading just enough: of a patch the head, the number of records, and the stamps at both ends. Every length is followed,
//! nothing is allocated.

use crate::cli::bench::payload;

/// What a server frame is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Envelope<'a> {
    Patch(&'a [u8]),
    Published,
    Other,
}

/// What an envelope holds; `None` if it is none.
pub(super) fn envelope(bytes: &[u8]) -> Option<Envelope<'_>> {
    let mut envelope = Envelope::Other;
    for field in fields(bytes) {
        match field? {
            Field::Bytes(6, body) => envelope = Envelope::Patch(body),
            Field::Bytes(5, _) => envelope = Envelope::Published,
            _ => {}
        }
    }
    Some(envelope)
}

/// What has to be known of a patch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PatchHead {
    pub(super) topic: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) records: u64,
    pub(super) expired: u64,
    pub(super) overrun: u64,
    pub(super) lost: u64,
    pub(super) filtered: u64,
    pub(super) reset: bool,
    pub(super) more: bool,
    /// Stamp of the first record; 0 if there is none.
    pub(super) oldest_stamp: u64,
    /// Stamp of the newest record, those `ahead` among them; 0 if there is none.
    pub(super) newest_stamp: u64,
}

impl PatchHead {
    /// Takes over a field that is no record.
    fn add(&mut self, field: &Field<'_>) {
        match *field {
            Field::Varint(1, value) => self.topic = value,
            Field::Varint(2, value) => self.from = value,
            Field::Varint(3, value) => self.to = value,
            Field::Varint(5, value) => self.expired = value,
            Field::Varint(6, value) => self.overrun = value,
            Field::Varint(7, value) => self.reset = value != 0,
            Field::Varint(8, value) => self.more = value != 0,
            Field::Varint(11, value) => self.lost = value,
            Field::Varint(13, value) => self.filtered = value,
            _ => {}
        }
    }
}

/// The head of a patch; `None` if it is none.
pub(super) fn patch(bytes: &[u8]) -> Option<PatchHead> {
    let mut head = PatchHead::default();
    let (mut first, mut last, mut last_ahead): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
    for field in fields(bytes) {
        match field? {
            Field::Bytes(4, record) => {
                if head.records == 0 {
                    first = record;
                }
                last = record;
                head.records += 1;
            }
            Field::Bytes(12, record) => last_ahead = record,
            other => head.add(&other),
        }
    }
    head.oldest_stamp = record_stamp(first).unwrap_or(0);
    head.newest_stamp = record_stamp(last).unwrap_or(0).max(record_stamp(last_ahead).unwrap_or(0));
    Some(head)
}

fn record_stamp(record: &[u8]) -> Option<u64> {
    let value = fields(record).find_map(|field| match field {
        Some(Field::Bytes(2, value)) => Some(value),
        _ => None,
    });
    value.and_then(payload::stamp)
}

/// One protobuf field: its number and what it holds.
enum Field<'a> {
    Varint(u64, u64),
    Bytes(u64, &'a [u8]),
    Fixed,
}

/// The fields of a message, in order; `None` ends them where they are broken.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Option<Field<'_>>> {
    let mut is_broken = false;
    std::iter::from_fn(move || {
        if bytes.is_empty() || is_broken {
            return None;
        }
        let field = next_field(&mut bytes);
        is_broken = field.is_none();
        Some(field)
    })
}

fn next_field<'a>(bytes: &mut &'a [u8]) -> Option<Field<'a>> {
    let tag = varint(bytes)?;
    let number = tag >> 3;
    match tag & 7 {
        0 => Some(Field::Varint(number, varint(bytes)?)),
        1 => split(bytes, 8).map(|_| Field::Fixed),
        2 => {
            let len = usize::try_from(varint(bytes)?).ok()?;
            Some(Field::Bytes(number, split(bytes, len)?))
        }
        5 => split(bytes, 4).map(|_| Field::Fixed),
        _ => None,
    }
}

fn split<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (front, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(front)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::protocol::wire::{self, server_frame::Body};

    fn record(stamp: u64) -> wire::Record {
        wire::Record { value: payload::value(stamp, 1, 64).into(), offset: 5, ..Default::default() }
    }

    #[test]
    fn what_is_skimmed_is_what_a_decoder_reads() {
        let patch = wire::Patch {
            topic_id: 3,
            from: 100,
            to: 100_000,
            records: vec![record(70), record(80), record(90)],
            expired: 1,
            overrun: 2,
            lost: 3,
            filtered: 4,
            reset: true,
            more: true,
            checksum: Some(9),
            time_us: 1 << 50,
            ahead: vec![record(95)],
        };
        let frame = wire::ServerFrame { request: 300, body: Some(Body::Patch(patch)) }.encode_to_vec();
        let Some(Envelope::Patch(body)) = envelope(&frame) else { panic!("a patch") };
        let expected = PatchHead {
            topic: 3,
            from: 100,
            to: 100_000,
            records: 3,
            expired: 1,
            overrun: 2,
            lost: 3,
            filtered: 4,
            reset: true,
            more: true,
            oldest_stamp: 70,
            newest_stamp: 95,
        };
        assert_eq!(super::patch(body), Some(expected));
        assert_eq!(super::patch(&body[..body.len() - 1]), None, "a cut patch is no patch");
    }
}
