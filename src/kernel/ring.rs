//! The kernel over io_uring: one ring, its listener, its sockets.
//!
//! Who owns memory that the kernel may touch, and until when:
//!
//! * receive buffers and the wake word: until the kernel holds no operation ([`Uring::quiesce`]), else for ever;
//! * bytes to be sent, and the vectors that describe them: until the call that submitted them has returned ([`Outgoing`]).
//!
//! A socket's descriptor and slot live until the kernel holds no operation of it ([`Sockets`]). Nothing that safe code does,
//! in whatever order, with whatever ids or buffers of other rings, or leaves undone, changes any of that.

mod accepting;
mod closing;
mod config;
mod events;
mod receiving;

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use io_uring::{opcode, squeue, types};

use self::accepting::Acceptor;
pub use self::config::RingConfig;
use self::events::{Event, Short, sort};
use super::buffers::{self, Buffers};
use super::operation::{Kind, Operation};
use super::outgoing::Outgoing;
use super::peers::{Handed, RingHandle};
use super::probe::BootError;
use super::sockets::{self, Sockets};
use super::uring::{Completed, Uring};
use super::waker::EventWaker;
use super::{Completion, Held, Kernel, KernelCounters, Received, SocketId, TcpInfo, Wait, Waker};

/// A [`Kernel`] over io_uring, bound to the thread that made it.
pub struct Ring {
    uring: Uring,
    /// Everything that the kernel may have pointers to.
    memory: ManuallyDrop<Memory>,
    sockets: Sockets,
    acceptor: Acceptor,
    waker: Arc<EventWaker>,
    /// The rings of the other shards, by shard; its own among them.
    peers: Vec<RingHandle>,
    /// True exactly when the read of the waker's eventfd is queued or in flight.
    is_wake_armed: bool,
    /// Short sends, reported before anything else.
    shorts: VecDeque<Short>,
    /// What came, in order, and was not looked at yet.
    events: VecDeque<Event>,
    /// Sockets whose receive ended for want of buffers.
    starved: VecDeque<SocketId>,
    /// Sockets to be finished or closed behind the send that is queued.
    deferred: Vec<SocketId>,
    /// Counts submissions; a slot whose `sent_in_turn` equals it has a send queued.
    turn: u64,
    counters: KernelCounters,
}

struct Memory {
    buffers: Buffers,
    outgoing: Outgoing,
    /// Where the eventfd's counter is read to.
    wake_word: Box<u64>,
}

impl Ring {
    /// Makes a ring that accepts from `listener`. It belongs to the calling thread.
    ///
    /// # Errors
    /// What stands in the way, and what to do about it.
    pub fn new(config: RingConfig, listener: TcpListener) -> Result<Self, BootError> {
        config.check()?;
        let other = |step| move |error| BootError::Other { step, error };
        // A ring's accept on a non-blocking listener would fail instead of waiting.
        listener.set_nonblocking(false).map_err(other("preparing the listener"))?;
        let uring = Uring::new(config.entries, config.completion_entries)?;
        let buffers =
            Buffers::new(config.buffers, config.buffer_bytes).map_err(other("mapping the receive buffers"))?;
        let waker = EventWaker::new().map_err(other("eventfd"))?;
        let memory = Memory { buffers, outgoing: Outgoing::default(), wake_word: Box::new(0) };
        let mut ring = Self {
            uring,
            memory: ManuallyDrop::new(memory),
            sockets: Sockets::new(config.max_sockets),
            acceptor: Acceptor::new(listener),
            waker: Arc::new(waker),
            peers: Vec::new(),
            is_wake_armed: false,
            shorts: VecDeque::new(),
            events: VecDeque::new(),
            starved: VecDeque::new(),
            deferred: Vec::new(),
            turn: 1,
            counters: KernelCounters::default(),
        };
        let (address, entries) = ring.memory.buffers.ring();
        // SAFETY: page-aligned memory of `entries` entries that name buffers in `memory`, which `drop` frees only once the
        // kernel holds nothing.
        unsafe { ring.uring.register_buffers(address, entries, buffers::GROUP) }?;
        ring.arm_accept();
        ring.arm_wake();
        Ok(ring)
    }

