//! What a client is sent: answers that it does not read, pongs, and the size of patches.

use bytes::Bytes;
use prost::Message as _;
use tidegate::limits::PATCH_BYTES;
use tidegate::protocol::wire::{Hello, Patch, Ping, Record, Subscribe, client_frame, server_frame::Body};
use tidegate::shard::LimitHits;

use super::hits;
use super::support::raw::{BINARY, FIN, Heard, PING, Raw, envelope, masked};
use super::support::wait_until;
use super::support::{Client, end, engine, keyed};

#[test]
fn a_client_that_does_not_read_its_answers_is_not_read_from_until_it_does() {
    const PINGS: u64 = 100_000;
    let engine = engine(|config| config.limits.answer_bytes = 10_000);
    let mut client = Raw::hello(engine.local_addr());
    let mut writing = client.stream.try_clone().expect("a descriptor");
    let writer = std::thread::spawn(move || {
        let ping = |request| masked(FIN | BINARY, &envelope(request, client_frame::Body::Ping(Ping::default())));
        for some in (1..=PINGS).collect::<Vec<_>>().chunks(1_000) {
            let bytes: Vec<_> = some.iter().copied().flat_map(ping).collect();
            std::io::Write::write_all(&mut writing, &bytes).expect("the engine reads again");
        }
    });
    wait_until("reading pauses", || hits(&engine).answer_bytes > 0);
    // What was received before reading paused waits as well, but that is at most a receive buffer or two.
    let held = engine.report().expect("the shard answers").gauges.connection_bytes;
    assert!(held < 200_000, "{held} bytes are held for one connection");
    for request in 1..=PINGS {
        let frame = client.frame();
        assert!(frame.request == request && matches!(frame.body, Some(Body::Pong(_))), "{request}: {frame:?}");
    }
    writer.join().expect("all was written");
    let hits = hits(&engine);
    assert_eq!(LimitHits { answer_bytes: 0, ..hits }, LimitHits::default());
    end(engine);
}

#[test]
fn every_ping_is_answered_in_its_place() {
    let engine = engine(|_| {});
    let mut client = Raw::hello(engine.local_addr());
    let mut bytes = Vec::new();
    for number in 0..10_u8 {
        bytes.extend(masked(FIN | PING, &[number]));
        let ping = client_frame::Body::Ping(Ping::default());
        bytes.extend(masked(FIN | BINARY, &envelope(u64::from(number) + 1, ping)));
    }
    client.write(&bytes);
    for number in 0..10_u8 {
        assert_eq!(client.hear(), Heard::Pong(vec![number]));
        assert!(matches!(client.hear(), Heard::Frame(frame) if frame.request == u64::from(number) + 1));
    }
    end(engine);
}

#[test]
fn pings_of_a_client_that_reads_nothing_fill_no_memory() {
    const PINGS: u32 = 1_000_000;
    let engine = engine(|_| {});
    let mut client = Raw::hello(engine.local_addr());
    for first in (0..PINGS).step_by(1_000) {
        let payload = |number: u32| [&number.to_be_bytes()[..], &[0; 121]].concat();
        client
            .write(&(first..first + 1_000).flat_map(|number| masked(FIN | PING, &payload(number))).collect::<Vec<_>>());
    }
    wait_until("all is read", || {
        engine.report().expect("the shard answers").counters.bytes_received > u64::from(PINGS) * 131
    });
    let held = engine.report().expect("the shard answers").gauges.connection_bytes;
    assert!(held < 20_000, "{held} bytes are held for one connection");
    assert_eq!(hits(&engine), LimitHits::default());
    // The last one is answered whatever happens, and no answer comes twice or out of order.
    let mut last = None;
    while last != Some(PINGS - 1) {
        let Heard::Pong(payload) = client.hear() else { panic!("no pong") };
        let number = u32::from_be_bytes(*payload.first_chunk().expect("four bytes"));
        assert!(last.is_none_or(|last| last < number), "{number} after {last:?}");
        last = Some(number);
    }
    end(engine);
}

/// Reads patches to the first one without `more`, and how long their frames were.
fn snapshot(client: &mut Client) -> Vec<(usize, Patch)> {
    let mut patches = Vec::new();
    loop {
        let frame = client.frame();
        let len = frame.encoded_len();
        let Some(Body::Patch(patch)) = frame.body else { panic!("{frame:?}") };
        let is_last = !patch.more;
        patches.push((len, patch));
        if is_last {
            return patches;
        }
    }
}

#[test]
fn a_patch_has_so_many_bytes_and_the_rest_follows() {
    const KEYS: usize = 3_000;
    let engine = engine(|_| {});
    let mut publisher = Client::hello(engine.local_addr());
    for some in (0..KEYS).collect::<Vec<_>>().chunks(50) {
        publisher
            .publish_records("t", some.iter().map(|key| keyed(&format!("{key:08}"), &"v".repeat(1_000))).collect());
    }
    let hello = Hello { credit_bytes: 100_000_000, ..Hello::default() };
    let (mut client, _) = Client::hello_with(engine.local_addr(), hello);
    client.send(client_frame::Body::Subscribe(Subscribe { topic: "t".into(), ..Subscribe::default() }));
    assert!(matches!(client.body(), Body::Subscribed(_)));
    let mut patches = Vec::new();
    let mut at = 0;
    loop {
        let frame = client.frame();
        let len = frame.encoded_len();
        let Some(Body::Patch(patch)) = frame.body else { panic!("{frame:?}") };
        assert_eq!((patch.from, patch.reset), (at, at == 0), "the chain holds");
        at = patch.to;
        client.send(client_frame::Body::Credit(tidegate::protocol::wire::Credit { bytes: len as u64 }));
        assert!(len <= PATCH_BYTES, "{len}");
        let is_last = !patch.more;
        patches.push((len, patch));
        if is_last {
            break;
        }
    }
    assert_eq!(patches.iter().map(|(_, patch)| patch.records.len()).sum::<usize>(), KEYS);
    let largest = patches.iter().map(|(len, _)| *len).max();
    assert!(largest > Some(PATCH_BYTES - 3_000), "the limit is what cuts them: {largest:?}");
    let (last, others) = patches.split_last().expect("there are several");
    assert!(last.1.checksum.is_some() && others.iter().all(|(_, patch)| patch.more && patch.checksum.is_none()));
    end(engine);
}

#[test]
fn a_record_beyond_a_patch_goes_alone() {
    let engine = engine(|config| {
        (config.limits.value_bytes, config.limits.message_bytes) = (200_000, 300_000);
    });
    let mut publisher = Client::hello(engine.local_addr());
    for key in ["a", "b", "c"] {
        let record = Record { key: key.into(), value: Bytes::from(vec![b'v'; 200_000]), ..Record::default() };
        publisher.publish_records("t", vec![record]);
    }
    let mut client = Client::hello(engine.local_addr());
    client.send(client_frame::Body::Subscribe(Subscribe { topic: "t".into(), ..Subscribe::default() }));
    assert!(matches!(client.body(), Body::Subscribed(_)));
    let patches = snapshot(&mut client);
    assert_eq!(patches.len(), 3);
    assert!(patches.iter().all(|(_, patch)| patch.records.len() == 1));
    end(engine);
}
