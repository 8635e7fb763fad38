//! One shard with a publisher and as many subscribers as one likes, on a kernel that takes whatever is sent and looks at nothing.
//!
//! Connections come about through the simulated kernel, by the bytes that clients write. Then the kernel is *shut off*: what is
//! sent is counted and let go of, and what arrives was put aside before the turn. So a turn costs what the shard does, and next
//! to nothing else; and the same calls cost the same instructions.

#![allow(dead_code, unreachable_pub, reason = "each bench uses its part")]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use tidegate::clock::{Moment, WallEpoch};
use tidegate::kernel::{
    Completion, Handed, Held, Kernel, KernelCounters, PeerId, Received, Simulation, SimulationConfig, SocketId,
    TcpInfo, Wait,
};
use tidegate::protocol::wire::{self, client_frame::Body};
use tidegate::shard::{Settings, Shard, ShardCommand};

/// Between two publishes.
pub const STEP: Duration = Duration::from_millis(10);
/// Rounds after which markers are answered: before the smallest window is full of single records.
pub const ROUNDS_PER_CONFIRMATION: u64 = 16;
const TOPIC: &str = "crowd";
const UPGRADE: &[u8] = b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: tidegate.v1\r\n\r\n";

/// The simulated kernel, until it is shut off.
pub struct Sink {
    simulation: Simulation,
    is_shut_off: bool,
    /// What the next turn finds.
    arrived: VecDeque<Completion>,
    /// By the socket's index.
    peers: Vec<Option<PeerId>>,
    connecting: HashMap<SocketAddr, PeerId>,
    /// Pings sent since they were last answered.
    pings: Vec<(SocketId, Bytes)>,
    /// Sockets that take nothing: all of them do, or those that are awaited.
    is_full: bool,
    shorts: Vec<SocketId>,
    awaited: Vec<SocketId>,
    sends: u64,
}

impl Sink {
    /// Fetches what the simulation has, so that it need not be asked in a turn.
    fn fetch(&mut self) {
        self.simulation.enter(Wait::No).expect("a simulation does not break");
        while let Some(completion) = self.simulation.completion() {
            if let Completion::Accepted { socket, peer } = &completion {
                let at = socket.index as usize;
                self.peers.resize(self.peers.len().max(at + 1), None);
                self.peers[at] = self.connecting.remove(peer);
            }
            self.arrived.push_back(completion);
        }
    }
}

impl Kernel for Sink {
    fn bytes(&mut self, received: &Received) -> &mut [u8] {
        self.simulation.bytes(received)
    }

    fn release(&mut self, received: Received) {
        self.simulation.release(received);
    }

    fn send(&mut self, socket: SocketId, frames: &[Bytes]) {
        if !self.is_shut_off {
            return self.simulation.send(socket, frames);
        }
        if self.is_full {
            return self.shorts.push(socket);
        }
        self.sends += 1;
        // A ping is a frame of six bytes: FIN and opcode 9, four bytes of payload.
        let pings = frames.iter().filter(|frame| frame.len() == 6 && frame[0] == 0x89);
        self.pings.extend(pings.map(|frame| (socket, frame.slice(2..))));
    }

    fn await_writable(&mut self, socket: SocketId) {
        self.awaited.push(socket);
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        if !self.is_shut_off {
            self.simulation.enter(wait)?;
            self.fetch();
        }
        Ok(())
    }

    fn completion(&mut self) -> Option<Completion> {
        if let Some(socket) = self.shorts.pop() {
            return Some(Completion::Short { socket, taken: 0, errno: 0 });
        }
        self.arrived.pop_front()
    }

    fn pause_receive(&mut self, socket: SocketId) {
        self.simulation.pause_receive(socket);
    }

    fn resume_receive(&mut self, socket: SocketId) {
        self.simulation.resume_receive(socket);
    }

    fn finish(&mut self, socket: SocketId) {
        self.simulation.finish(socket);
    }

    fn close(&mut self, socket: SocketId) {
        self.simulation.close(socket);
    }

    fn abort(&mut self, socket: SocketId) {
        self.simulation.abort(socket);
    }

    fn tcp_info(&mut self, socket: SocketId) -> Option<TcpInfo> {
        self.simulation.tcp_info(socket)
    }