    /// What wakes this ring from other threads.
    #[must_use]
    pub fn waker(&self) -> Arc<dyn Waker> {
        self.waker.clone()
    }

    /// By what other rings ring this one.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn handle(&self) -> io::Result<RingHandle> {
        RingHandle::new(self.uring.raw_fd(), self.waker.clone())
    }

    /// Makes other rings known, by the numbers that [`Kernel::ring`] takes.
    pub fn connect(&mut self, peers: Vec<RingHandle>) {
        self.peers = peers;
    }

    fn arm_wake(&mut self) {
        self.is_wake_armed = true;
        let word = std::ptr::from_mut::<u64>(&mut self.memory.wake_word).cast();
        let entry = opcode::Read::new(types::Fd(self.waker.raw_fd()), word, 8).build();
        // SAFETY: eight bytes of `memory`, which `drop` frees only once the kernel holds nothing. Nobody reads them. The
        // eventfd lives as long as `waker`.
        unsafe { self.uring.push(entry, Operation::own(Kind::Wake)) };
    }

    /// One system call; everything that came is sorted. When nothing is queued any more, the bytes are let go and what waited for
    /// them to be sent is done.
    fn submit(&mut self, wait: Wait) -> io::Result<()> {
        #[cfg(test)]
        std::hint::black_box(self.memory.outgoing.read_as_the_kernel_will());
        let Self { uring, memory, sockets, shorts, events, is_wake_armed, .. } = self;
        uring.enter(wait, |completed| {
            *is_wake_armed &= completed.operation.kind != Kind::Wake;
            sort(completed, &mut memory.buffers, sockets, shorts, events);
        })?;
        if !self.uring.has_queued() {
            self.memory.outgoing.clear();
            self.turn += 1;
            for socket in std::mem::take(&mut self.deferred) {
                self.conclude(socket);
            }
        }
        Ok(())
    }

    /// What an event means to the caller, if anything.
    fn report(&mut self, event: Event) -> Option<Completion> {
        match event {
            Event::Report(completion) => Some(completion),
            Event::Connected(fd) => self.connected(fd),
            Event::Arrived(socket, received) => self.arrived(socket, received),
            Event::Completed(completed) => match completed.operation.kind {
                Kind::Accept => self.accept_ended(completed.result),
                Kind::AcceptCancel => {
                    self.acceptor.cancelled();
                    None
                }
                Kind::Wake => {
                    self.arm_wake();
                    Some(Completion::Woken)
                }
                Kind::Rung => Some(Completion::Woken),
                Kind::Ring => {
                    // It takes no message, so that it must be woken in the other way; or it is gone.
                    if let Some(peer) = self.peers.get(completed.operation.socket.index as usize) {
                        peer.wake();
                    }
                    None
                }
                Kind::Receive | Kind::ReceiveCancel | Kind::Writable => self.operation_ended(completed),
                Kind::Send => unreachable!("sorted into `shorts` as it came"),
            },
        }
    }

    /// The last completion of an operation of a socket.
    fn operation_ended(&mut self, completed: Completed) -> Option<Completion> {
        let Operation { kind, socket } = completed.operation;
        let Some(slot) = self.sockets.find(socket) else {
            self.counters.stale_completions += 1;
            return None;
        };
        slot.operations -= 1;
        match kind {
            Kind::Receive => slot.is_receiving = false,
            Kind::ReceiveCancel => slot.is_cancelling = false,
            _ => slot.awaits_writable = false,
        }
        if slot.is_closing {
            self.release_if_idle(socket);
            return None;
        }
        match kind {
            Kind::Receive => self.receive_ended(socket, completed.result),
            Kind::ReceiveCancel => None,
            _ => Some(Completion::Writable { socket }),
        }
    }
}

impl Kernel for Ring {
    fn bytes(&mut self, received: &Received) -> &mut [u8] {
        self.memory.buffers.bytes(received)
    }

    fn release(&mut self, received: Received) {
        self.memory.buffers.release(received);
    }

