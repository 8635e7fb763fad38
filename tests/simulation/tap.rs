//! The simulated kernel with a look at what the shard hands to it: each send, and how much of it was taken.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use tidegate::kernel::{
    Completion, Handed, Held, Kernel, KernelCounters, Received, Simulation, SocketId, TcpInfo, Wait,
};

/// One send: what was handed over, and what the socket took of it.
#[derive(Debug)]
pub struct Sent {
    pub bytes: Vec<u8>,
    pub taken: usize,
    /// The connection turned out to be broken.
    pub is_broken: bool,
}

/// What became of connections, in the order in which the shard was told.
#[derive(Debug)]
pub enum Change {
    Accepted(SocketId, SocketAddr),
    Released(SocketId),
}

/// A [`Simulation`] that is listened to.
#[derive(Debug)]
pub struct Tap {
    pub simulation: Simulation,
    /// The sends of this turn.
    pub sends: BTreeMap<SocketId, Sent>,
    pub changes: Vec<Change>,
    /// Completions other than shorts that were reported.
    pub reported: u64,
}

impl Tap {
    pub fn new(simulation: Simulation) -> Self {
        Self { simulation, sends: BTreeMap::new(), changes: Vec::new(), reported: 0 }
    }
}

impl Kernel for Tap {
    fn bytes(&mut self, received: &Received) -> &mut [u8] {
        self.simulation.bytes(received)
    }

    fn release(&mut self, received: Received) {
        self.simulation.release(received);
    }

    fn send(&mut self, socket: SocketId, frames: &[Bytes]) {
        self.simulation.send(socket, frames);
        let bytes = frames.concat();
        let taken = bytes.len();
        let before = self.sends.insert(socket, Sent { bytes, taken, is_broken: false });
        assert!(before.is_none(), "one send per socket and turn");
    }

    fn await_writable(&mut self, socket: SocketId) {
        self.simulation.await_writable(socket);
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
        self.sends.remove(&socket);
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

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.simulation.enter(wait)
    }

    fn completion(&mut self) -> Option<Completion> {
        let completion = self.simulation.completion();
        match &completion {
            Some(Completion::Short { socket, taken, errno }) => {
                let sent = self.sends.get_mut(socket).expect("only what was sent can be short");
                (sent.taken, sent.is_broken) = (*taken, *errno != 0);
            }
            Some(Completion::Accepted { socket, peer }) => self.changes.push(Change::Accepted(*socket, *peer)),
            Some(Completion::Released { socket }) => self.changes.push(Change::Released(*socket)),
            _ => {}
        }
        self.reported += u64::from(!matches!(completion, None | Some(Completion::Short { .. })));
        completion
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
