//! Envelopes, against prost alone: the scan before it refuses what prost would refuse, and what is too large, and nothing else.

use bytes::Bytes;
use prost::Message as _;

use crate::protocol::envelope::{EnvelopeLimits, decode, decode_server, encode_client, without_records};
use crate::protocol::wire::{ClientFrame, Code, Publish, Record, ServerFrame, client_frame::Body};

pub(crate) const LIMITS: EnvelopeLimits = EnvelopeLimits { records: 8 };

/// The bytes as what a client sent, and as what a server sent.
pub fn check(message: &[u8]) {
    compare(message);
    if let Ok(frame) = decode_server(Bytes::copy_from_slice(message)) {
        assert_eq!(decode_server(frame.encode_to_vec().into()), Ok(frame));
    } else {
        assert!(ServerFrame::decode(message).is_err());
    }
}

/// How a client's message was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Taken,
    TooLarge,
    /// For a reason that prost does not have.
    Stricter,
    Invalid,
}

/// Insists that prost makes the same of it.
pub(crate) fn compare(message: &[u8]) -> Verdict {
    match (decode(message, &LIMITS), ClientFrame::decode(message)) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours, theirs);
            assert!(record_count(&theirs) <= LIMITS.records);
            assert_eq!(decode(&encode_client(&ours), &LIMITS), Ok(ours));
            let room = if let Some(Body::Publish(publish)) = &theirs.body { publish.records.capacity() } else { 0 };
            // A vector that grew by doubling has at most twice the room it needs, and never less than four.
            assert!(room <= (2 * LIMITS.records).max(4), "{room} records' room, {} bytes each", size_of::<Record>());
            Verdict::Taken
        }
        (Err(malformed), Ok(theirs)) if malformed.code == Code::TooLarge => {
            // Repeated publishes count together even if another body between them has replaced the first.
            assert!(record_count(&theirs) > LIMITS.records || records_on_the_wire(message) > LIMITS.records);
            let rest = without_records(message).expect("prost takes all of it");
            assert_eq!(rest.0, theirs.request);
            if record_count(&theirs) > LIMITS.records
                && let Some(Body::Publish(publish)) = &theirs.body
            {
                // Encoded anew it has one body, so that nothing of others before it is left.
                let expected = Publish { records: Vec::new(), ..publish.clone() };
                assert_eq!(without_records(&theirs.encode_to_vec()), Some((theirs.request, expected)));
            }
            Verdict::TooLarge
        }
        (Err(malformed), Ok(theirs)) => {
            assert!(theirs.body.is_none() || malformed.reason.contains("wire type"), "{malformed:?}: {theirs:?}");
            Verdict::Stricter
        }
        (Err(malformed), Err(_)) => {
            assert!(malformed.code == Code::Invalid || records_on_the_wire(message) > LIMITS.records);
            Verdict::Invalid
        }
        (Ok(ours), Err(error)) => panic!("prost does not take it ({error}): {ours:?}"),
    }
}

fn record_count(frame: &ClientFrame) -> usize {
    if let Some(Body::Publish(publish)) = &frame.body { publish.records.len() } else { 0 }
}

/// Counts tags where records may begin, by brute force: an upper bound.
fn records_on_the_wire(message: &[u8]) -> usize {
    message.iter().filter(|&&byte| byte & !7 == 2 << 3).count()
}
