//! Receive buffers, lent to the kernel through a ring of provided buffers and by it, filled, to the caller.
//!
//! Who owns a buffer's memory:
//!
//! ```text
//!            provide                a completion names it           release
//!   (start) ----------> kernel ------------------------------> caller -------+
//!                         ^                                                  |
//!                         +--------------------------------------------------+
//! ```
//!
//! `is_taken` says which: only a taken buffer is read or written here, only one that is not is in the kernel's ring.
//! Dropping the memory while the kernel can still write to it would be unsound; [`Ring`](super::Ring) sees to that.

use std::io;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::Received;

/// The group that receives take their buffers from.
pub(super) const GROUP: u16 = 0;
/// Buffers that a group can have (`io_uring_register(2)`).
pub(super) const MAX_BUFFERS: u16 = 1 << 15;

/// The buffers of one ring.
pub(super) struct Buffers {
    entries: Mapping,
    memory: Mapping,
    buffer_bytes: u32,
    /// True exactly when the buffer is not in the kernel's ring.
    is_taken: Vec<bool>,
    taken: usize,
    /// Buffers named by completions that have not been reported yet, or that were not the caller's to see.
    unreported: usize,
    tail: u16,
}

impl Buffers {
    /// `count` buffers (a power of two) of `buffer_bytes` each, all of them in the kernel's ring once that is registered.
    pub(super) fn new(count: u16, buffer_bytes: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= MAX_BUFFERS && buffer_bytes > 0, "checked by the configuration");
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(usize::from(count) * buffer_bytes as usize)?;
        let is_taken = vec![true; usize::from(count)];
        let taken = usize::from(count);
        let mut buffers = Self { entries, memory, buffer_bytes, is_taken, taken, unreported: 0, tail: 0 };
        (0..count).for_each(|buffer| buffers.provide(buffer));
        Ok(buffers)
    }

    /// Where the ring of entries begins and how many it has, for its registration.
    pub(super) fn ring(&self) -> (u64, u16) {
        (self.entries.base.as_ptr() as u64, self.count())
    }

    /// Buffers that the kernel can still fill.
    pub(super) fn available(&self) -> usize {
        self.is_taken.len() - self.taken
    }

    /// Buffers that the caller holds.
    pub(super) fn lent(&self) -> usize {
        // A caller that releases buffers of another ring may free an unreported one here; the count is then off, nothing else.
        self.taken.saturating_sub(self.unreported)
    }

    /// The kernel says that it took `buffer` and filled it with `len` bytes. Nobody sees it before [`Buffers::lend`].
    pub(super) fn take(&mut self, buffer: u16, len: u32) -> Received {
        let is_taken = &mut self.is_taken[usize::from(buffer)];
        assert!(
            !*is_taken && len <= self.buffer_bytes,
            "the kernel fills a buffer that it has, and not beyond its end"
        );
        *is_taken = true;
        self.taken += 1;
        self.unreported += 1;
        Received { buffer, len }
    }

    /// A taken buffer goes to the caller.
    pub(super) fn lend(&mut self, received: Received) -> Received {
        self.unreported -= 1;
        received
    }

    /// A taken buffer that the caller shall not see goes back.
    pub(super) fn discard(&mut self, received: Received) {
        self.unreported -= 1;
        self.release(received);
    }

    /// The caller is done with a buffer.
    pub(super) fn release(&mut self, received: Received) {
        self.check(&received);
        self.provide(received.buffer);
    }

    /// The bytes of a lent buffer.
    pub(super) fn bytes(&mut self, received: &Received) -> &mut [u8] {
        self.check(received);
        let offset = usize::from(received.buffer) * self.buffer_bytes as usize;
        // SAFETY: `check` proved buffer < count and len <= buffer_bytes, so the range lies within `memory`, which is
        // readable, writable and initialised (zeroes at first) as long as `self`. The buffer is taken: the kernel has no
        // claim on it until `provide`, which needs `&mut self` and so cannot happen while this borrow lives.
        unsafe { slice::from_raw_parts_mut(self.memory.base.as_ptr().add(offset), received.len as usize) }
    }

    /// A `Received` that this ring did not lend must not reach memory that the kernel may write to.
    fn check(&self, received: &Received) {
        let is_lent = self.is_taken.get(usize::from(received.buffer)).is_some_and(|is_taken| *is_taken);
        assert!(is_lent && received.len <= self.buffer_bytes, "a received buffer goes to the ring that lent it, once");
    }

    fn provide(&mut self, buffer: u16) {
        let place = usize::from(self.tail & (self.count() - 1));
        let start = usize::from(buffer) * self.buffer_bytes as usize;
        let entries = self.entries.base.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `place` < count, and `entries` has room for count entries and is page-aligned, zeroed memory of our own.
        // The kernel only reads it, and only entries before the tail; at most count buffers are provided at a time, so this
        // one is behind the tail. The exclusive reference is gone before the tail is touched.
        let entry = unsafe { &mut *entries.add(place) };
        entry.set_addr(self.memory.base.as_ptr() as u64 + start as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the first entry exists; its reserved field is the ring's tail (`io_uring_register(2)`), two bytes, aligned to
        // two, that are written through this pointer only. The kernel reads it atomically; the release order shows it the entry.
        unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries).cast_mut()) }.store(self.tail, Ordering::Release);
        self.is_taken[usize::from(buffer)] = false;
        self.taken -= 1;
    }

    fn count(&self) -> u16 {
        u16::try_from(self.is_taken.len()).expect("at most MAX_BUFFERS")
    }
}

/// Zeroed private memory, page-aligned. Pages cost nothing until they are touched.
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a new anonymous mapping, which aliases nothing.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: NonNull::new(base.cast()).expect("mmap without MAP_FIXED never maps the zero page"), len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, unmapped once; borrows of it end with the owner's.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_with_the_kernel_or_taken() {
        let mut buffers = Buffers::new(4, 16).expect("mmap");
        assert_eq!((buffers.available(), buffers.lent()), (4, 0));
        let received = buffers.take(2, 16);
        assert_eq!((buffers.available(), buffers.lent()), (3, 0));
        let received = buffers.lend(received);
        assert_eq!((buffers.available(), buffers.lent()), (3, 1));
        buffers.bytes(&received).fill(7);
        assert_eq!(buffers.bytes(&received), [7; 16]);
        buffers.release(received);
        assert_eq!((buffers.available(), buffers.lent()), (4, 0));
    }

    #[test]
    #[should_panic(expected = "the ring that lent it")]
    fn a_buffer_of_another_ring_that_is_with_the_kernel_here_is_refused() {
        let (mut one, mut other) = (Buffers::new(4, 16).expect("mmap"), Buffers::new(4, 16).expect("mmap"));
        let received = one.take(1, 5);
        let received = one.lend(received);
        other.bytes(&received);
    }

    #[test]
    #[should_panic(expected = "the ring that lent it")]
    fn a_buffer_of_a_ring_with_larger_ones_is_refused() {
        let (mut large, mut small) = (Buffers::new(4, 64).expect("mmap"), Buffers::new(4, 16).expect("mmap"));
        let _held = small.take(1, 16);
        let received = large.take(1, 64);
        small.bytes(&received);
    }

    #[test]
    #[should_panic(expected = "the ring that lent it")]
    fn a_buffer_of_a_ring_with_more_of_them_is_refused() {
        let (mut many, mut few) = (Buffers::new(8, 16).expect("mmap"), Buffers::new(4, 16).expect("mmap"));
        let received = many.take(7, 16);
        few.release(received);
    }
}
