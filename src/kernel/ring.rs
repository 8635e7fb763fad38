//! The kernel over io_uring: one ring, its listener, its sockets.
//!
//! Who owns memory that the kernel may touch, and until when:
//!
//! * receive buffers and the wake word: until the kernel holds no operation ([`Uring::quiesce`]), else for ever;
//! * bytes to be sent, and the vectors that describe them: until the call that submitted them has returned ([`Outgoing`]).
//!
//! A socket's descriptor and slot live until the kernel holds no operation of it ([`Sockets`]). Nothing that safe code does,
//! in whatever order, with whatever ids or buffers of other rings, or leaves undone, changes any of that.

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use io_uring::{opcode, squeue, types};
use socket2::SockRef;

use super::buffers::{self, Buffers};
use super::operation::{Kind, MAX_SOCKETS, Operation};
use super::outgoing::Outgoing;
use super::peers::{Handed, RingHandle};
use super::probe::BootError;
use super::sockets::{self, Sockets};
use super::uring::{Completed, Uring};
use super::waker::EventWaker;
use super::{Completion, Held, Kernel, KernelCounters, Received, SocketId, TcpInfo, Wait, Waker};

/// The sizes of a [`Ring`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Operations that one system call submits; more take several. A power of two.
    pub entries: u32,
    /// Completions that wait without costing more calls: the worst turn. A power of two, not below `entries`.
    pub completion_entries: u32,
    /// Receive buffers, shared by all sockets. A power of two, at most 32,768.
    pub buffers: u16,
    /// Bytes of each.
    pub buffer_bytes: u32,
    /// Connections; beyond them accepting pauses.
    pub max_sockets: usize,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            entries: 1_024,
            completion_entries: 16 * 1_024,
            buffers: 4_096,
            buffer_bytes: 4_096,
            max_sockets: 1_000_000,
        }
    }
}

impl RingConfig {
    fn check(&self) -> Result<(), BootError> {
        let rules = [
            (self.entries.is_power_of_two(), "entries must be a power of two"),
            (self.completion_entries.is_power_of_two(), "completion_entries must be a power of two"),
            (self.completion_entries >= self.entries, "completion_entries must not be below entries"),
            (self.buffers.is_power_of_two(), "buffers must be a power of two"),
            (self.buffers <= buffers::MAX_BUFFERS, "buffers must be at most 32768"),
            (self.buffer_bytes > 0 && self.buffer_bytes <= 1 << 20, "buffer_bytes must be between 1 and 1 MiB"),
            (self.max_sockets > 0, "max_sockets must not be 0"),
            (self.max_sockets < MAX_SOCKETS as usize, "max_sockets must be below 67108864"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some(&(_, reason)) => Err(BootError::Configuration { reason }),
            None => Ok(()),
        }
    }
}

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

/// The listener and what is known of it.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent claims, each with its own life")]
struct Acceptor {
    listener: Option<TcpListener>,
    /// True exactly when a multishot accept is queued or in flight.
    is_accepting: bool,
    /// True exactly when its cancellation is queued or in flight.
    is_cancelling: bool,
    /// The caller paused it.
    is_paused: bool,
    /// For good: the listener is closed as soon as the kernel holds no accept.
    is_stopped: bool,
    /// Descriptors, memory or slots ran out.
    is_short: bool,
    /// Accepted beyond the table's end; they come first when there is room.
    parked: VecDeque<OwnedFd>,
}

#[derive(Debug)]
struct Short {
    socket: SocketId,
    taken: usize,
    errno: i32,
}

#[derive(Debug)]
enum Event {
    Completed(Completed),
    /// Bytes arrived, in a buffer that is ours until it is reported.
    Arrived(SocketId, Received),
    /// A connection was accepted.
    Connected(OwnedFd),
    Report(Completion),
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
            acceptor: Acceptor {
                listener: Some(listener),
                is_accepting: false,
                is_cancelling: false,
                is_paused: false,
                is_stopped: false,
                is_short: false,
                parked: VecDeque::new(),
            },
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

    // -- arming --------------------------------------------------------------------------------------------------------

    fn arm_accept(&mut self) {
        let Acceptor { listener, is_accepting, is_paused, is_stopped, is_short, .. } = &mut self.acceptor;
        let Some(listener) = listener else { return };
        if *is_accepting || *is_paused || *is_stopped || *is_short {
            return;
        }
        *is_accepting = true;
        // Blocking sockets: a ring's receive on a non-blocking one would fail instead of waiting.
        let entry = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: a multishot accept without an address points to nothing.
        unsafe { self.uring.push(entry, Operation::own(Kind::Accept)) };
    }

    fn cancel_accept(&mut self) {
        if self.acceptor.is_accepting && !self.acceptor.is_cancelling {
            self.acceptor.is_cancelling = true;
            let entry = opcode::AsyncCancel::new(Operation::own(Kind::Accept).pack()).build();
            // SAFETY: a cancellation points to nothing.
            unsafe { self.uring.push(entry, Operation::own(Kind::AcceptCancel)) };
        }
    }

