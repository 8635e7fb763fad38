//! The log against a model that remembers every offset for ever, and the fine print by examples.

#[cfg(test)]
mod catching_up;
#[cfg(test)]
mod fine_print;
mod model;
#[cfg(test)]
mod random;
#[cfg(test)]
mod random_replica;
#[cfg(test)]
mod replica;
pub(crate) mod world;

use bytes::Bytes;
use prost::Message;

use super::Patch;
#[cfg(test)]
use super::{NewRecord, Priority};
use crate::protocol::wire;

/// The message in a frame whose WebSocket header is right.
fn decoded(patch: &Patch) -> wire::Patch {
    let frame = &patch.frame;
    assert_eq!(frame[0], 0x82, "final, binary");
    let (head_len, said_len) = match frame[1] {
        126 => (4, usize::from(u16::from_be_bytes([frame[2], frame[3]]))),
        127 => (10, usize::try_from(u64::from_be_bytes(frame[2..10].try_into().unwrap())).unwrap()),
        len => (2, usize::from(len)),
    };
    let fewest = if said_len < 126 {
        2
    } else if said_len <= 0xffff {
        4
    } else {
        10
    };
    assert_eq!(head_len, fewest);
    assert_eq!((said_len, frame.len()), (patch.payload_len, head_len + said_len));
    let message = wire::ServerFrame::decode(&frame[head_len..]).expect("a frame");
    match message.body {
        Some(wire::server_frame::Body::Patch(patch)) => patch,
        other => panic!("no patch: {other:?}"),
    }
}

/// A record that sets a key; an event if the key is empty.
#[cfg(test)]
fn record(key: &str, value: &str) -> NewRecord {
    NewRecord {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        is_delete: false,
        priority: Priority::Normal,
        window: None,
    }
}

#[cfg(test)]
fn delete(key: &str) -> NewRecord {
    NewRecord { is_delete: true, ..record(key, "") }
}
