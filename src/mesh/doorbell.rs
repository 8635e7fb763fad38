//! How a sleeping shard is woken, and nobody else: a flag, and a bitmap of those who sent something.
//!
//! No wake-up is lost. The sender announces itself, then looks at the flag; the sleeper raises the flag, then looks at the
//! announcements; and between the two steps both have a fence. Of two such pairs at least one sees what the other did first:
//! either the sleeper finds the announcement and stays awake, or the sender finds the flag and rings.

use super::sync::{AtomicBool, AtomicU64, Ordering, fence};

/// Senders in one word of the bitmap.
const WORD: usize = 64;

/// One shard's doorbell, shared with everyone who may ring it. On cache lines of its own.
#[repr(align(128))]
#[derive(Debug)]
pub(super) struct Doorbell {
    is_sleeping: AtomicBool,
    /// A bit for each shard that sent something since it was last looked at.
    senders: Box<[AtomicU64]>,
}

impl Doorbell {
    pub(super) fn new(shards: usize) -> Self {
        let senders = (0..shards.div_ceil(WORD)).map(|_| AtomicU64::new(0)).collect();
        Self { is_sleeping: AtomicBool::new(false), senders }
    }

    /// Says that `sender` has put something into its channel. True: the shard sleeps, and it is on the caller to ring.
    #[must_use]
    pub(super) fn announce(&self, sender: usize) -> bool {
        // Release: whoever takes the bit sees what is in the channel.
        self.senders[sender / WORD].fetch_or(1 << (sender % WORD), Ordering::Release);
        fence(Ordering::SeqCst);
        // The look before the swap keeps the line shared while the shard is awake.
        self.is_sleeping.load(Ordering::Relaxed) && self.is_sleeping.swap(false, Ordering::Relaxed)
    }

    /// Before sleeping. False: somebody sent something, so do not.
    #[must_use]
    pub(super) fn try_sleep(&self) -> bool {
        self.is_sleeping.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let is_alone = self.senders.iter().all(|word| word.load(Ordering::Relaxed) == 0);
        if !is_alone {
            self.wake_up();
        }
        is_alone
    }

    /// After sleeping, whatever ended it: nobody needs to ring.
    pub(super) fn wake_up(&self) {
        self.is_sleeping.swap(false, Ordering::Relaxed);
    }

    /// Calls `look_at` with each shard that sent something since the last call.
    pub(super) fn take_senders(&self, mut look_at: impl FnMut(usize)) {
        for (at, word) in self.senders.iter().enumerate() {
            // A plain look first: mostly there is nothing.
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::Acquire);
            while bits != 0 {
                look_at(at * WORD + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }
}
