//! The ring itself: queueing, entering, reaping, and its end. Knows nothing of sockets.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use io_uring::types::CancelBuilder;
use io_uring::{IoUring, cqueue, squeue};

use super::Wait;
use super::operation::Operation;
use super::probe::{self, BootError};

// `io_uring_enter(2)` and `io_uring_register(2)`. Called directly, because the crate ties a registered descriptor to a borrow.
const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;

/// Times that the kernel may take nothing of what is submitted before the ring counts as broken.
const FRUITLESS_ENTERS: u32 = 1_000;
/// How often, and how long each time, the end of a ring waits for the kernel to let go of everything.
const TEARDOWN_ROUNDS: usize = 200;
const TEARDOWN_ROUND: Duration = Duration::from_millis(10);

/// One completion, as the kernel gave it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completed {
    pub(super) operation: Operation,
    pub(super) result: i32,
    pub(super) flags: u32,
}

impl Completed {
    /// Whether the operation goes on.
    pub(super) fn has_more(self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer that was filled.
    pub(super) fn buffer(self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// An io_uring of one thread.
pub(super) struct Uring {
    ring: IoUring,
    /// The descriptor's place in the thread's table of registered rings.
    registered: Option<u32>,
    queue: VecDeque<squeue::Entry>,
    /// Entries handed over that a final completion will come of. (Of sends none is awaited: they end within the call.)
    in_flight: usize,
    pub(super) enters: u64,
    pub(super) overflows: u64,
    /// `SINGLE_ISSUER` and the registered descriptor bind it to the thread that made it.
    _bound_to_thread: PhantomData<*mut ()>,
}

impl Uring {
    /// A ring of `entries` submissions and `completion_entries` completions, probed for all that is needed.
    pub(super) fn new(entries: u32, completion_entries: u32) -> Result<Self, BootError> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(completion_entries)
            .build(entries)
            .map_err(|error| BootError::of_setup(error, probe::disabled_sysctl()))?;
        probe::probe(&ring)?;
        let registered =
            register_ring(&ring).map_err(|error| BootError::of_registration("registering the ring", error))?;
        Ok(Self {
            ring,
            registered: Some(registered),
            queue: VecDeque::with_capacity(entries as usize),
            in_flight: 0,
            enters: 0,
            overflows: 0,
            _bound_to_thread: PhantomData,
        })
    }

    /// Registers the ring of buffers that begins at `address`.
    ///
    /// # Safety
    /// `address` is page-aligned memory of `entries` entries; it and all memory that entries ever name stay valid until
    /// [`Uring::quiesce`] said true, or for ever.
    pub(super) unsafe fn register_buffers(&self, address: u64, entries: u16, group: u16) -> Result<(), BootError> {
        // SAFETY: what the caller promised.
        unsafe { self.ring.submitter().register_buf_ring_with_flags(address, entries, group, 0) }
            .map_err(|error| BootError::of_registration("registering the receive buffers (Linux 5.19)", error))
    }

    /// Queues an operation that a final completion will come of.
    ///
    /// # Safety
    /// What the entry points to stays valid until its final completion, until [`Uring::quiesce`] said true, or for ever.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry, operation: Operation) {
        self.queue.push_back(entry.user_data(operation.pack()));
        self.in_flight += 1;
    }

    /// Queues a message that wakes another ring, before all that is queued: the other one must not wait for this one's sends, which
    /// end one by one within the call. A completion comes only if it failed.
    pub(super) fn push_ring(&mut self, entry: squeue::Entry, operation: Operation) {
        self.queue.push_front(entry.user_data(operation.pack()));
    }

    /// Takes a queued operation back, if the kernel has not seen it.
    pub(super) fn take_back(&mut self, operation: Operation) -> bool {
        let found = self.queue.iter().position(|entry| entry.get_user_data() == operation.pack());
        if let Some(at) = found {
            self.queue.remove(at);
            self.in_flight -= 1;
        }
        found.is_some()
    }

    /// Queues a send that completes within the call that submits it, with a completion only if it is short.
    ///
    /// # Safety
    /// As of [`Uring::push`], except that nothing is needed any more once [`Uring::has_queued`] says false.
    pub(super) unsafe fn push_send(&mut self, entry: squeue::Entry, operation: Operation) {
        self.queue.push_back(entry.user_data(operation.pack()));
    }

    /// Whether anything waits for submission.
    pub(super) fn has_queued(&mut self) -> bool {
        !self.queue.is_empty() || !self.ring.submission().is_empty()
    }

    /// Whether the next [`Uring::enter`] will submit all that waits.
    pub(super) fn fits_in_one(&mut self) -> bool {
        let submission = self.ring.submission();
        self.queue.len() <= submission.capacity() - submission.len()
    }

    /// The ring's descriptor.
    pub(super) fn raw_fd(&self) -> std::os::fd::RawFd {
        self.ring.as_raw_fd()
    }

    /// Operations in flight or queued, other than sends.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Submits what fits, waits, and hands every completion that has come to `reap`. One system call, unless the completion
    /// queue overflowed.
    pub(super) fn enter(&mut self, wait: Wait, mut reap: impl FnMut(Completed)) -> io::Result<()> {
        for fruitless in 0.. {
            let submitted = self.fill();
            let result = self.call(submitted, wait);
            self.drain(&mut reap);
            while self.ring.submission().cq_overflow() {
                // The kernel kept what found no room; it comes in order, now that there is.
                self.overflows += 1;
                self.call(0, Wait::No)?;
                self.drain(&mut reap);
            }
            match result.map_err(|error| error.raw_os_error()) {
                Ok(_) | Err(Some(libc::ETIME | libc::EINTR)) => return Ok(()),
                // Short of memory, or the completion queue was full: what was not submitted still stands in the queue.
                Err(Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM)) if fruitless < FRUITLESS_ENTERS => {}
                Err(errno) => return Err(errno.map_or_else(io::Error::last_os_error, io::Error::from_raw_os_error)),
            }
        }
        unreachable!("the loop returns before it has counted so far")
    }

