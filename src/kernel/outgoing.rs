//! Bytes on their way into the kernel: kept, at stable addresses, from [`Kernel::send`](super::Kernel::send) until the sends that
//! point to them were submitted.
//!
//! Every send carries `MSG_DONTWAIT`, so the kernel completes it within the system call that submits it (`REQ_F_NOWAIT`: it neither
//! waits nor hands the request to a worker) and holds no pointer afterwards. So one `clear` per submission frees everything.

use std::mem;

use bytes::Bytes;
use io_uring::{opcode, squeue, types};

/// `UIO_MAXIOV`: pieces that one `sendmsg` takes.
const MAX_PIECES: usize = 1_024;
/// Pieces per block of vectors. A block never moves once it has content.
const BLOCK: usize = 4_096;
const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

const _: () = assert!(MAX_PIECES <= BLOCK);

/// The bytes of the sends that are queued.
#[derive(Default)]
pub(super) struct Outgoing {
    /// Keeps alive what `vectors` and the entries point to: for each piece, it or a longer one from the same address.
    pieces: Vec<Bytes>,
    vectors: Blocks<libc::iovec>,
    messages: Blocks<libc::msghdr>,
    /// What the kernel was pointed to, as (address, bytes).
    #[cfg(test)]
    promised: Vec<(*const u8, usize)>,
}

impl Outgoing {
    /// An entry that sends `frames` to `fd`, and how many bytes that is; `None` if there are none. The entry is valid until
    /// [`Outgoing::clear`], or the end of `self`.
    pub(super) fn entry(&mut self, fd: i32, frames: &[Bytes]) -> Option<(squeue::Entry, usize)> {
        let total: usize = frames.iter().map(Bytes::len).sum();
        assert!(i32::try_from(total).is_ok(), "a send of {total} bytes is more than the kernel can count");
        let mut filled = frames.iter().filter(|frame| !frame.is_empty());
        let first = filled.next()?;
        let entry = if filled.next().is_none() {
            keep(&mut self.pieces, first);
            #[cfg(test)]
            self.promised.push((first.as_ptr(), total));
            opcode::Send::new(types::Fd(fd), first.as_ptr(), u32::try_from(total).expect("checked above"))
                .flags(FLAGS)
                .build()
        } else {
            let message = self.message(frames);
            opcode::SendMsg::new(types::Fd(fd), message).flags(FLAGS.cast_unsigned()).build()
        };
        Some((entry.flags(squeue::Flags::SKIP_SUCCESS), total))
    }

    /// Lets go of all bytes; no entry made before may be submitted after.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.vectors.clear();
        self.messages.clear();
        #[cfg(test)]
        self.promised.clear();
    }

    /// Reads in whatever the kernel is about to read. AddressSanitizer does not see what the kernel does; in its run this shows it
    /// bytes that were let go too early. Elsewhere they come as other bytes, at worst.
    #[cfg(test)]
    pub(super) fn read_as_the_kernel_will(&self) -> u8 {
        let read = |&(base, len): &(*const u8, usize)| {
            // SAFETY: what every entry made since the last `clear` relies on: `pieces` keeps these bytes.
            unsafe { std::slice::from_raw_parts(base, len) }.iter().step_by(4_096).fold(0, |all, byte| all ^ byte)
        };
        let vectors = self.messages.blocks.iter().flatten().flat_map(|message| {
            // SAFETY: as above: `vectors` keeps these, in blocks that do not move.
            unsafe { std::slice::from_raw_parts(message.msg_iov, message.msg_iovlen) }
        });
        let pieces = vectors.map(|vector| (vector.iov_base.cast_const().cast(), vector.iov_len));
        pieces.chain(self.promised.iter().copied()).fold(0, |all, piece| all ^ read(&piece))
    }

    fn message(&mut self, frames: &[Bytes]) -> *const libc::msghdr {
        // What one system call cannot take as pieces is copied together: rare, and cheaper than a second send.
        let apart = if frames.len() > MAX_PIECES { MAX_PIECES - 1 } else { frames.len() };
        let (apart, rest) = frames.split_at(apart);
        let joined = (!rest.is_empty()).then(|| Bytes::from(rest.concat()));
        let vectors = self.vectors.block_with_room(MAX_PIECES.min(frames.len()));
        let start = vectors.len();
        for piece in apart.iter().chain(&joined) {
            vectors.push(vector_of(piece));
            keep(&mut self.pieces, piece);
        }
        let vectors = &vectors[start..];
        // SAFETY: a C struct of pointers and integers, for which all zeroes is a value.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = vectors.as_ptr().cast_mut();
        message.msg_iovlen = vectors.len() as _;
        let messages = self.messages.block_with_room(1);
        messages.push(message);
        messages.last().expect("just pushed")
    }
}

