//! A copy of what a shard counts, and a look at what it has.

use crate::fanout::Place;
use crate::kernel::KernelCounters;
use crate::shard::core::Core;
use crate::shard::{Gauges, Report};

impl Core {
    pub(super) fn report(&self, kernel: KernelCounters) -> Report {
        let mut counters = self.counters.clone();
        counters.sequences_evicted = self.sequences.evicted();
        counters.limit_hits.sequences = self.sequences.evicted();
        Report { counters, gauges: self.gauges(), kernel }
    }

    fn gauges(&self) -> Gauges {
        let (connections, mesh_bytes) = (self.connection_count, self.mesh.underway_bytes());
        let mut gauges = Gauges { connections, mesh_bytes, ..Gauges::default() };
        for connection in self.connections.iter().flatten() {
            gauges.sessions += usize::from(connection.session.is_some());
            gauges.blocked += usize::from(connection.outlet.is_blocked);
            gauges.stalled += usize::from(connection.heartbeat.is_stalled());
            gauges.unmarked += usize::from(connection.is_unmarked);
            gauges.subscribers += connection.subscribers.len();
            let behind =
                connection.subscribers.iter().filter(|subscriber| matches!(subscriber.place, Place::Behind(_)));
            gauges.behind += behind.count();
            gauges.connection_bytes += size_of_val(&**connection)
                + connection.rare.as_deref().map_or(0, size_of_val)
                + connection.outlet.held_bytes()
                + connection.receiver.heap_bytes()
                + connection.subscribers.capacity() * size_of::<crate::fanout::Subscriber>()
                + connection.subscriptions.capacity() * size_of::<Option<crate::fanout::Subscription>>()
                + connection.subscribers.iter().map(|subscriber| subscriber.cursor.boxed_bytes()).sum::<usize>();
        }
        for (_, topic) in self.topics.iter() {
            // Keys and events count once, wherever they are held as well.
            if topic.is_at_home() {
                gauges.topics += 1;
                gauges.keys += topic.log.key_count();
                gauges.events += topic.log.event_count();
            } else {
                gauges.replicas += 1;
            }
            gauges.log_bytes += topic.log.memory_bytes();
        }
        gauges
    }
}
