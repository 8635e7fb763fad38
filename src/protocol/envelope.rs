//! Envelopes: one protobuf message for each WebSocket message.
//!
//! What a client sends is looked over before anything is allocated for it. Decoded, the fields of a publish share
//! one copy of the message; a [`wire::Record`] takes about a hundred bytes beside it, and their number is limited, so what a
//! message becomes stays within four times the limit of a message.

mod scan;
#[cfg(all(test, feature = "server"))]
mod tests;

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::frame::{Opcode, head_len, put_head};
use super::wire;

/// What a client's envelope may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvelopeLimits {
    /// Records of one publish.
    pub records: usize,
}

#[cfg(feature = "server")]
impl From<&crate::limits::Limits> for EnvelopeLimits {
    fn from(limits: &crate::limits::Limits) -> Self {
        Self { records: limits.publish_records }
    }
}

/// A message that is no envelope, or too large a one. It is answered by an `Error`; the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// Of the frame, as far as it could be read; else 0.
    pub request: u64,
    /// `INVALID` or `TOO_LARGE`.
    pub code: wire::Code,
    /// A sentence for people.
    pub reason: &'static str,
}

/// Decodes what a client sent.
///
/// # Errors
/// If it is not a [`wire::ClientFrame`], has no body, uses groups (which proto3 does not have), or has more records than
/// `limits` allow (see [`without_records`]). Nothing has been allocated for it then, unless it failed within a body.
pub fn decode(message: &[u8], limits: &EnvelopeLimits) -> Result<wire::ClientFrame, Malformed> {
    let request = scan::client_frame(message, limits)?;
    let invalid = |reason| Malformed { request, code: wire::Code::Invalid, reason };
    // One copy, which the fields then share.
    let frame = wire::ClientFrame::decode(Bytes::copy_from_slice(message))
        .map_err(|_| invalid("The message is not a valid ClientFrame."))?;
    if frame.body.is_none() {
        return Err(invalid("The frame has no body that this version knows."));
    }
    Ok(frame)
}

/// The request and the publish of a message that [`decode`] refused as `TOO_LARGE`, without its records, for which nothing is allocated:
/// its publisher numbered it, and the number counts. None if the rest is malformed, too.
#[must_use]
pub fn without_records(message: &[u8]) -> Option<(u64, wire::Publish)> {
    let frame = FrameWithoutRecords::decode(message).ok()?;
    let PublishWithoutRecords { topic, sequence, replace } = frame.publish?;
    Some((frame.request, wire::Publish { topic, records: Vec::new(), sequence, replace }))
}

/// A `ClientFrame` of which everything but a publish is skipped.
#[derive(Clone, PartialEq, prost::Message)]
struct FrameWithoutRecords {
    #[prost(uint64, tag = "1")]
    request: u64,
    #[prost(message, optional, tag = "5")]
    publish: Option<PublishWithoutRecords>,
}

/// A `Publish` of which the records are skipped.
#[derive(Clone, PartialEq, prost::Message)]
struct PublishWithoutRecords {
    #[prost(string, tag = "1")]
    topic: String,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(bool, tag = "4")]
    replace: bool,
}

/// Encodes an answer as a whole WebSocket frame, head included. `request` is that of the frame it answers, or 0.
#[must_use]
pub fn encode(request: u64, body: wire::server_frame::Body) -> Bytes {
    let frame = wire::ServerFrame { request, body: Some(body) };
    let len = frame.encoded_len();
    let mut buffer = BytesMut::with_capacity(head_len(len) + len);
    put_head(&mut buffer, Opcode::Binary, len);
    frame.encode(&mut buffer).expect("the buffer was made for it, and grows");
    buffer.freeze()
}

/// Encodes what a client sends: a message's payload, since the client's library puts the head and the mask to it.
#[must_use]
pub fn encode_client(frame: &wire::ClientFrame) -> Bytes {
    let mut buffer = BytesMut::with_capacity(frame.encoded_len());
    frame.encode(&mut buffer).expect("the buffer was made for it, and grows");
    buffer.freeze()
}

/// Decodes what a server sent. Its byte fields share `message`.
///
/// # Errors
/// If it is not a [`wire::ServerFrame`]. One without a body is of a later version: to be skipped, not an error.
pub fn decode_server(message: Bytes) -> Result<wire::ServerFrame, Malformed> {
    wire::ServerFrame::decode(message).map_err(|_| Malformed {
        request: 0,
        code: wire::Code::Invalid,
        reason: "The message is not a valid ServerFrame.",
    })
}
