//! Every limit of the engine, with its default; what follows from them is asserted at compile time.
//!
//! Those in [`Limits`] are settings (`[limits]` of the configuration); the constants are the shape of the engine.

#![forbid(unsafe_code)]

use std::time::Duration;

/// Publishes of the program that the engine runs in that wait for a shard.
pub const PROGRAM_PUBLISHES: usize = 1_024;
/// ... and that it takes in one turn.
pub const PROGRAM_PUBLISHES_PER_TURN: usize = 256;
/// Commands that wait for a shard.
pub const SHARD_COMMANDS: usize = 64;
/// Bytes of patches that one connection is given in one turn.
pub const TURN_BYTES_PER_CONNECTION: usize = 64 * 1024;
/// Bytes of one patch frame, unless a single record is larger.
pub const PATCH_BYTES: usize = 64 * 1024;
/// Connections that are sent to in one turn; the rest goes first in the next one, which comes without waiting.
pub const SENDS_PER_TURN: usize = 512;
/// Completions looked at in one turn before the flush.
pub const COMPLETIONS_PER_TURN: usize = 4 * 1024;
/// Every so many-th chunk goes to the topic that waits longest; under pressure it has such a part of the room.
pub const FAIRNESS_INTERVAL: u32 = 8;
/// In-flight window of a new connection.
pub const WINDOW_INITIAL_BYTES: u64 = 16 * 1024;
/// The in-flight window never shrinks below.
pub const WINDOW_MIN_BYTES: u64 = 4 * 1024;
/// The in-flight window never grows beyond.
pub const WINDOW_MAX_BYTES: u64 = 1024 * 1024;
/// A client that gives credit, and none since its window was full, is sent more after so long: it may give it in larger steps.
pub const STARVED: Duration = Duration::from_secs(1);
/// ... and after so long, if it gave it in smaller ones before.
pub const STARVED_IN_SMALL_STEPS: Duration = Duration::from_secs(10);
/// Unsent bytes that the kernel takes for a socket (`TCP_NOTSENT_LOWAT`).
pub const NOTSENT_LOWAT_BYTES: u32 = 16 * 1024;
/// While fewer bytes than these wait for a connection, each ping is answered; beyond, only the last one is (RFC 6455 §5.5.3),
/// so that whoever sends pings and reads nothing fills no memory.
pub const PONG_BYTES: usize = 4 * 1024;
/// A connection's base delay is measured anew when none near it was seen for so long.
pub const DELAY_MEMORY: Duration = Duration::from_secs(10);
/// A subscription with a filter that nothing passes is moved on so often.
pub const FILTERED_PATCH_INTERVAL: Duration = Duration::from_secs(1);
/// In this time a connection that subscribes again is sent [`Limits::resent_bytes`].
pub const RESENT_PERIOD: Duration = Duration::from_secs(10);
/// `Subscribed` frames that may wait for a client that does not read, before a further `Subscribe` is refused.
pub const UNSAID_ANSWERS: usize = 8 * 1024;
/// Tombstones may outnumber live keys by so many before the oldest go.
pub const TOMBSTONES_BEYOND_KEYS: usize = 4_096;
/// Segments of a topic in a name.
pub const NAME_SEGMENTS: usize = 16;
/// Bytes of a topic's name.
pub const NAME_BYTES: usize = 255;
/// Bytes of a session id.
pub const SESSION_ID_BYTES: usize = 16;

const _: () = assert!(PATCH_BYTES <= TURN_BYTES_PER_CONNECTION);
const _: () = assert!(WINDOW_MIN_BYTES <= WINDOW_INITIAL_BYTES && WINDOW_INITIAL_BYTES <= WINDOW_MAX_BYTES);

/// The settings. Beyond each limit stands what happens; each is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message of a client, fragments together: close 1009.
    pub message_bytes: usize,
    /// Fragments of one message: close 1009.
    pub message_fragments: usize,
    /// From the first fragment to the last: close 1002.
    pub message_time: Duration,
    /// Bytes of a request's head: 431.
    pub head_bytes: usize,
    /// Headers of a request: 431.
    pub head_headers: usize,
    /// From accept to the end of the head: 408.
    pub head_time: Duration,
    /// From the upgrade to `Hello`: close 4002.
    pub hello_time: Duration,
    /// The server pings this often.
    pub heartbeat_interval: Duration,
    /// ... and is answered within: close 4001, unless the peer's TCP is alive.
    pub heartbeat_answer: Duration,
    /// A peer whose TCP is alive but that answers no ping is kept so long: close 4001.
    pub stall_timeout: Duration,
    /// A session without subscriptions that says nothing is closed after: 1000.
    pub idle_timeout: Duration,
    /// Bytes of a key: INVALID.
    pub key_bytes: usize,
    /// Bytes of a value: `TOO_LARGE`.
    pub value_bytes: usize,
    /// Records of one publish: `TOO_LARGE`.
    pub publish_records: usize,
    /// Subscriptions of a connection: `LIMIT_REACHED`.
    pub subscriptions: usize,
    /// Topics that a connection's subscriptions match: `LIMIT_REACHED`, once.
    pub matched_topics: usize,
    /// Topics of the engine: `LIMIT_REACHED`.
    pub topics: usize,
    /// Messages of a connection per second: `RATE_LIMITED`, then close 1008.
    pub messages_per_second: u32,
    /// ... and how many at once.
    pub message_burst: u32,
    /// Bytes that a connection is sent again in ten seconds, since it subscribes again: `RATE_LIMITED`.
    pub resent_bytes: usize,
    /// Connections: 503.
    pub connections: usize,
    /// Connections of one address: 503.
    pub connections_per_address: usize,
    /// Accepts per second: 503.
    pub accepts_per_second: u32,
    /// Bytes of answers that wait for a client that does not read: reading from it pauses.
    pub answer_bytes: usize,
    /// Bytes of events that are not flushed yet, per topic: their publishers pause.
    pub unflushed_event_bytes: usize,
    /// Entries of a topic's memory of what its offsets were.
    pub kind_runs: usize,
    /// Publishing sessions whose last sequence is remembered.
    pub sequences: usize,
    /// ... so long after the session's end.
    pub sequence_memory: Duration,
    /// A client's operation waits so long for another shard's answer: it goes on with what is known.
    pub shard_answer: Duration,
    /// The delay that the in-flight window aims at.
    pub freshness_target: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 64 * 1024,
            message_fragments: 128,
            message_time: Duration::from_secs(10),
            head_bytes: 16 * 1024,
            head_headers: 64,
            head_time: Duration::from_secs(5),
            hello_time: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(25),
            heartbeat_answer: Duration::from_secs(10),
            stall_timeout: Duration::from_mins(5),
            idle_timeout: Duration::from_mins(5),
            key_bytes: 255,
            value_bytes: 16 * 1024,
            publish_records: 1_024,
            subscriptions: 256,
            matched_topics: 4_096,
            topics: 100_000,
            messages_per_second: 1_000,
            message_burst: 2_000,
            resent_bytes: 2 * 1024 * 1024,
            connections: 1_000_000,
            connections_per_address: 1_024,
            accepts_per_second: 2_000,
            answer_bytes: 64 * 1024,
            unflushed_event_bytes: 1024 * 1024,
            kind_runs: 65_536,
            sequences: 65_536,
            sequence_memory: Duration::from_mins(5),
            shard_answer: Duration::from_secs(1),
            freshness_target: Duration::from_millis(250),
        }
    }
}
