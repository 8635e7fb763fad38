//! Work of a fixed size on the data path, to be counted in instructions by callgrind: a figure that no other load on the machine moves.
//!
//! `benches/instructions/run` counts, and compares with `baseline.txt`. Alone this program does the work once and tells how much it
//! was. Only what runs within a function named `measured_…` is counted.

#[path = "../crowd/mod.rs"]
mod crowd;

use bytes::Bytes;
use crowd::{Crowd, ROUNDS_PER_CONFIRMATION, event};
use tidegate::clock::Moment;
use tidegate::limits::Limits;
use tidegate::protocol::wire;
use tidegate::topic::{Log, LogSettings, NewRecord, Priority, TopicClass};

/// The binary's allocator, so that what it costs is counted as it is paid.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SUBSCRIBERS: usize = 1_000;

/// What is counted.
struct Scenario {
    name: &'static str,
    /// Of what the figure is the cost.
    unit: &'static str,
    /// Does the work; returns how many units it was.
    work: fn() -> u64,
}

const SCENARIOS: [Scenario; 6] = [
    Scenario { name: "one-record-per-send", unit: "delivery", work: one_record_per_send },
    Scenario { name: "saturated", unit: "record delivered", work: saturated },
    Scenario { name: "behind", unit: "patch of its own", work: behind },
    Scenario { name: "marker", unit: "pong", work: marker },
    Scenario { name: "publish", unit: "publish", work: publish },
    Scenario { name: "append", unit: "record", work: append },
];

fn main() {
    let asked = std::env::args().nth(1);
    if asked.as_deref() == Some("--list") {
        return SCENARIOS.iter().for_each(|scenario| println!("{}", scenario.name));
    }
    let mut is_known = false;
    for Scenario { name, unit, work } in SCENARIOS {
        if asked.as_deref().is_none_or(|asked| asked == name || asked.starts_with("--")) {
            is_known = true;
            println!("{name} {} {unit}", work());
        }
    }
    if !is_known {
        let names = SCENARIOS.map(|scenario| scenario.name).join(", ");
        eprintln!("no such scenario; there are {names}");
        std::process::exit(2);
    }
}

/// Publishes and the turns that follow, so often; `each` sees to what is not counted between them.
fn rounds(crowd: &mut Crowd, count: u64, publishes: &[Vec<wire::Record>]) -> u64 {
    let mut sends = 0;
    for round in 0..count {
        crowd.publish(publishes);
        sends += measured_turns(crowd);
        if round % ROUNDS_PER_CONFIRMATION == 0 {
            crowd.confirm();
        }
    }
    sends
}

#[inline(never)]
fn measured_turns(crowd: &mut Crowd) -> u64 {
    crowd.turns()
}

/// 1,000 subscribers at the head, one event of 128 bytes in each turn.
fn one_record_per_send() -> u64 {
    let mut crowd = Crowd::new(SUBSCRIBERS);
    let count = 64;
    let sends = rounds(&mut crowd, count, &[vec![event(128)]]);
    assert_eq!(sends, count * (SUBSCRIBERS as u64 + 1));
    count * SUBSCRIBERS as u64
}

/// The same with 64 publishes in each turn.
fn saturated() -> u64 {
    let mut crowd = Crowd::new(SUBSCRIBERS);
    let (count, publishes) = (32, 64);
    let publish = vec![vec![event(128)]; publishes];
    let sends = rounds(&mut crowd, count, &publish);
    assert_eq!(sends, count * (SUBSCRIBERS as u64 + 1));
    count * (SUBSCRIBERS * publishes) as u64
}

/// 1,000 subscribers whose sockets were full while ten events came: a patch of its own for each.
fn behind() -> u64 {
    let mut crowd = Crowd::new(SUBSCRIBERS);
    let count = 16;
    for _ in 0..count {
        crowd.block();
        for _ in 0..10 {
            crowd.deliver(&[event(128)]);
        }
        crowd.unblock();
        assert_eq!(measured_turns(&mut crowd), SUBSCRIBERS as u64 + 1);
        crowd.confirm();
    }
    count * SUBSCRIBERS as u64
}

/// Answers to markers, from the bytes to the window.
fn marker() -> u64 {
    let mut crowd = Crowd::new(SUBSCRIBERS);
    let large = vec![event(128); 400];
    let mut pongs = 0;
    for _ in 0..32 {
        crowd.publish(std::slice::from_ref(&large));
        crowd.turns();
        pongs += crowd.put_pongs_aside();
        measured_turns(&mut crowd);
    }
    assert!(pongs >= SUBSCRIBERS as u64, "markers were sent");
    pongs
}

/// Publishes of one event of 128 bytes, each acknowledged; nobody subscribes.
fn publish() -> u64 {
    let mut crowd = Crowd::new(0);
    let (count, publishes) = (64, 64);
    rounds(&mut crowd, count, &vec![vec![event(128)]; publishes]);
    count * publishes as u64
}

/// Values of 1,000 keys, each of which supersedes one.
fn append() -> u64 {
    let mut log = Log::new(LogSettings::new(&TopicClass::catch_all(), &Limits::default()));
    let record = |key: usize| NewRecord {
        key: format!("key{key:06}").into(),
        value: Bytes::from_static(&[7; 128]),
        is_delete: false,
        priority: Priority::Normal,
        window: None,
    };
    let keys = 1_000;
    let state = || (0..keys).map(|key| record(key * 7 % keys)).collect::<Vec<_>>();
    log.apply(state(), false, Moment(1)).expect("there is room");
    let count = 32;
    for _ in 0..count {
        measured_append(&mut log, state());
    }
    count * keys as u64
}

#[inline(never)]
fn measured_append(log: &mut Log, records: Vec<NewRecord>) {
    log.apply(records, false, Moment(2)).expect("there is room");
}
