//! The table of connected sockets, what is asked of a socket directly, and listeners.
//!
//! A slot is free, open or closing. It becomes free only when it is closing and the kernel holds no operation of it:
//! only then its descriptor is closed, so that neither the number nor the slot can be mistaken for its next holder's.

use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::slots::Slots;
use super::{SocketId, TcpInfo};
use crate::limits::NOTSENT_LOWAT_BYTES;

/// What the kernel does for one socket, and what was asked.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent claims about one socket, each with its own life")]
pub(super) struct Slot {
    /// Open until the kernel holds no operation.
    fd: OwnedFd,
    /// Final completions that are still to come (sends, which end within their call, not counted).
    pub(super) operations: u8,
    /// True exactly when a multishot receive is queued or in flight.
    pub(super) is_receiving: bool,
    /// The caller wants to receive.
    pub(super) wants_to_receive: bool,
    /// True exactly when the receive's cancellation is queued or in flight.
    pub(super) is_cancelling: bool,
    /// True exactly when the socket stands in the list of those that wait for buffers.
    pub(super) is_starved: bool,
    /// The end of the stream was reported, or is about to be.
    pub(super) has_ended: bool,
    /// True exactly when a poll for `POLLOUT` is queued or in flight, or its completion not reported.
    pub(super) awaits_writable: bool,
    /// The turn in which a send was queued.
    pub(super) sent_in_turn: u64,
    /// A short send was not reported yet.
    pub(super) has_short: bool,
    /// FIN goes out behind the send that is queued.
    pub(super) finishes: bool,
    pub(super) is_closing: bool,
}

impl Slot {
    fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            operations: 0,
            is_receiving: false,
            wants_to_receive: false,
            is_cancelling: false,
            is_starved: false,
            has_ended: false,
            awaits_writable: false,
            sent_in_turn: 0,
            has_short: false,
            finishes: false,
            is_closing: false,
        }
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.fd)
    }
}

/// All slots.
#[derive(Debug)]
pub(super) struct Sockets {
    slots: Slots<Slot>,
    max: usize,
}

impl Sockets {
    pub(super) fn new(max: usize) -> Self {
        Self { slots: Slots::new(), max }
    }

    pub(super) fn count(&self) -> usize {
        self.slots.count()
    }

    pub(super) fn is_full(&self) -> bool {
        self.count() == self.max
    }

    /// Gives a socket a slot.
    pub(super) fn insert(&mut self, fd: OwnedFd) -> SocketId {
        assert!(!self.is_full(), "the caller looks first");
        self.slots.insert(Slot::new(fd))
    }

    /// The slot of a socket, unless the id is void.
    pub(super) fn find(&mut self, socket: SocketId) -> Option<&mut Slot> {
        self.slots.find(socket)
    }

    /// The slot of a socket that is not closing.
    pub(super) fn find_open(&mut self, socket: SocketId) -> Option<&mut Slot> {
        self.find(socket).filter(|slot| !slot.is_closing)
    }

    /// Closes the descriptor and frees the slot.
    pub(super) fn remove(&mut self, socket: SocketId) {
        let slot = self.find(socket).expect("only a socket that is held is removed");
        assert!(slot.is_closing, "only a socket that is closing is removed");
        drop(self.take(socket));
    }

    /// Takes the socket out of its slot; the kernel holds no operation of it.
    pub(super) fn take(&mut self, socket: SocketId) -> OwnedFd {
        let slot = self.slots.remove(socket).expect("only a socket that is held is taken out");
        assert!(slot.operations == 0, "the kernel holds no operation of a slot that is freed");
        slot.fd
    }

    /// All sockets that are held.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().map(|(_, slot)| slot)
    }
}

