//! Several shards with the mesh between them, and clients that do what they are told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tidegate::clock::{Moment, WallEpoch};
use tidegate::kernel::{Held, PeerId, Simulation, SimulationConfig};
use tidegate::mesh::{self, MeshLimits};
use tidegate::protocol::wire::{self, client_frame, server_frame::Body};
use tidegate::shard::{Admission, Outlets, Settings, Shard, ShardCommand, ShardHandle, inlets};
use tidegate::topic::Homes;

/// So much time passes between two turns.
const STEP: Duration = Duration::from_micros(20);
/// Turns of every shard after which what is waited for will not come.
const PATIENCE: u32 = 20_000;

const UPGRADE: &[u8] = b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: tidegate.v1\r\n\r\n";

pub struct World {
    pub shards: Vec<Shard<Simulation>>,
    outlets: Vec<Outlets>,
    homes: Homes,
    pub now: Moment,
}

/// A connection, and what came on it.
pub struct Client {
    pub shard: usize,
    pub peer: PeerId,
    bytes: Vec<u8>,
    pub frames: VecDeque<wire::ServerFrame>,
    pub close: Option<u16>,
    pings: Vec<Vec<u8>>,
    has_head: bool,
    next_request: u64,
}

impl World {
    pub fn new(shards: u16, change: impl FnOnce(&mut Settings)) -> Self {
        Self::with_mesh(shards, MeshLimits::for_shards(shards), change)
    }

    pub fn with_mesh(shards: u16, limits: MeshLimits, change: impl FnOnce(&mut Settings)) -> Self {
        let homes = Homes { shards, seed: 7 };
        let admission = Arc::new(Admission::new(shards));
        let mut settings = Settings { homes, admission, ..Settings::default() };
        change(&mut settings);
        let config = SimulationConfig {
            buffers: 1_024,
            capacity: 64 << 20,
            latency: Duration::ZERO,
            ..SimulationConfig::default()
        };
        let wall = WallEpoch { boot_us: 1_000_000 };
        let mut outlets = Vec::new();
        let begin = |mesh: mesh::Endpoint<_>| {
            let (others, inlets) = inlets();
            outlets.push(others);
            let seed = u64::from(mesh.shard().0) + 1;
            let kernel = Simulation::new(SimulationConfig { seed, ..config });
            Shard::new(kernel, settings.clone(), mesh, wall, seed, inlets)
        };
        let shards = mesh::connect(shards, limits).into_iter().map(begin).collect();
        Self { shards, outlets, homes, now: Moment::default() }
    }

    /// A topic whose home is that shard: the `number`th of those that begin so.
    pub fn topic(&self, prefix: &str, home: usize, number: usize) -> String {
        let names = (0..).map(|at| format!("{prefix}{at}"));
        let mut at_home = names.filter(|name| usize::from(self.homes.home_of(name).0) == home);
        at_home.nth(number).expect("the numbers do not end")
    }

    /// A turn of one shard.
    pub fn turn(&mut self, shard: usize) {
        self.shards[shard].kernel_mut().set_now(self.now);
        self.shards[shard].turn(self.now, false).expect("the simulation does not break");
    }

    /// A turn of each of these.
    pub fn turns(&mut self, shards: impl IntoIterator<Item = usize>) {
        self.now = self.now + STEP;
        shards.into_iter().for_each(|shard| self.turn(shard));
    }

    /// A turn of each shard.
    pub fn turn_of_all(&mut self) {
        self.turns(0..self.shards.len());
    }

    /// Turns of all shards until nothing can be on its way any more.
    pub fn settle(&mut self) {
        (0..20).for_each(|_| self.turn_of_all());
    }