    fn arm_wake(&mut self) {
        self.is_wake_armed = true;
        let word = std::ptr::from_mut::<u64>(&mut self.memory.wake_word).cast();
        let entry = opcode::Read::new(types::Fd(self.waker.raw_fd()), word, 8).build();
        // SAFETY: eight bytes of `memory`, which `drop` frees only once the kernel holds nothing. Nobody reads them. The
        // eventfd lives as long as `waker`.
        unsafe { self.uring.push(entry, Operation::own(Kind::Wake)) };
    }

    fn arm_receive(&mut self, socket: SocketId) {
        let Some(slot) = self.sockets.find_open(socket) else { return };
        if slot.is_receiving || slot.has_ended || slot.is_starved || !slot.wants_to_receive {
            return;
        }
        slot.is_receiving = true;
        slot.operations += 1;
        let entry = opcode::RecvMulti::new(types::Fd(slot.raw_fd()), buffers::GROUP).build();
        // SAFETY: it takes its memory from the registered buffers, which `drop` frees only once the kernel holds nothing.
        unsafe { self.uring.push(entry, Operation::of(Kind::Receive, socket)) };
    }

    fn cancel_receive(&mut self, socket: SocketId) {
        let Some(slot) = self.sockets.find_open(socket) else { return };
        if slot.is_receiving && !slot.is_cancelling {
            slot.is_cancelling = true;
            slot.operations += 1;
            let entry = opcode::AsyncCancel::new(Operation::of(Kind::Receive, socket).pack()).build();
            // SAFETY: a cancellation points to nothing.
            unsafe { self.uring.push(entry, Operation::of(Kind::ReceiveCancel, socket)) };
        }
    }

    /// Receives again where buffers were missing, for as many sockets as there are buffers. All of them come to their turn: a
    /// receive that is armed here takes a buffer or completes, so there is another enter.
    fn feed_starved(&mut self) {
        let count = self.memory.buffers.available().min(self.starved.len());
        for socket in self.starved.drain(..count).collect::<Vec<_>>() {
            if let Some(slot) = self.sockets.find(socket) {
                slot.is_starved = false;
            }
            self.arm_receive(socket);
        }
    }

    // -- submitting ----------------------------------------------------------------------------------------------------

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

    /// Finishes or closes a socket whose send was queued before.
    fn conclude(&mut self, socket: SocketId) {
        let Some(slot) = self.sockets.find(socket) else { return };
        if slot.is_closing {
            self.shut(socket);
        } else if slot.finishes {
            slot.finishes = false;
            if !slot.has_short {
                // It fails if the connection is gone, which a receive or send reports.
                let _ = slot.socket().shutdown(Shutdown::Write);
            }
        }
    }

    /// Ends all operations of a closing socket, and with the last of them the socket.
    fn shut(&mut self, socket: SocketId) {
        let slot = self.sockets.find(socket).expect("a closing socket is held");
        // It fails if the connection is gone, and ends what waits on the socket even so.
        let _ = slot.socket().shutdown(Shutdown::Both);
        self.release_if_idle(socket);
    }

    /// Closes the descriptor of a closing socket that the kernel holds no operation of.
    fn release_if_idle(&mut self, socket: SocketId) {
        let turn = self.turn;
        let is_idle = self
            .sockets
            .find(socket)
            .is_some_and(|slot| slot.is_closing && slot.operations == 0 && slot.sent_in_turn != turn);
        if !is_idle {
            return;
        }
        self.sockets.remove(socket);
        // Before all that waits: a connection among it may be given the slot.
        self.events.push_front(Event::Report(Completion::Released { socket }));
        self.make_room();
    }

    /// A slot became free.
    fn make_room(&mut self) {
        if let Some(fd) = self.acceptor.parked.pop_front() {
            self.events.push_back(Event::Connected(fd));
        } else if self.acceptor.is_short {
            self.acceptor.is_short = false;
            self.arm_accept();
        }
    }

    // -- reporting -----------------------------------------------------------------------------------------------------