    fn send(&mut self, socket: SocketId, frames: &[Bytes]) {
        let Some(slot) = self.sockets.find_open(socket) else { return };
        assert!(slot.sent_in_turn != self.turn, "at most one send per socket and enter");
        assert!(
            !slot.has_short && !slot.awaits_writable,
            "no send before the last one's Short and Writable were reported"
        );
        let Some((entry, bytes)) = self.memory.outgoing.entry(slot.raw_fd(), frames) else { return };
        slot.sent_in_turn = self.turn;
        self.counters.sends += 1;
        self.counters.send_bytes += bytes as u64;
        // SAFETY: `outgoing` keeps what it points to until `submit` has seen that nothing is queued any more; `drop` forgets
        // queued entries before it frees it. The descriptor stays open: `release_if_idle` waits for the turn's end.
        unsafe { self.uring.push_send(entry, Operation::of(Kind::Send, socket)) };
    }

    fn await_writable(&mut self, socket: SocketId) {
        let Some(slot) = self.sockets.find_open(socket) else { return };
        if slot.awaits_writable {
            return;
        }
        slot.awaits_writable = true;
        slot.operations += 1;
        let events = u32::from(libc::POLLOUT.cast_unsigned());
        let entry = opcode::PollAdd::new(types::Fd(slot.raw_fd()), events).build();
        // SAFETY: a poll points to nothing.
        unsafe { self.uring.push(entry, Operation::of(Kind::Writable, socket)) };
    }

    fn pause_receive(&mut self, socket: SocketId) {
        if let Some(slot) = self.sockets.find_open(socket) {
            slot.wants_to_receive = false;
            self.cancel_receive(socket);
        }
    }

    fn resume_receive(&mut self, socket: SocketId) {
        if let Some(slot) = self.sockets.find_open(socket) {
            slot.wants_to_receive = true;
            self.arm_receive(socket);
        }
    }

    fn ring(&mut self, peer: u16) {
        let Some(handle) = self.peers.get(usize::from(peer)) else { return };
        let as_what = Operation::own(Kind::Rung).pack();
        let entry = opcode::MsgRingData::new(types::Fd(handle.raw_fd()), 0, as_what, None)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        let whom = SocketId { index: u32::from(peer), generation: 0 };
        self.uring.push_ring(entry, Operation::of(Kind::Ring, whom));
    }

    fn hand_over(&mut self, socket: SocketId) -> Option<Handed> {
        let turn = self.turn;
        let slot = self.sockets.find_open(socket)?;
        // A send that is queued names the descriptor, which must stay open until it is submitted.
        let is_fresh = slot.operations == 1 && slot.is_receiving && !slot.is_cancelling && slot.sent_in_turn != turn;
        // Asked first: a peer that is gone by now has no address, and then the socket must be found here as it was.
        let peer = sockets::peer_of(slot.fd())?;
        if !is_fresh || !self.uring.take_back(Operation::of(Kind::Receive, socket)) {
            return None;
        }
        self.sockets.find_open(socket).expect("it was just found").operations = 0;
        let fd = self.sockets.take(socket);
        self.make_room();
        Some(Handed { fd, peer })
    }

    fn adopt(&mut self, handed: Handed) -> Option<SocketId> {
        if self.sockets.is_full() || self.acceptor.is_stopped() {
            return None;
        }
        let socket = self.sockets.insert(handed.fd);
        self.sockets.find(socket).expect("just inserted").wants_to_receive = true;
        self.arm_receive(socket);
        Some(socket)
    }

    fn finish(&mut self, socket: SocketId) {
        let turn = self.turn;
        let Some(slot) = self.sockets.find_open(socket) else { return };
        slot.finishes = true;
        if slot.sent_in_turn == turn {
            self.deferred.push(socket);
        } else {
            self.conclude(socket);
        }
    }

    fn close(&mut self, socket: SocketId) {
        let turn = self.turn;
        let Some(slot) = self.sockets.find_open(socket) else { return };
        slot.is_closing = true;
        if slot.sent_in_turn == turn {
            self.deferred.push(socket);
        } else {
            self.shut(socket);
        }
    }

