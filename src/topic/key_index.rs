//! Which live record is the newest of a key.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::segment::Segments;
use crate::ids::Offset;

/// From key to offset. The keys themselves stand in the records, so an entry costs 16 bytes whatever the key's length.
#[derive(Debug, Default)]
pub(super) struct KeyIndex {
    table: HashTable<Slot>,
    /// Seeded by the system: publishers choose the keys.
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u64,
    offset: Offset,
}

impl KeyIndex {
    pub(super) fn memory_bytes(&self) -> usize {
        self.table.capacity() * (size_of::<Slot>() + 1) * 8 / 7
    }

    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Where the key's live record stands, value or tombstone.
    pub(super) fn find(&self, hash: u64, key: &[u8], records: &Segments) -> Option<Offset> {
        let is_key =
            |slot: &Slot| slot.hash == hash && records.get(slot.offset).is_some_and(|entry| entry.key() == key);
        self.table.find(hash, is_key).map(|slot| slot.offset)
    }

    /// Moves the key from its old place, or adds it.
    pub(super) fn set(&mut self, hash: u64, old: Option<Offset>, new: Offset) {
        let place = old.and_then(|old| self.table.find_mut(hash, |slot| slot.offset == old));
        match place {
            Some(slot) => slot.offset = new,
            None => {
                self.table.insert_unique(hash, Slot { hash, offset: new }, |slot| slot.hash);
            }
        }
    }

    pub(super) fn remove(&mut self, hash: u64, offset: Offset) {
        if let Ok(slot) = self.table.find_entry(hash, |slot| slot.offset == offset) {
            slot.remove();
        }
        if self.table.capacity() > 64 && self.table.capacity() > 8 * self.table.len() {
            self.table.shrink_to(2 * self.table.len(), |slot| slot.hash);
        }
    }
}
