//! Fresh connections that shards hand to each other: over real rings, since only they can, whose shards take their turns when the
//! test says so.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::clock::{Moment, WallEpoch};
use tidegate::kernel::{Held, ListenOptions, Ring, RingConfig, Waker, listen};
use tidegate::mesh::{self, MeshLimits};
use tidegate::shard::{Admission, Outlets, Settings, Shard, ShardCommand, ShardHandle, inlets};
use tidegate::topic::Homes;

const ANSWER: Duration = Duration::from_secs(1);
/// For what the kernel does.
const LIMIT: Duration = Duration::from_secs(60);

/// Shards with a listener each.
struct Rings {
    shards: Vec<Shard<Ring>>,
    addresses: Vec<SocketAddr>,
    handles: Vec<(Outlets, Arc<dyn Waker>)>,
    now: Moment,
}

impl Rings {
    fn new(count: u16) -> Self {
        let mut settings = Settings {
            homes: Homes { shards: count, seed: 7 },
            admission: Arc::new(Admission::new(count)),
            ..Settings::default()
        };
        settings.limits.shard_answer = ANSWER;
        settings.limits.head_time = LIMIT;
        settings.limits.connections_per_address = usize::MAX;
        settings.limits.accepts_per_second = u32::MAX;
        let config = RingConfig {
            entries: 256,
            completion_entries: 4_096,
            buffers: 64,
            buffer_bytes: 1_024,
            max_sockets: 4_096,
        };
        let mut rings = Self { shards: Vec::new(), addresses: Vec::new(), handles: Vec::new(), now: Moment::default() };
        for mesh in mesh::connect(count, MeshLimits::for_shards(count)) {
            let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), ListenOptions::default()).expect("a port");
            rings.addresses.push(listener.local_addr().expect("it listens"));
            let ring = Ring::new(config, listener).expect("this kernel has what is needed");
            let (outlets, inlets) = inlets();
            rings.handles.push((outlets, ring.waker()));
            let seed = u64::from(mesh.shard().0) + 1;
            rings.shards.push(Shard::new(ring, settings.clone(), mesh, WallEpoch::default(), seed, inlets));
        }
        rings
    }

    /// Connections to one shard's listener.
    fn connect(&self, shard: usize, count: usize) -> Vec<TcpStream> {
        let address = self.addresses[shard];
        (0..count).map(|_| TcpStream::connect(address).expect("it listens")).collect()
    }

    /// Turns of these shards until something is so.
    fn until(&mut self, what: &str, shards: &[usize], is_so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < LIMIT, "not reached: {what}; connections: {:?}", self.connections());
            for shard in shards {
                self.shards[*shard].turn(self.now, false).expect("the ring is whole");
            }
        }
    }

    fn connections(&self) -> Vec<usize> {
        self.shards.iter().map(|shard| shard.report().gauges.connections).collect()
    }

    /// Ends all shards and insists that nothing is left.
    fn end(mut self) {
        for (outlets, waker) in std::mem::take(&mut self.handles) {
            assert!(ShardHandle::new(outlets, waker).ask(ShardCommand::Drain(Duration::from_millis(50))));
        }
        let all: Vec<_> = (0..self.shards.len()).collect();
        self.until("all are drained", &all, |rings| rings.shards.iter().all(Shard::is_drained));
        for shard in &self.shards {
            assert_eq!(shard.held(), Held::default());
        }
    }
}

#[test]
fn connections_that_come_to_one_shard_spread_within_a_fifth() {
    let mut rings = Rings::new(4);
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.extend(rings.connect(2, 100));
        rings.until("all are accepted", &[2, 0, 1, 3], |rings| {
            rings.connections().iter().sum::<usize>() == clients.len()
        });
    }
    let counts = rings.connections();
    assert!(counts.iter().all(|count| (400..=600).contains(count)), "{counts:?}");
    drop(clients);
    rings.end();
}

#[test]
fn a_shard_that_stands_still_is_handed_no_connections_until_it_moves() {
    let mut rings = Rings::new(3);
    let mut clients = rings.connect(0, 30);
    // Shard 1 takes no turns. That takes its time to be seen, in which it is given its part: which one follows from the counts alone.
    let here = |rings: &Rings| rings.connections()[0] + rings.connections()[2];
    let (before, given) = (21, 9);
    rings.until("all but its part are here", &[0, 2], |rings| here(rings) == before);
    rings.now = rings.now + ANSWER;
    clients.extend(rings.connect(0, 300));
    rings.until("the shards that move have all the others", &[0, 2], |rings| here(rings) == before + 300);
    let [first, stopped, third] = rings.connections()[..] else { unreachable!("of three shards") };
    assert!(stopped == 0 && third >= first / 2, "those that move share them: {first} and {third}");
    // It moves: it has what was on the way, and as the least loaded one gets all that come.
    rings.until("it has what it was given", &[1], |rings| rings.connections()[1] == given);
    clients.extend(rings.connect(0, 30));
    rings.until("it is handed connections again", &[0, 1, 2], |rings| rings.connections()[1] == given + 30);
    drop(clients);
    rings.end();
}