    /// Turns of all shards until something is so.
    pub fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        for _ in 0..PATIENCE {
            if is_so(self) {
                return;
            }
            self.turn_of_all();
        }
        panic!("not reached: {what}");
    }

    /// Begins a connection; nothing is said on it.
    pub fn connect(&mut self, shard: usize) -> Client {
        let simulation = self.shards[shard].kernel_mut();
        simulation.set_now(self.now);
        let peer = simulation.connect();
        simulation.peer_write(peer, UPGRADE);
        let frames = VecDeque::new();
        Client {
            shard,
            peer,
            bytes: Vec::new(),
            frames,
            close: None,
            pings: Vec::new(),
            has_head: false,
            next_request: 1,
        }
    }

    /// A connection that was welcomed.
    pub fn hello(&mut self, shard: usize) -> Client {
        self.hello_as(shard, Bytes::new()).0
    }

    /// A connection that shows a session and was welcomed: the one that it is given.
    pub fn hello_as(&mut self, shard: usize, session: Bytes) -> (Client, Bytes) {
        let mut client = self.connect(shard);
        self.show(&mut client, session);
        let Body::Welcome(welcome) = self.body(&mut client) else { panic!("no Welcome") };
        (client, welcome.session)
    }

    /// Says Hello.
    pub fn show(&mut self, client: &mut Client, session: Bytes) {
        self.send(client, client_frame::Body::Hello(wire::Hello { session, ..wire::Hello::default() }));
    }

    /// Writes a frame; returns its request number.
    pub fn send(&mut self, client: &mut Client, body: client_frame::Body) -> u64 {
        let request = client.next_request;
        client.next_request += 1;
        let payload = wire::ClientFrame { request, body: Some(body) }.encode_to_vec();
        let mut frame = vec![0x82];
        match u8::try_from(payload.len()) {
            Ok(len @ ..126) => frame.push(0x80 | len),
            _ => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(payload.len()).expect("a small frame").to_be_bytes());
            }
        }
        frame.extend([0; 4]); // a mask that changes nothing
        frame.extend(payload);
        let simulation = self.shards[client.shard].kernel_mut();
        simulation.set_now(self.now);
        simulation.peer_write(client.peer, &frame);
        request
    }

    pub fn subscribe(&mut self, client: &mut Client, topic: &str) -> u64 {
        self.send(
            client,
            client_frame::Body::Subscribe(wire::Subscribe { topic: topic.to_owned(), ..Default::default() }),
        )
    }

    pub fn publish(&mut self, client: &mut Client, topic: &str, records: Vec<wire::Record>) -> u64 {
        let publish = wire::Publish { topic: topic.to_owned(), records, ..wire::Publish::default() };
        self.send(client, client_frame::Body::Publish(publish))
    }

    /// Takes in what has arrived at the client.
    pub fn look(&mut self, client: &mut Client) {
        let simulation = self.shards[client.shard].kernel_mut();
        simulation.set_now(self.now);
        client.bytes.extend(simulation.peer_read(client.peer, usize::MAX));
        client.parse();
        for payload in std::mem::take(&mut client.pings) {
            let len = u8::try_from(payload.len()).expect("a control frame");
            simulation.peer_write(client.peer, &[&[0x8a, 0x80 | len, 0, 0, 0, 0], &payload[..]].concat());
        }
    }

    /// The next frame, with as many turns as it takes.
    pub fn frame(&mut self, client: &mut Client) -> wire::ServerFrame {
        for _ in 0..PATIENCE {
            self.look(client);
            if let Some(frame) = client.frames.pop_front() {
                return frame;
            }
            self.turn_of_all();
        }
        panic!("no frame came");
    }

    pub fn body(&mut self, client: &mut Client) -> Body {
        self.frame(client).body.expect("a frame has a body")
    }

    /// With which code the connection was closed.
    pub fn close_code(&mut self, client: &mut Client) -> u16 {
        for _ in 0..PATIENCE {
            self.look(client);
            if let Some(code) = client.close {
                return code;
            }
            self.turn_of_all();
        }
        panic!("nobody closed the connection");
    }

    /// Ends all shards and insists that nothing is left.
    pub fn end(mut self) {
        struct Nobody;
        impl std::fmt::Debug for Nobody {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("Nobody")
            }
        }
        impl tidegate::kernel::Waker for Nobody {
            fn wake(&self) {}
        }
        for outlets in std::mem::take(&mut self.outlets) {
            let handle = ShardHandle::new(outlets, Arc::new(Nobody));
            assert!(handle.ask(ShardCommand::Drain(Duration::from_millis(50))));
        }
        self.until("all are drained", |world| world.shards.iter().all(Shard::is_drained));
        for shard in &self.shards {
            assert_eq!(shard.held(), Held::default());
            let report = shard.report();
            assert_eq!((report.gauges.connections, report.gauges.subscribers), (0, 0));
            assert_eq!(report.counters.accepted, report.counters.closed);
            for class in &report.counters.classes {
                let ledger = class.ledger;
                let fates = ledger.conflated + ledger.filtered + ledger.expired + ledger.overrun + ledger.lost;
                assert_eq!(ledger.due, ledger.delivered + fates);
            }
        }
    }
}

impl Client {
    fn parse(&mut self) {
        if !self.has_head {
            let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return };
            assert!(self.bytes.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&self.bytes));
            self.bytes.drain(..end + 4);
            self.has_head = true;
        }
        let mut at = 0;
        while let Some((head, len)) = frame_at(&self.bytes[at..]) {
            let payload = &self.bytes[at + head..at + head + len];
            match self.bytes[at] & 15 {
                2 => self.frames.push_back(wire::ServerFrame::decode(payload).expect("a ServerFrame")),
                9 => self.pings.push(payload.to_vec()),
                8 => self.close = Some(u16::from_be_bytes([payload[0], payload[1]])),
                _ => {}
            }
            at += head + len;
        }
        self.bytes.drain(..at);
    }
}

/// The lengths of the head and the payload, if the frame is whole.
fn frame_at(bytes: &[u8]) -> Option<(usize, usize)> {
    let short = usize::from(*bytes.get(1)?);
    let (head, len) = match short {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        _ => (2, short),
    };
    (bytes.len() >= head + len).then_some((head, len))
}

pub fn keyed(key: &str, value: &str) -> wire::Record {
    wire::Record { key: key.to_owned().into(), value: value.to_owned().into(), ..wire::Record::default() }
}

pub fn deleted(key: &str) -> wire::Record {
    wire::Record { key: key.to_owned().into(), delete: true, ..wire::Record::default() }
}

pub fn event(value: &str) -> wire::Record {
    wire::Record { value: value.to_owned().into(), ..wire::Record::default() }
}
