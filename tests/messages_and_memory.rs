//! What a client's message takes of the heap while it is decoded and checked, beside its own length: protobuf bombs.

use std::alloc::System;

use prost::Message as _;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tidegate::limits::Limits;
use tidegate::protocol::envelope::{EnvelopeLimits, decode};
use tidegate::protocol::wire::{ClientFrame, Publish, Record, client_frame::Body};
use tidegate::topic::{NewRecord, TopicClass};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn message(records: usize, record: &Record) -> Vec<u8> {
    let publish = Publish { topic: "t".into(), records: vec![record.clone(); records], ..Publish::default() };
    ClientFrame { request: 1, body: Some(Body::Publish(publish)) }.encode_to_vec()
}

/// Heap bytes that were taken while a message was decoded and its records were checked. What was given back meanwhile counts, too.
fn taken(message: &[u8]) -> usize {
    let limits = Limits::default();
    let envelope = EnvelopeLimits { records: limits.publish_records };
    let class = TopicClass::catch_all();
    let region = Region::new(ALLOCATOR);
    let frame = decode(message, &envelope).expect("it is a publish");
    let Some(Body::Publish(publish)) = frame.body else { panic!("no publish") };
    let parse = |record| NewRecord::parse(record, &class, &limits);
    let records: Vec<NewRecord> =
        publish.records.into_iter().map(parse).collect::<Result<_, _>>().expect("they are good");
    let taken = region.change().bytes_allocated;
    assert!(!records.is_empty());
    taken
}

/// A record as it is held between the message and the log: two `Bytes` and a few numbers.
const RECORD_BYTES: usize = 88;

// One test, so that nothing else allocates meanwhile.
#[test]
fn a_message_takes_itself_and_so_much_for_each_record() {
    let limits = Limits::default();
    assert!(size_of::<Record>() <= RECORD_BYTES && size_of::<NewRecord>() <= RECORD_BYTES);
    let keyed = |value: usize| Record { key: "key".into(), value: vec![b'v'; value].into(), ..Record::default() };
    let mut most = 0;
    for record in [Record::default(), keyed(0), keyed(20), keyed(50), keyed(100)] {
        for records in [1, 10, 100, limits.publish_records] {
            let message = message(records, &record);
            if message.len() > limits.message_bytes {
                continue;
            }
            let taken = taken(&message);
            most = most.max(taken);
            // One copy that all fields share, one list that grows by doubling and is checked in place, and the topic.
            let list = records.next_power_of_two().max(4) * RECORD_BYTES;
            assert!(taken <= message.len() + list + 64, "{taken} for {records} records in {} bytes", message.len());
        }
    }
    // Whatever the records are, a message of the largest size is the worst.
    assert!(most <= 4 * limits.message_bytes, "{most}");
    assert!(most <= limits.message_bytes + limits.publish_records * RECORD_BYTES + 64, "{most}");
}
