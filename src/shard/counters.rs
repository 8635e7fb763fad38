//! What a shard counts. Plain numbers, owned by the shard; the control thread is sent a copy when it asks.

use std::ops::AddAssign;

/// What became of the records of one topic class, summed over all subscribers. For each patch that was sent
/// `to - from = delivered + conflated + filtered + expired + overrun + lost`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Offsets that patches moved subscribers over (`to - from`).
    pub due: u64,
    /// Records sent in their place.
    pub delivered: u64,
    /// Superseded before they could be sent (or let go before the subscriber came).
    pub conflated: u64,
    /// Held back by the subscription's own filter.
    pub filtered: u64,
    /// Events whose relevance window passed first.
    pub expired: u64,
    /// Non-critical events that the log no longer held.
    pub overrun: u64,
    /// Critical events that the log no longer held.
    pub lost: u64,
}

/// Counters of one topic class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCounters {
    /// Records appended (deletes by expired windows among them).
    pub published: u64,
    /// Patches sent.
    pub patches: u64,
    /// Records sent ahead of their place while catching up; they come again and are not in the ledger.
    pub ahead: u64,
    /// What became of the rest.
    pub ledger: Ledger,
}

/// How often each limit was enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named after the limit in `limits::Limits` that it counts")]
pub struct LimitHits {
    pub message_bytes: u64,
    pub message_fragments: u64,
    pub message_time: u64,
    pub head_bytes: u64,
    pub head_headers: u64,
    pub head_time: u64,
    pub hello_time: u64,
    pub heartbeat: u64,
    pub stall_timeout: u64,
    pub idle_timeout: u64,
    pub key_bytes: u64,
    pub value_bytes: u64,
    pub publish_records: u64,
    pub subscriptions: u64,
    pub matched_topics: u64,
    pub topics: u64,
    pub keys: u64,
    pub messages_per_second: u64,
    pub resent_bytes: u64,
    pub connections: u64,
    pub connections_per_address: u64,
    pub accepts_per_second: u64,
    pub answer_bytes: u64,
    pub unflushed_event_bytes: u64,
    pub sequences: u64,
    pub shard_answer: u64,
    pub descriptors: u64,
}

/// Everything that one shard counts since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Turns made, and the longest one in nanoseconds (without waiting).
    pub turns: u64,
    /// Nanoseconds of the longest turn.
    pub longest_turn_ns: u64,
    /// Turns that ended with subscribers still to be sent to, for want of budget.
    pub turns_over_budget: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that ended, however.
    pub closed: u64,
    /// WebSocket sessions that said `Hello`.
    pub sessions: u64,
    /// Sessions taken over by another connection.
    pub takeovers: u64,
    /// Protocol violations, by any close code of 1002, 1003, 1007, 1009.
    pub violations: u64,
    /// Client frames understood.
    pub frames_received: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes that sockets took.
    pub bytes_sent: u64,
    /// Sends that sockets did not take whole.
    pub short_sends: u64,
    /// Frames taken back after a short send, their cursors with them.
    pub frames_taken_back: u64,
    /// Patches encoded once for everyone at the head.
    pub shared_patches: u64,
    /// Patches made for one cursor.
    pub own_patches: u64,
    /// Runs of live records encoded, from which all patches of a turn are cut.
    pub encodings: u64,
    /// Topics of which something was encoded, summed over all turns.
    pub encoded_topics: u64,
    /// Transfers sent to other shards' replicas.
    pub transfers: u64,
    /// Frames of other shards' topics that were forwarded untouched.
    pub forwarded: u64,
    /// Times that a replica had to wait since the way to its shard was full.
    pub mesh_full: u64,
    /// Transfers that came for a replica that is no more.
    pub stale_transfers: u64,
    /// Subscriptions that had to start anew because the log's floor had passed their cursor.
    pub restarts: u64,
    /// Marker pings sent, and pongs that confirmed one.
    pub markers_sent: u64,
    /// Markers confirmed.
    pub markers_confirmed: u64,
    /// Publishes acknowledged as duplicates.
    pub duplicates: u64,
    /// Sequences forgotten for want of room.
    pub sequences_evicted: u64,
    /// How often limits were enforced.
    pub limit_hits: LimitHits,
    /// By topic class, as configured.
    pub classes: Vec<ClassCounters>,
}

/// What a shard has at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Connections, in whatever state.
    pub connections: usize,
    /// Connections that said `Hello`.
    pub sessions: usize,
    /// Connections whose last send was short and that have not become writable since.
    pub blocked: usize,
    /// Connections past their heartbeat whose TCP still answers.
    pub stalled: usize,
    /// Connections whose window is confirmed from `TCP_INFO`, since they answer no marker.
    pub unmarked: usize,
    /// Subscriptions times the topics they match.
    pub subscribers: usize,
    /// Subscribers that are behind their topic's head.
    pub behind: usize,
    /// Topics whose home the shard is.
    pub topics: usize,
    /// Replicas of topics whose home is elsewhere.
    pub replicas: usize,
    /// Live keys.
    pub keys: usize,
    /// Events held.
    pub events: usize,
    /// Bytes held by the logs.
    pub log_bytes: usize,
    /// Bytes of patches and publishes on the way to other shards.
    pub mesh_bytes: usize,
    /// Bytes held for connections: rests of cut frames, answers, incomplete messages.
    pub connection_bytes: usize,
}