    /// Moves entries into the kernel's queue; says how many stand there.
    fn fill(&mut self) -> u32 {
        let mut submission = self.ring.submission();
        while !submission.is_full() {
            let Some(entry) = self.queue.pop_front() else { break };
            // SAFETY: whoever queued the entry promised that what it points to stays valid.
            unsafe { submission.push(&entry) }.expect("it is not full");
        }
        u32::try_from(submission.len()).expect("at most its capacity, a u32")
    }

    fn drain(&mut self, reap: &mut impl FnMut(Completed)) {
        for entry in self.ring.completion() {
            let operation = Operation::unpack(entry.user_data()).expect("only what was packed comes back");
            let completed = Completed { operation, result: entry.result(), flags: entry.flags() };
            if operation.kind.is_counted() && !completed.has_more() {
                self.in_flight -= 1;
            }
            reap(completed);
        }
    }

    /// `io_uring_enter(2)`. Always with GETEVENTS: deferred completions appear only so.
    fn call(&mut self, submit: u32, wait: Wait) -> io::Result<()> {
        #[repr(C)]
        struct Argument {
            signal_mask: u64,
            signal_mask_size: u32,
            min_wait_us: u32,
            timeout: u64,
        }
        let timeout = match wait {
            Wait::AtMost(limit) => libc::timespec {
                tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: limit.subsec_nanos().into(),
            },
            Wait::No | Wait::Forever => libc::timespec { tv_sec: 0, tv_nsec: 0 },
        };
        let timeout = if let Wait::AtMost(_) = wait { ptr::from_ref(&timeout) as u64 } else { 0 };
        let argument = Argument { signal_mask: 0, signal_mask_size: 0, min_wait_us: 0, timeout };
        let (ring, flags) = match self.registered {
            Some(index) => (index, ENTER_REGISTERED_RING),
            None => (self.ring.as_raw_fd().cast_unsigned(), 0),
        };
        let min_complete = u32::from(wait != Wait::No);
        self.enters += 1;
        // SAFETY: the six arguments of io_uring_enter(2), the last two being a struct on our stack and its size, which in turn names a
        // timespec on our stack or none; both outlive the call. What submitted entries point to is promised by those who queued them.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                ring,
                submit,
                min_complete,
                flags | ENTER_GETEVENTS | ENTER_EXT_ARG,
                ptr::from_ref(&argument),
                size_of::<Argument>(),
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Cancels everything and waits until the kernel holds nothing. False if that cannot be had: then what was lent to the
    /// kernel must never be freed. Queued operations are forgotten. What still comes is handed to `reap`.
    pub(super) fn quiesce(&mut self, mut reap: impl FnMut(Completed)) -> bool {
        let is_counted = |entry: &&squeue::Entry| {
            Operation::unpack(entry.get_user_data()).is_some_and(|operation| operation.kind.is_counted())
        };
        self.in_flight -= self.queue.iter().filter(is_counted).count();
        self.queue.clear();
        for _ in 0..TEARDOWN_ROUNDS {
            if self.in_flight == 0 {
                break;
            }
            // Not found is fine: everything may be completing. So is any other failure, as the wait below then ends in false.
            let limit = io_uring::types::Timespec::from(TEARDOWN_ROUND);
            let _ = self.ring.submitter().register_sync_cancel(Some(limit), CancelBuilder::any().all());
            if self.call(0, Wait::AtMost(TEARDOWN_ROUND)).is_err_and(|error| error.raw_os_error() != Some(libc::ETIME))
            {
                break;
            }
            self.drain(&mut reap);
        }
        // Entries that an enter left behind in the kernel's queue are counted in flight, and die with the ring.
        self.in_flight == 0
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // The registration holds a reference of its own: without this the ring would live until the thread ends.
        if let Some(index) = self.registered.take() {
            let mut update = RingUpdate { offset: index, reserved: 0, data: 0 };
            // A failure leaves the ring to the thread's end; there is nobody to tell.
            let _ = register(&self.ring, UNREGISTER_RING_FDS, &mut update);
        }
    }
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RingUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

fn register_ring(ring: &IoUring) -> io::Result<u32> {
    let data = u64::from(ring.as_raw_fd().cast_unsigned());
    let mut update = RingUpdate { offset: u32::MAX, reserved: 0, data };
    register(ring, REGISTER_RING_FDS, &mut update)?;
    Ok(update.offset)
}

fn register(ring: &IoUring, operation: u32, update: &mut RingUpdate) -> io::Result<()> {
    // SAFETY: io_uring_register(2) with an array of one update, which outlives the call and which the kernel may write to.
    let result = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), operation, ptr::from_mut(update), 1_u32)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
