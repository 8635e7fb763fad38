//! What an operation in the ring is called: its kind, and the socket that it belongs to, packed into the 64 bits of `user_data`.
//!
//! Never a pointer: a completion that comes late, or twice, names a slot and a generation that can be checked.

#![forbid(unsafe_code)]

use super::SocketId;

/// Sockets that a ring can tell apart: what `user_data` has room for.
pub(super) const MAX_SOCKETS: u32 = 1 << INDEX_BITS;
const INDEX_BITS: u32 = 26;
const GENERATION_BITS: u32 = 32;

const _: () = assert!(Kind::LAST < 1 << (64 - INDEX_BITS - GENERATION_BITS));

/// What was asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The multishot accept.
    Accept,
    /// Cancels the accept.
    AcceptCancel,
    /// A read of the eventfd behind the waker.
    Wake,
    /// A multishot receive.
    Receive,
    /// Cancels a receive.
    ReceiveCancel,
    /// One send; completes within the call that submits it.
    Send,
    /// A one-shot poll for `POLLOUT`.
    Writable,
    /// A message to another ring; completes only if that failed. The slot's index is the peer's.
    Ring,
    /// ... as it arrives there.
    Rung,
}

impl Kind {
    const LAST: u64 = Self::Rung as u64;

    /// Whether a final completion of it is waited for: not of what completes only when it fails, nor of what others send.
    pub(super) fn is_counted(self) -> bool {
        !matches!(self, Self::Send | Self::Ring | Self::Rung)
    }

    fn of(bits: u64) -> Option<Self> {
        Some(match bits {
            0 => Self::Accept,
            1 => Self::AcceptCancel,
            2 => Self::Wake,
            3 => Self::Receive,
            4 => Self::ReceiveCancel,
            5 => Self::Send,
            6 => Self::Writable,
            7 => Self::Ring,
            8 => Self::Rung,
            _ => return None,
        })
    }
}

/// The name of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) kind: Kind,
    /// Whose it is; of no meaning for those of the ring itself.
    pub(super) socket: SocketId,
}

impl Operation {
    /// An operation of a socket.
    pub(super) fn of(kind: Kind, socket: SocketId) -> Self {
        Self { kind, socket }
    }

    /// An operation of the ring itself.
    pub(super) fn own(kind: Kind) -> Self {
        Self { kind, socket: SocketId { index: 0, generation: 0 } }
    }

    /// As `user_data`: 6 bits of kind, 26 of index, 32 of generation.
    pub(super) fn pack(self) -> u64 {
        debug_assert!(self.socket.index < MAX_SOCKETS);
        (self.kind as u64) << (INDEX_BITS + GENERATION_BITS)
            | u64::from(self.socket.index) << GENERATION_BITS
            | u64::from(self.socket.generation)
    }

    /// Back from `user_data`; `None` if nothing of ours is called so.
    pub(super) fn unpack(bits: u64) -> Option<Self> {
        let kind = Kind::of(bits >> (INDEX_BITS + GENERATION_BITS))?;
        let index = u32::try_from(bits >> GENERATION_BITS & u64::from(MAX_SOCKETS - 1)).expect("26 bits fit in 32");
        let generation = u32::try_from(bits & u64::from(u32::MAX)).expect("32 bits fit in 32");
        Some(Self { kind, socket: SocketId { index, generation } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_packing() {
        let kinds = [
            Kind::Accept,
            Kind::AcceptCancel,
            Kind::Wake,
            Kind::Receive,
            Kind::ReceiveCancel,
            Kind::Send,
            Kind::Writable,
            Kind::Ring,
            Kind::Rung,
        ];
        for kind in kinds {
            for index in [0, 1, 77, MAX_SOCKETS - 1] {
                for generation in [0, 1, u32::MAX] {
                    let operation = Operation::of(kind, SocketId { index, generation });
                    assert_eq!(Operation::unpack(operation.pack()), Some(operation));
                }
            }
        }
        assert_eq!(Operation::unpack(u64::MAX), None);
    }
}