    fn stop_accepting(&mut self) {
        self.simulation.stop_accepting();
    }

    fn pause_accept(&mut self) {
        self.simulation.pause_accept();
    }

    fn resume_accept(&mut self) {
        self.simulation.resume_accept();
    }

    fn ring(&mut self, peer: u16) {
        self.simulation.ring(peer);
    }

    fn hand_over(&mut self, socket: SocketId) -> Option<Handed> {
        self.simulation.hand_over(socket)
    }

    fn adopt(&mut self, handed: Handed) -> Option<SocketId> {
        self.simulation.adopt(handed)
    }

    fn held(&self) -> Held {
        self.simulation.held()
    }

    fn counters(&self) -> KernelCounters {
        self.simulation.counters()
    }
}

/// The shard, and those around it.
pub struct Crowd {
    shard: Shard<Sink>,
    publisher: PeerId,
    now: Moment,
    request: u64,
    subscribers: u64,
    _commands: crossbeam_channel::Sender<ShardCommand>,
}

impl Crowd {
    /// A publisher and `subscribers` of its topic, all at its head, with windows as wide as they become.
    pub fn new(subscribers: usize) -> Self {
        let mut settings = Settings { trusted: vec!["0.0.0.0/0".parse().expect("a network")], ..Settings::default() };
        settings.limits.heartbeat_interval = Duration::from_hours(24);
        let simulation = Simulation::new(SimulationConfig {
            buffers: u16::MAX,
            max_sockets: 100_000,
            latency: Duration::ZERO,
            ..SimulationConfig::default()
        });
        let sink = Sink {
            simulation,
            is_shut_off: false,
            arrived: VecDeque::new(),
            peers: Vec::new(),
            connecting: HashMap::new(),
            pings: Vec::new(),
            is_full: false,
            shorts: Vec::new(),
            awaited: Vec::new(),
            sends: 0,
        };
        let (commands, taken) = crossbeam_channel::bounded(1);
        let mut shard = Shard::alone(sink, settings, WallEpoch { boot_us: 1_000_000 }, 1, taken);
        let publisher = connect(&mut shard, 0);
        let mut crowd =
            Self { shard, publisher, now: Moment(1), request: 1, subscribers: subscribers as u64, _commands: commands };
        crowd.settle();
        crowd.write(publisher, &[message(1, Body::Hello(wire::Hello::default()))]);
        crowd.settle();
        crowd.publish(&[vec![event(1)]]);
        crowd.settle();
        let peers: Vec<_> = (1..=subscribers).map(|number| connect(&mut crowd.shard, number)).collect();
        crowd.settle();
        let subscribe = wire::Subscribe { topic: TOPIC.into(), ..wire::Subscribe::default() };
        let greeting = [message(1, Body::Hello(wire::Hello::default())), message(2, Body::Subscribe(subscribe))];
        for peer in peers {
            crowd.write(peer, &greeting);
        }
        crowd.settle();
        assert_eq!(crowd.shard.topics().len(), 1, "the topic is there");
        crowd.shard.kernel_mut().is_shut_off = true;
        crowd.widen_windows();
        crowd
    }

    /// Puts publishes aside for the next turn: what each element says is one message.
    pub fn publish(&mut self, publishes: &[Vec<wire::Record>]) {
        let messages: Vec<_> = publishes
            .iter()
            .map(|records| {
                self.request += 1;
                let publish =
                    wire::Publish { topic: TOPIC.into(), records: records.clone(), ..wire::Publish::default() };
                message(self.request, Body::Publish(publish))
            })
            .collect();
        self.now = self.now + STEP;
        self.write(self.publisher, &messages);
    }

    /// Turns until nothing is left to do. Returns the number of sends.
    #[inline(never)]
    pub fn turns(&mut self) -> u64 {
        let before = self.shard.kernel_mut().sends;
        loop {
            let wait = self.shard.prepare(self.now);
            let wait = self.shard.hand_over(wait);
            self.shard.submit(Wait::No).expect("the kernel does not break");
            if wait != Wait::No {
                break;
            }
        }
        self.shard.kernel_mut().sends - before
    }

    /// The subscribers answer the markers that they were sent.
    pub fn confirm(&mut self) {
        self.put_pongs_aside();
        self.turns();
    }