/// Keeps the bytes of a piece alive. Where many sends have one frame, one reference to it serves all of them: the last piece that
/// was kept covers the same memory.
fn keep(pieces: &mut Vec<Bytes>, piece: &Bytes) {
    let is_kept = pieces.last().is_some_and(|last| last.as_ptr() == piece.as_ptr() && last.len() >= piece.len());
    if !is_kept {
        pieces.push(piece.clone());
    }
}

fn vector_of(piece: &Bytes) -> libc::iovec {
    libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() }
}

/// A list in blocks of fixed capacity, so that its elements never move.
struct Blocks<T> {
    blocks: Vec<Vec<T>>,
    /// The block that is being filled.
    current: usize,
}

impl<T> Default for Blocks<T> {
    fn default() -> Self {
        Self { blocks: Vec::new(), current: 0 }
    }
}

impl<T> Blocks<T> {
    /// The block to push at most `room` elements to; they stay where they are until [`Blocks::clear`].
    fn block_with_room(&mut self, room: usize) -> &mut Vec<T> {
        debug_assert!(room <= BLOCK);
        let is_full = self.blocks.get(self.current).is_some_and(|block| block.capacity() - block.len() < room);
        self.current += usize::from(is_full);
        if self.current == self.blocks.len() {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        &mut self.blocks[self.current]
    }

    /// Keeps the memory of the first block only, so that one large turn does not stay.
    fn clear(&mut self) {
        self.blocks.truncate(1);
        self.blocks.iter_mut().for_each(Vec::clear);
        self.current = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_never_move() {
        let mut blocks = Blocks::default();
        let mut addresses = Vec::new();
        for number in 0..3 * BLOCK {
            let block = blocks.block_with_room(1);
            block.push(number);
            addresses.push(std::ptr::from_ref(block.last().expect("just pushed")) as usize);
        }
        let stayed: Vec<usize> =
            blocks.blocks.iter().flatten().map(|element| std::ptr::from_ref(element) as usize).collect();
        assert_eq!(addresses, stayed);
        blocks.clear();
        assert_eq!(blocks.blocks.len(), 1);
    }

    #[test]
    fn a_frame_that_many_are_sent_is_kept_once_and_none_is_taken_for_another() {
        let mut outgoing = Outgoing::default();
        let frame = Bytes::from(vec![1; 100]);
        let (start, rest) = (frame.slice(..10), frame.slice(10..));
        for piece in [&frame, &frame, &start, &rest, &rest, &frame] {
            outgoing.entry(0, std::slice::from_ref(piece)).expect("not empty");
        }
        let kept: Vec<_> = outgoing.pieces.iter().map(|piece| (piece.as_ptr(), piece.len())).collect();
        assert_eq!(kept, [&frame, &rest, &frame].map(|piece| (piece.as_ptr(), piece.len())));
        // A longer piece from the same place needs more than what is kept.
        outgoing.clear();
        for piece in [&start, &frame] {
            outgoing.entry(0, std::slice::from_ref(piece)).expect("not empty");
        }
        assert_eq!(outgoing.pieces.len(), 2);
    }

    #[test]
    fn bytes_are_kept_until_cleared() {
        let mut outgoing = Outgoing::default();
        let frame = Bytes::from(vec![1; 100]);
        assert!(outgoing.entry(0, &[Bytes::new()]).is_none());
        let (_, total) = outgoing.entry(0, &[frame.clone(), Bytes::new(), frame.clone()]).expect("not empty");
        assert_eq!(total, 200);
        assert!(!frame.is_unique());
        outgoing.clear();
        assert!(frame.is_unique());
    }
}