    fn abort(&mut self, socket: SocketId) {
        let turn = self.turn;
        let Some(slot) = self.sockets.find_open(socket) else { return };
        slot.is_closing = true;
        let is_reset = sockets::reset(&slot.socket()).is_ok();
        if slot.sent_in_turn == turn {
            self.deferred.push(socket);
        } else if is_reset {
            self.release_if_idle(socket);
        } else {
            self.shut(socket);
        }
    }

    fn tcp_info(&mut self, socket: SocketId) -> Option<TcpInfo> {
        sockets::tcp_info(self.sockets.find(socket)?.socket().as_fd())
    }

    fn stop_accepting(&mut self) {
        self.acceptor.stop();
    }

    fn pause_accept(&mut self) {
        self.acceptor.pause();
        self.cancel_accept();
    }

    fn resume_accept(&mut self) {
        self.acceptor.resume(self.sockets.is_full());
        self.arm_accept();
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.feed_starved();
        let mut has_entered = false;
        // More than one call submits, or something is to be done behind the sends: none of these calls may wait.
        while !self.uring.fits_in_one() || !self.deferred.is_empty() {
            self.submit(Wait::No)?;
            has_entered = true;
        }
        let has_news = !self.shorts.is_empty() || !self.events.is_empty();
        let wait = if has_news { Wait::No } else { wait };
        if !has_entered || wait != Wait::No || self.uring.has_queued() {
            self.submit(wait)?;
        }
        while self.uring.has_queued() {
            // The kernel took only some of them, for want of memory.
            self.submit(Wait::No)?;
        }
        Ok(())
    }

    fn completion(&mut self) -> Option<Completion> {
        while let Some(Short { socket, taken, errno }) = self.shorts.pop_front() {
            if let Some(slot) = self.sockets.find_open(socket) {
                slot.has_short = false;
                return Some(Completion::Short { socket, taken, errno });
            }
        }
        while let Some(event) = self.events.pop_front() {
            if let Some(completion) = self.report(event) {
                return Some(completion);
            }
        }
        None
    }

    fn held(&self) -> Held {
        let connected = self.events.iter().filter(|event| matches!(event, Event::Connected(_))).count();
        let sockets = self.sockets.count();
        Held {
            operations: self.uring.in_flight() - usize::from(self.is_wake_armed),
            sockets,
            buffers: self.memory.buffers.lent(),
            descriptors: sockets + connected + self.acceptor.descriptors(),
        }
    }

    fn counters(&self) -> KernelCounters {
        KernelCounters { enters: self.uring.enters, overflows: self.uring.overflows, ..self.counters }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // What waits on a socket ends with it; cancelling alone may miss something.
        for slot in self.sockets.iter() {
            let _ = slot.socket().shutdown(Shutdown::Both);
        }
        self.acceptor.end_accept();
        let is_quiet = self.uring.quiesce(|completed| {
            if completed.operation.kind == Kind::Accept && completed.result >= 0 {
                // SAFETY: as in `sort`: a descriptor that nobody else knows of.
                drop(unsafe { OwnedFd::from_raw_fd(completed.result) });
            }
        });
        if is_quiet {
            // SAFETY: the kernel holds no operation, and queued ones were forgotten, so nothing points there any more. `self` is
            // not used after. Otherwise the memory is leaked, which is safe.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

/// What only tests may look at or do.
#[cfg(test)]
impl Ring {
    pub(super) fn inject(&mut self, operation: Operation, result: i32) {
        self.events.push_back(Event::Completed(Completed { operation, result, flags: 0 }));
    }

    pub(super) fn may_send(&mut self, socket: SocketId) -> bool {
        let turn = self.turn;
        let slot = self.sockets.find_open(socket);
        slot.is_none_or(|slot| slot.sent_in_turn != turn && !slot.has_short && !slot.awaits_writable)
    }

    pub(super) fn socket_of(&mut self, socket: SocketId) -> socket2::SockRef<'_> {
        self.sockets.find(socket).expect("it is open").socket()
    }
}