/// A copy for the control thread.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Since the start.
    pub counters: Counters,
    /// At the moment.
    pub gauges: Gauges,
    /// The kernel's.
    pub kernel: crate::kernel::KernelCounters,
}

// Sums over shards. Each names every field, so that a new one does not compile until it is added up.

impl AddAssign for Ledger {
    fn add_assign(&mut self, other: Self) {
        let Self { due, delivered, conflated, filtered, expired, overrun, lost } = other;
        self.due += due;
        self.delivered += delivered;
        self.conflated += conflated;
        self.filtered += filtered;
        self.expired += expired;
        self.overrun += overrun;
        self.lost += lost;
    }
}

impl AddAssign for ClassCounters {
    fn add_assign(&mut self, other: Self) {
        let Self { published, patches, ahead, ledger } = other;
        self.published += published;
        self.patches += patches;
        self.ahead += ahead;
        self.ledger += ledger;
    }
}

impl AddAssign for LimitHits {
    fn add_assign(&mut self, other: Self) {
        let Self {
            message_bytes,
            message_fragments,
            message_time,
            head_bytes,
            head_headers,
            head_time,
            hello_time,
            heartbeat,
            stall_timeout,
            idle_timeout,
            key_bytes,
            value_bytes,
            publish_records,
            subscriptions,
            matched_topics,
            topics,
            keys,
            messages_per_second,
            resent_bytes,
            connections,
            connections_per_address,
            accepts_per_second,
            answer_bytes,
            unflushed_event_bytes,
            sequences,
            shard_answer,
            descriptors,
        } = other;
        self.message_bytes += message_bytes;
        self.message_fragments += message_fragments;
        self.message_time += message_time;
        self.head_bytes += head_bytes;
        self.head_headers += head_headers;
        self.head_time += head_time;
        self.hello_time += hello_time;
        self.heartbeat += heartbeat;
        self.stall_timeout += stall_timeout;
        self.idle_timeout += idle_timeout;
        self.key_bytes += key_bytes;
        self.value_bytes += value_bytes;
        self.publish_records += publish_records;
        self.subscriptions += subscriptions;
        self.matched_topics += matched_topics;
        self.topics += topics;
        self.keys += keys;
        self.messages_per_second += messages_per_second;
        self.resent_bytes += resent_bytes;
        self.connections += connections;
        self.connections_per_address += connections_per_address;
        self.accepts_per_second += accepts_per_second;
        self.answer_bytes += answer_bytes;
        self.unflushed_event_bytes += unflushed_event_bytes;
        self.sequences += sequences;
        self.shard_answer += shard_answer;
        self.descriptors += descriptors;
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        let Self {
            turns,
            longest_turn_ns,
            turns_over_budget,
            accepted,
            closed,
            sessions,
            takeovers,
            violations,
            frames_received,
            bytes_received,
            bytes_sent,
            short_sends,
            frames_taken_back,
            shared_patches,
            own_patches,
            encodings,
            encoded_topics,
            transfers,
            forwarded,
            mesh_full,
            stale_transfers,
            restarts,
            markers_sent,
            markers_confirmed,
            duplicates,
            sequences_evicted,
            limit_hits,
            classes,
        } = other;
        self.turns += turns;
        self.longest_turn_ns = self.longest_turn_ns.max(longest_turn_ns);
        self.turns_over_budget += turns_over_budget;
        self.accepted += accepted;
        self.closed += closed;
        self.sessions += sessions;
        self.takeovers += takeovers;
        self.violations += violations;
        self.frames_received += frames_received;
        self.bytes_received += bytes_received;
        self.bytes_sent += bytes_sent;
        self.short_sends += short_sends;
        self.frames_taken_back += frames_taken_back;
        self.shared_patches += shared_patches;
        self.own_patches += own_patches;
        self.encodings += encodings;
        self.encoded_topics += encoded_topics;
        self.transfers += transfers;
        self.forwarded += forwarded;
        self.mesh_full += mesh_full;
        self.stale_transfers += stale_transfers;
        self.restarts += restarts;
        self.markers_sent += markers_sent;
        self.markers_confirmed += markers_confirmed;
        self.duplicates += duplicates;
        self.sequences_evicted += sequences_evicted;
        self.limit_hits += limit_hits;
        for (sum, more) in self.classes.iter_mut().zip(classes) {
            *sum += more;
        }
    }
}

impl AddAssign for Gauges {
    fn add_assign(&mut self, other: Self) {
        let Self {
            connections,
            sessions,
            blocked,
            stalled,
            unmarked,
            subscribers,
            behind,
            topics,
            replicas,
            keys,
            events,
            log_bytes,
            mesh_bytes,
            connection_bytes,
        } = other;
        self.connections += connections;
        self.sessions += sessions;
        self.blocked += blocked;
        self.stalled += stalled;
        self.unmarked += unmarked;
        self.subscribers += subscribers;
        self.behind += behind;
        self.topics += topics;
        self.replicas += replicas;
        self.keys += keys;
        self.events += events;
        self.log_bytes += log_bytes;
        self.mesh_bytes += mesh_bytes;
        self.connection_bytes += connection_bytes;
    }
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        let Self { counters, gauges, kernel } = other;
        self.counters += counters;
        self.gauges += gauges;
        self.kernel += kernel;
    }
}
