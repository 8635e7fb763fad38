//! Accepting: the listener, its multishot accept, and connections that come when there is no slot.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{opcode, types};
use socket2::SockRef;

use super::Ring;
use super::events::Event;
use crate::kernel::operation::{Kind, Operation};
use crate::kernel::{Completion, sockets};

/// The listener and what is known of it.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent claims, each with its own life")]
pub(super) struct Acceptor {
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

impl Acceptor {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener: Some(listener),
            is_accepting: false,
            is_cancelling: false,
            is_paused: false,
            is_stopped: false,
            is_short: false,
            parked: VecDeque::new(),
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Descriptors that are open for it: the listener, and connections that wait for a slot.
    pub(super) fn descriptors(&self) -> usize {
        self.parked.len() + usize::from(self.listener.is_some())
    }

    /// The caller wants no more for now; an accept that is armed is to be cancelled.
    pub(super) fn pause(&mut self) {
        self.is_paused = true;
    }

    /// The caller wants more, which come if there is a slot for them.
    pub(super) fn resume(&mut self, is_full: bool) {
        self.is_paused = false;
        self.is_short = is_full;
    }

    /// For good.
    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
        self.parked.clear();
        if self.is_accepting {
            // The descriptor is closed when the accept's end is reported.
            self.end_accept();
        } else {
            self.listener = None;
        }
    }

    /// Ends the accept that is armed, if one is.
    pub(super) fn end_accept(&self) {
        if let Some(listener) = &self.listener {
            let _ = SockRef::from(listener).shutdown(Shutdown::Both);
        }
    }

    /// The cancellation is over, whatever came of it.
    pub(super) fn cancelled(&mut self) {
        self.is_cancelling = false;
    }
}

impl Ring {
    pub(super) fn arm_accept(&mut self) {
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

    pub(super) fn cancel_accept(&mut self) {
        if self.acceptor.is_accepting && !self.acceptor.is_cancelling {
            self.acceptor.is_cancelling = true;
            let entry = opcode::AsyncCancel::new(Operation::own(Kind::Accept).pack()).build();
            // SAFETY: a cancellation points to nothing.
            unsafe { self.uring.push(entry, Operation::own(Kind::AcceptCancel)) };
        }
    }

    pub(super) fn connected(&mut self, fd: OwnedFd) -> Option<Completion> {
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

    pub(super) fn accept_ended(&mut self, result: i32) -> Option<Completion> {
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

    /// A slot became free.
    pub(super) fn make_room(&mut self) {
        if let Some(fd) = self.acceptor.parked.pop_front() {
            self.events.push_back(Event::Connected(fd));
        } else if self.acceptor.is_short {
            self.acceptor.is_short = false;
            self.arm_accept();
        }
    }
}