    /// What an event means to the caller, if anything.
    fn report(&mut self, event: Event) -> Option<Completion> {
        match event {
            Event::Report(completion) => Some(completion),
            Event::Connected(fd) => self.connected(fd),
            Event::Arrived(socket, received) => self.arrived(socket, received),
            Event::Completed(completed) => match completed.operation.kind {
                Kind::Accept => self.accept_ended(completed.result),
                Kind::AcceptCancel => {
                    self.acceptor.is_cancelling = false;
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

    fn connected(&mut self, fd: OwnedFd) -> Option<Completion> {
        if self.acceptor.is_stopped {
            return None;
        }
        if self.sockets.is_full() {
            self.acceptor.parked.push_back(fd);
            return self.accept_short(libc::EMFILE);
        }
        if self.acceptor.is_paused || self.acceptor.is_short {
            // A cancellation may miss an operation that is there (or come too late): once more.
            self.cancel_accept();
        }
        // No address: the peer is gone already.
        let peer = sockets::peer_of(&fd)?;
        let socket = self.sockets.insert(fd);
        self.sockets.find(socket).expect("just inserted").wants_to_receive = true;
        self.arm_receive(socket);
        Some(Completion::Accepted { socket, peer })
    }

    fn accept_short(&mut self, errno: i32) -> Option<Completion> {
        self.cancel_accept();
        let is_news = !std::mem::replace(&mut self.acceptor.is_short, true);
        is_news.then_some(Completion::AcceptPaused { errno })
    }

    fn accept_ended(&mut self, result: i32) -> Option<Completion> {
        self.acceptor.is_accepting = false;
        if self.acceptor.is_stopped {
            self.acceptor.listener = None;
            return None;
        }
        match -result {
            // No error at all, or one of the connection that was about to be accepted (accept(2)): the next may be fine.
            0
            | libc::ECANCELED
            | libc::EINTR
            | libc::EAGAIN
            | libc::ECONNABORTED
            | libc::EPERM
            | libc::EPROTO
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH
            | libc::ETIMEDOUT => {
                self.arm_accept();
                None
            }
            // No room, or something that trying again at once would only repeat.
            errno => self.accept_short(errno),
        }
    }

    fn arrived(&mut self, socket: SocketId, received: Received) -> Option<Completion> {
        let Some(slot) = self.sockets.find_open(socket) else {
            // Of a closing socket, or of an earlier holder of the slot.
            self.counters.stale_completions += u64::from(self.sockets.find(socket).is_none());
            self.memory.buffers.discard(received);
            return None;
        };
        if !slot.wants_to_receive {
            // A cancellation may miss an operation that is there: once more.
            self.cancel_receive(socket);
        }
        let received = self.memory.buffers.lend(received);
        Some(Completion::Received { socket, received })
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

    fn receive_ended(&mut self, socket: SocketId, result: i32) -> Option<Completion> {
        let slot = self.sockets.find_open(socket)?;
        match -result {
            libc::ENOBUFS => {
                self.counters.buffer_shortages += 1;
                if slot.wants_to_receive {
                    slot.is_starved = true;
                    self.starved.push_back(socket);
                }
                None
            }
            // Cancelled, or ended at the kernel's whim.
            errno if errno < 0 || matches!(errno, libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {
                self.arm_receive(socket);
                None
            }
            errno => {
                slot.has_ended = true;
                Some(Completion::Ended { socket, errno })
            }
        }
    }
}

/// Sorts a completion as it comes: what owns something gets an owner, short sends go first.
fn sort(
    completed: Completed,
    buffers: &mut Buffers,
    sockets: &mut Sockets,
    shorts: &mut VecDeque<Short>,
    events: &mut VecDeque<Event>,
) {
    let Operation { kind, socket } = completed.operation;
    let mut result = completed.result;
    match kind {
        Kind::Send => {
            if let Some(slot) = sockets.find(socket) {
                slot.has_short = true;
                shorts.push_back(short(socket, result));
            }
            return;
        }
        Kind::Accept if result >= 0 => {
            // SAFETY: a descriptor that the accept made; its only mention is this completion, which is looked at once.
            events.push_back(Event::Connected(unsafe { OwnedFd::from_raw_fd(result) }));
            result = 0;
        }
        Kind::Receive => {
            if let Some(buffer) = completed.buffer() {
                let received = buffers.take(buffer, u32::try_from(result).unwrap_or(0));
                if received.is_empty() {
                    buffers.discard(received);
                } else {
                    events.push_back(Event::Arrived(socket, received));
                }
            }
        }
        _ => {}
    }
    if !completed.has_more() {
        events.push_back(Event::Completed(Completed { result, ..completed }));
    }
}

/// What the result of a send that did not go whole means.
fn short(socket: SocketId, result: i32) -> Short {
    match usize::try_from(result) {
        Ok(taken) => Short { socket, taken, errno: 0 },
        Err(_) => match -result {
            // Full, or the kernel had no memory for more: the same to whoever sends.
            libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR => Short { socket, taken: 0, errno: 0 },
            errno => Short { socket, taken: 0, errno },
        },
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
        if self.sockets.is_full() || self.acceptor.is_stopped {
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
        self.acceptor.is_stopped = true;
        self.acceptor.parked.clear();
        if !self.acceptor.is_accepting {
            self.acceptor.listener = None;
        } else if let Some(listener) = &self.acceptor.listener {
            // Ends the accept; the descriptor is closed when that is reported.
            let _ = SockRef::from(listener).shutdown(Shutdown::Both);
        }
    }

    fn pause_accept(&mut self) {
        self.acceptor.is_paused = true;
        self.cancel_accept();
    }

    fn resume_accept(&mut self) {
        self.acceptor.is_paused = false;
        self.acceptor.is_short = self.sockets.is_full();
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
            descriptors: sockets
                + connected
                + self.acceptor.parked.len()
                + usize::from(self.acceptor.listener.is_some()),
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
        if let Some(listener) = &self.acceptor.listener {
            let _ = SockRef::from(listener).shutdown(Shutdown::Both);
        }
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

    pub(super) fn socket_of(&mut self, socket: SocketId) -> SockRef<'_> {
        self.sockets.find(socket).expect("it is open").socket()
    }
}
