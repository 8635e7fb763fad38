//! Which slot a socket has: small indices that are used again, and generations that tell their holders apart.
//!
//! Whoever names a socket may be late: a completion that comes after the release, a list that still has the id. So a slot is
//! only ever found by index *and* generation.

#![forbid(unsafe_code)]

use super::SocketId;

/// A table of what is held for each socket.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    /// Counts the holders; the id of each carries its number.
    generation: u32,
    /// `None` in a free slot.
    held: Option<T>,
}

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// How many sockets are held.
    pub(super) fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Gives a socket a slot.
    ///
    /// # Panics
    /// With 2^32 sockets.
    pub(super) fn insert(&mut self, held: T) -> SocketId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, held: None });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 sockets")
        });
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.held = Some(held);
        SocketId { index, generation: slot.generation }
    }

    /// What is held for a socket, unless its id is void.
    pub(super) fn find(&mut self, socket: SocketId) -> Option<&mut T> {
        let slot = self.slots.get_mut(socket.index as usize)?;
        if slot.generation != socket.generation {
            return None;
        }
        slot.held.as_mut()
    }

    /// Frees the slot of a socket, unless its id is void.
    pub(super) fn remove(&mut self, socket: SocketId) -> Option<T> {
        self.find(socket)?;
        self.free.push(socket.index);
        self.slots[socket.index as usize].held.take()
    }

    /// All sockets that are held, by index.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SocketId, &T)> {
        (0..).zip(&self.slots).filter_map(|(index, slot)| {
            let socket = SocketId { index, generation: slot.generation };
            slot.held.as_ref().map(|held| (socket, held))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_holder_of_a_slot_finds_nothing() {
        let mut slots = Slots::new();
        let first = slots.insert("first");
        let other = slots.insert("other");
        assert_eq!(slots.remove(first), Some("first"));
        assert_eq!(slots.find(first), None);
        assert_eq!((slots.remove(first), slots.count()), (None, 1));

        let second = slots.insert("second");
        assert_eq!(second.index, first.index, "the slot is used again");
        assert_eq!(slots.find(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.find(second), Some(&mut "second"));
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(second, &"second"), (other, &"other")]);
    }

    #[test]
    fn generations_go_round() {
        let mut slots = Slots::new();
        slots.insert(0);
        slots.slots[0].generation = u32::MAX;
        let last = SocketId { index: 0, generation: u32::MAX };
        assert_eq!(slots.remove(last), Some(0));
        let next = slots.insert(1);
        assert_eq!((next.generation, slots.find(last)), (0, None));
        assert_eq!(slots.find(next), Some(&mut 1));
    }
}
