//! What waits to be sent on one connection, and what becomes of a send that the socket did not take whole.

use bytes::{Bytes, BytesMut};

use crate::fanout::Window;

/// One connection's way out.
///
/// A send is, in this order: the rest of a frame that was cut, answers, patches, a marker. Only the first two wait here:
/// patches are made when they can be sent, and those that the socket did not begin to take are taken back.
#[derive(Debug, Default)]
pub struct Outlet {
    /// `None` while nothing waits: the state of every idle connection.
    waits: Option<Box<Waits>>,
    /// True exactly while the kernel was asked for `Writable` and has not said it.
    pub is_blocked: bool,
    /// How many patch bytes may be in flight.
    pub window: Window,
}

/// What waits to be sent.
#[derive(Debug, Default)]
struct Waits {
    /// Goes before everything else: the rest of the frame or the answers that a short send cut.
    cut: Bytes,
    answers: BytesMut,
}

const _: () = assert!(size_of::<Outlet>() <= 128, "one sits in every idle connection");

/// What a short send took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Of the pieces behind the first two: how many were begun. The others were not sent at all.
    pub begun: usize,
}

impl Outlet {
    /// Queues a frame that is not a patch.
    pub fn answer(&mut self, frame: &[u8]) {
        self.waits.get_or_insert_default().answers.extend_from_slice(frame);
    }

    /// Bytes that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waits.as_ref().map_or(0, |waits| waits.cut.len() + waits.answers.len())
    }

    /// Heap bytes held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.waits.as_ref().map_or(0, |waits| size_of::<Waits>() + waits.cut.len() + waits.answers.capacity())
    }

    /// Takes what waits, as the first two pieces of the next send; either may be empty. `None`: nothing waits.
    #[must_use]
    pub fn take(&mut self) -> Option<[Bytes; 2]> {
        debug_assert!(!self.is_blocked);
        let Waits { cut, answers } = *self.waits.take()?;
        Some([cut, answers.freeze()])
    }

    /// The send of `pieces` (the first two from [`Outlet::take`]) was short: only `taken` bytes went. Keeps the rest of the
    /// first two, and of the piece that was cut.
    pub fn settle(&mut self, pieces: &[Bytes], taken: usize) -> Taken {
        let mut left = taken;
        let mut cut = Bytes::new();
        let mut begun = 0;
        let (kept, droppable) = pieces.split_at(2);
        let mut rest = [kept[0].clone(), kept[1].clone()];
        for piece in &mut rest {
            let gone = left.min(piece.len());
            left -= gone;
            *piece = piece.slice(gone..);
        }
        for piece in droppable {
            if left == 0 {
                break;
            }
            begun += 1;
            if left < piece.len() {
                cut = piece.slice(left..);
            }
            left -= left.min(piece.len());
        }
        debug_assert!(left == 0, "the kernel took more than it was given");
        let [first, answers] = rest;
        if first.is_empty() && answers.is_empty() && cut.is_empty() {
            return Taken { begun };
        }
        let waits = self.waits.get_or_insert_default();
        debug_assert!(waits.cut.is_empty() && (cut.is_empty() || (first.is_empty() && answers.is_empty())));
        if first.is_empty() {
            // The rest of the answers stays where it is: copied at each short send, a large one would cost quadratic time.
            waits.cut = if cut.is_empty() { answers } else { cut };
            return Taken { begun };
        }
        waits.cut = first;
        if !answers.is_empty() {
            let later = std::mem::take(&mut waits.answers);
            waits.answers = BytesMut::from(answers);
            waits.answers.extend_from_slice(&later);
        }
        Taken { begun }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces() -> Vec<Bytes> {
        [&b"cut"[..], b"answers", b"patch1", b"patch2", b"marker"].map(Bytes::from_static).to_vec()
    }

    /// Whatever is taken of a send, the bytes taken and those kept are the send's beginning, up to a whole piece.
    #[test]
    fn bytes_taken_and_kept_are_whole_frames_at_every_cut() {
        let whole = pieces().concat();
        for taken in 0..=whole.len() {
            let mut outlet = Outlet::default();
            let begun = outlet.settle(&pieces(), taken).begun;
            let kept = outlet.take().unwrap_or_default().concat();
            let mut stream = whole[..taken].to_vec();
            stream.extend_from_slice(&kept);
            assert_eq!(stream, pieces()[..2 + begun].concat(), "taken {taken}");
            assert!(begun == 0 || taken > 10, "a patch was begun before the answers went");
        }
    }

    #[test]
    fn nothing_of_an_unbegun_patch_is_kept() {
        let mut outlet = Outlet::default();
        let taken = outlet.settle(&pieces(), 10 + 6);
        assert_eq!((taken.begun, outlet.waiting()), (1, 0));
    }

    #[test]
    fn the_rest_of_a_large_answer_is_not_copied() {
        let mut outlet = Outlet::default();
        outlet.answer(&[7; 100_000]);
        let pieces = outlet.take().expect("an answer waits");
        outlet.settle(&pieces, 60_000);
        let rest = outlet.take().expect("the rest waits");
        assert_eq!(rest[0].len(), 40_000);
        assert_eq!(rest[0].as_ptr(), pieces[1][60_000..].as_ptr());
        assert!(rest[1].is_empty());
    }

    #[test]
    fn answers_given_after_the_send_stay_behind_those_before() {
        let mut outlet = Outlet::default();
        outlet.answer(b" later");
        outlet.settle(&pieces(), 5);
        assert_eq!(outlet.take().expect("answers wait").concat(), b"swers later");
    }
}