    /// ... which the next turn finds. Returns how many they are.
    pub fn put_pongs_aside(&mut self) -> u64 {
        let pings = std::mem::take(&mut self.shard.kernel_mut().pings);
        let count = pings.len() as u64;
        let sink = self.shard.kernel_mut();
        sink.simulation.set_now(self.now);
        for (socket, payload) in pings {
            let peer = sink.peers[socket.index as usize].expect("it was accepted");
            sink.simulation.peer_write(peer, &masked(0x8a, &payload));
        }
        sink.fetch();
        count
    }

    /// From now on no socket takes anything: everyone falls behind.
    pub fn block(&mut self) {
        self.shard.kernel_mut().is_full = true;
    }

    /// Sockets take bytes again, which the next turn is told.
    pub fn unblock(&mut self) {
        let sink = self.shard.kernel_mut();
        sink.is_full = false;
        let writable = sink.awaited.drain(..).map(|socket| Completion::Writable { socket });
        sink.arrived.extend(writable);
    }

    /// One publish of these records, and what follows. Returns how many subscribers were sent something.
    pub fn deliver(&mut self, records: &[wire::Record]) -> u64 {
        self.publish(&[records.to_vec()]);
        self.turns()
    }

    /// So many turns, each begun by these publishes and bringing everyone to the head: how long they took.
    pub fn timed_rounds(&mut self, rounds: u64, publishes: &[Vec<wire::Record>]) -> Duration {
        let mut spent = Duration::ZERO;
        for round in 0..rounds {
            self.publish(publishes);
            let start = Instant::now();
            let sends = self.turns();
            spent += start.elapsed();
            assert_eq!(sends, self.subscribers + 1, "to each subscriber, and the answer");
            if round % ROUNDS_PER_CONFIRMATION == 0 {
                self.confirm();
            }
        }
        spent
    }

    pub fn subscribers(&self) -> u64 {
        self.subscribers
    }

    /// So that every window has its largest size, as that of a client has that has been there for a while.
    fn widen_windows(&mut self) {
        let large: Vec<_> = (0..400).map(|_| event(128)).collect();
        for _ in 0..80 {
            self.publish(std::slice::from_ref(&large));
            self.turns();
            self.confirm();
        }
        let sends = self.deliver(&[event(128)]);
        assert_eq!(sends, self.subscribers + 1, "everyone is at the head, and the publisher is answered");
    }

    fn write(&mut self, peer: PeerId, messages: &[Vec<u8>]) {
        let sink = self.shard.kernel_mut();
        sink.simulation.set_now(self.now);
        sink.simulation.peer_write(peer, &messages.concat());
        if sink.is_shut_off {
            sink.fetch();
        }
    }

    /// Turns while the simulation carries what is sent.
    fn settle(&mut self) {
        for _ in 0..40 {
            self.now = self.now + STEP;
            self.shard.kernel_mut().simulation.set_now(self.now);
            self.turns();
        }
    }
}

fn connect(shard: &mut Shard<Sink>, number: usize) -> PeerId {
    let [_, a, b, c] = u32::try_from(number).expect("fewer than 2^24").to_be_bytes();
    let address = SocketAddr::from(([10, a, b, c], 40_000));
    let sink = shard.kernel_mut();
    let peer = sink.simulation.connect_from(address);
    sink.simulation.peer_write(peer, UPGRADE);
    sink.connecting.insert(address, peer);
    peer
}

/// An event of so many bytes.
pub fn event(bytes: usize) -> wire::Record {
    wire::Record { value: vec![7; bytes].into(), ..wire::Record::default() }
}

/// A key's value of so many bytes.
pub fn value(key: u32, bytes: usize) -> wire::Record {
    wire::Record { key: format!("key{key:06}").into(), ..event(bytes) }
}

/// A client's message, as it stands on the wire.
pub fn message(request: u64, body: Body) -> Vec<u8> {
    masked(0x82, &wire::ClientFrame { request, body: Some(body) }.encode_to_vec())
}

/// A masked frame (RFC 6455 §5.2) of less than 64 KiB.
pub fn masked(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![first_byte];
    match u8::try_from(payload.len()) {
        Ok(len @ ..126) => frame.push(0x80 | len),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(payload.len()).expect("less than 64 KiB").to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