/// Resets the connection: the peer gets RST at once, and what waits on the socket ends.
pub(super) fn reset(socket: &SockRef<'_>) -> io::Result<()> {
    // Should the disconnect fail, close(2) still resets.
    socket.set_linger(Some(Duration::ZERO))?;
    let nowhere =
        libc::sockaddr { sa_family: libc::sa_family_t::try_from(libc::AF_UNSPEC).expect("zero"), sa_data: [0; 14] };
    let length = libc::socklen_t::try_from(size_of_val(&nowhere)).expect("16");
    // SAFETY: connect(2) with an address on our stack and its size. AF_UNSPEC dissolves a connection, which TCP does by RST.
    let result = unsafe { libc::connect(socket.as_raw_fd(), ptr::from_ref(&nowhere), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The peer's address.
pub(super) fn peer_of(fd: &OwnedFd) -> Option<SocketAddr> {
    let address = SockRef::from(fd).peer_addr().ok()?.as_socket()?;
    // A listener of both families sees IPv4 mapped into IPv6; limits per address must not.
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// `TCP_INFO` (`tcp(7)`, `struct tcp_info` of `linux/tcp.h`).
pub(super) fn tcp_info(socket: BorrowedFd<'_>) -> Option<TcpInfo> {
    /// The beginning of the kernel's struct, which only ever grows at its end; libc's has less.
    #[repr(C)]
    struct Raw {
        state: u8,
        ca_state: u8,
        retransmits: u8,
        probes: u8,
        backoff: u8,
        options: u8,
        scales: u8,
        limited: u8,
        before_last_ack_received: [u32; 12],
        last_ack_received_ms: u32,
        before_pacing: [u32; 11],
        pacing_rates: [u64; 2],
        bytes_acked: u64,
    }
    const _: () = assert!(std::mem::offset_of!(Raw, last_ack_received_ms) == 56);
    const _: () = assert!(std::mem::offset_of!(Raw, bytes_acked) == 120);
    let mut raw = MaybeUninit::<Raw>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<Raw>()).expect("128");
    // SAFETY: getsockopt(2) writes at most `length` bytes to `raw`, which has so many, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            raw.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return None;
    }
    // SAFETY: integers only, zeroed before the kernel wrote to some of them.
    let raw = unsafe { raw.assume_init() };
    Some(TcpInfo {
        retransmits: raw.retransmits,
        probes: raw.probes,
        bytes_acked: raw.bytes_acked,
        last_ack_received_ms: raw.last_ack_received_ms,
    })
}

/// Whether several listeners may share a port (`SO_REUSEPORT`), one for each shard: the kernel spreads connections over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// It has the port alone.
    Alone,
    /// It must get the port alone, and then lets others have it, too: so nobody else's listener is among them.
    First,
    /// It shares the port of a first one.
    Further,
}

/// How a listener is made. Accepted sockets inherit all of it, so that no connection costs a system call for its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Whether other listeners may have the port, too.
    pub sharing: Sharing,
    /// Connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
    pub backlog: i32,
    /// Unsent bytes that a socket takes (`TCP_NOTSENT_LOWAT`).
    pub notsent_lowat_bytes: u32,
    /// Silence before TCP asks whether the peer is there (`TCP_KEEPIDLE`).
    pub keepalive_idle: Duration,
    /// Time between two such questions (`TCP_KEEPINTVL`).
    pub keepalive_interval: Duration,
    /// So many without an answer end the connection (`TCP_KEEPCNT`).
    pub keepalive_probes: u32,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            sharing: Sharing::Alone,
            backlog: 4_096,
            notsent_lowat_bytes: NOTSENT_LOWAT_BYTES,
            keepalive_idle: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(15),
            keepalive_probes: 4,
        }
    }
}

/// A listener at `address`, which may have port 0.
///
/// # Errors
/// What `socket(2)`, `setsockopt(2)`, `bind(2)` and `listen(2)` say; an address in use is the operator's to mend.
pub fn listen(address: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.sharing == Sharing::Further)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_tcp_nodelay(true)?;
    set_notsent_lowat(&socket, options.notsent_lowat_bytes)?;
    let keepalive = TcpKeepalive::new()
        .with_time(options.keepalive_idle)
        .with_interval(options.keepalive_interval)
        .with_retries(options.keepalive_probes);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.bind(&address.into())?;
    socket.set_reuse_port(options.sharing != Sharing::Alone)?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

fn set_notsent_lowat(socket: &Socket, bytes: u32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<u32>()).expect("4");
    // SAFETY: setsockopt(2) reads the `length` bytes of `bytes`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            ptr::from_ref(&bytes).cast(),
            length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// For tests in a process of their own.
#[cfg(test)]
pub(super) fn set_descriptor_limit(limits: &libc::rlimit) {
    // SAFETY: setrlimit(2) reads a struct that outlives the call.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, ptr::from_ref(limits)) };
    assert_eq!(result, 0);
}
