//! What all shards admit together: connections, connections of an address, accepts per second.
//!
//! The only counts that shards share. They are touched when a connection comes and when it goes, never in between.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::clock::Moment;
use crate::ids::ShardId;
use crate::limits::Limits;

/// Counters for addresses, a power of two. Two rows with different hashes: an address is counted too high only if it shares its
/// place with others in both.
const PLACES: usize = 1 << 16;
const ROWS: usize = 2;

/// The engine's counts.
#[derive(Debug)]
pub struct Admission {
    connections: AtomicUsize,
    /// Connections of each shard, those on their way to it among them.
    loads: Box<[AtomicUsize]>,
    addresses: Box<[AtomicU32]>,
    hashers: [RandomState; ROWS],
    /// When the accepts that were admitted would have come at the allowed rate (GCRA), in nanoseconds.
    accepted_by_ns: AtomicU64,
}

/// Why a connection is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Connections,
    Address,
    Accepts,
}

/// A shard that has so many more connections than the least loaded one, beside a tenth, hands new ones over.
const IMBALANCE: usize = 4;

impl Admission {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        Self {
            connections: AtomicUsize::new(0),
            loads: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
            addresses: (0..ROWS * PLACES).map(|_| AtomicU32::new(0)).collect(),
            hashers: [RandomState::new(), RandomState::new()],
            accepted_by_ns: AtomicU64::new(0),
        }
    }

    /// The shard that a connection should go to that the kernel gave to `accepted_by`: none that `stands_still`. Counts it there.
    pub(super) fn place(&self, accepted_by: ShardId, mut stands_still: impl FnMut(ShardId) -> bool) -> ShardId {
        let load = |shard: usize| self.loads[shard].load(Ordering::Relaxed);
        let own = usize::from(accepted_by.0);
        let others = (0..self.loads.len()).filter(|shard| *shard != own);
        let alive = others.filter(|shard| !stands_still(ShardId(u16::try_from(*shard).expect("as many as ids"))));
        let least = alive.min_by_key(|shard| load(*shard)).unwrap_or(own);
        let chosen = if load(own) > load(least) + load(least) / 10 + IMBALANCE { least } else { own };
        self.loads[chosen].fetch_add(1, Ordering::Relaxed);
        ShardId(u16::try_from(chosen).expect("there are as many as ids"))
    }

    /// A connection that was placed there is gone, or never arrived.
    pub(super) fn unplace(&self, shard: ShardId) {
        self.loads[usize::from(shard.0)].fetch_sub(1, Ordering::Relaxed);
    }

    /// It was placed there, and stays here after all.
    pub(super) fn replace(&self, there: ShardId, here: ShardId) {
        self.unplace(there);
        self.loads[usize::from(here.0)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that came, whatever becomes of it; says what speaks against it.
    pub(super) fn enter(&self, address: IpAddr, is_trusted: bool, limits: &Limits, now: Moment) -> Result<(), Full> {
        let connections = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let of_address = self.places(address).map(|place| place.fetch_add(1, Ordering::Relaxed) + 1);
        let of_address = of_address.into_iter().min().unwrap_or(0);
        if connections > limits.connections {
            Err(Full::Connections)
        } else if is_trusted {
            Ok(())
        } else if of_address as usize > limits.connections_per_address {
            Err(Full::Address)
        } else if !self.takes_accept(limits.accepts_per_second, now) {
            Err(Full::Accepts)
        } else {
            Ok(())
        }
    }

    /// A connection that had come is gone.
    pub(super) fn leave(&self, address: IpAddr) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        for place in self.places(address) {
            place.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether there is room for one more connection.
    pub(super) fn has_room(&self, limits: &Limits) -> bool {
        self.connections.load(Ordering::Relaxed) < limits.connections
    }

    fn places(&self, address: IpAddr) -> [&AtomicU32; ROWS] {
        std::array::from_fn(|row| {
            let hash = self.hashers[row].hash_one(address) as usize;
            &self.addresses[row * PLACES + hash % PLACES]
        })
    }

    /// At most `per_second`, and so many at once.
    fn takes_accept(&self, per_second: u32, now: Moment) -> bool {
        let interval_ns = 1_000_000_000 / u64::from(per_second.max(1));
        let burst_ns = interval_ns * u64::from(per_second.max(1));
        let taken = self.accepted_by_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |by| {
            let by = by.max(now.0) + interval_ns;
            (by <= now.0 + burst_ns).then_some(by)
        });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_connection_goes_to_the_least_loaded_shard_once_the_spread_is_off() {
        let admission = Admission::new(4);
        for _ in 0..2_000 {
            admission.place(ShardId(1), |_| false);
        }
        let loads: Vec<_> = admission.loads.iter().map(|load| load.load(Ordering::Relaxed)).collect();
        assert_eq!(loads.iter().sum::<usize>(), 2_000);
        assert!(loads.iter().all(|load| (400..=600).contains(load)), "{loads:?}");
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn each_count_has_its_limit_and_comes_back() {
        let limits = Limits { connections: 3, connections_per_address: 1, accepts_per_second: 2, ..Limits::default() };
        let (admission, now) = (Admission::new(1), Moment::default());
        assert_eq!(admission.enter(HERE, false, &limits, now), Ok(()));
        assert_eq!(admission.enter(HERE, false, &limits, now), Err(Full::Address));
        assert_eq!(admission.enter(HERE, true, &limits, now), Ok(()), "trusted addresses have no limit of their own");
        assert!(!admission.has_room(&limits));
        assert_eq!(admission.enter(THERE, true, &limits, now), Err(Full::Connections), "which holds for everyone");
        for address in [HERE, HERE, HERE, THERE] {
            admission.leave(address);
        }
        assert_eq!(admission.enter(HERE, false, &limits, now), Ok(()));
        assert_eq!(admission.enter(THERE, false, &limits, now), Err(Full::Accepts), "the third within a second");
        admission.leave(THERE);
        assert_eq!(admission.enter(THERE, false, &limits, now + Duration::from_millis(500)), Ok(()));
    }
}
