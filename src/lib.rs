//! Tidegate keeps live state flowing to very many WebSocket clients. This page is the map of the code.
//!
//! Every update is a *record* in its *topic*'s log; a subscriber is a *cursor* into that log. When a connection can take
//! bytes, the shard reads the log from the cursor to the head, skips what is superseded or past its window, sends one
//! *patch* and moves the cursor. So a snapshot, a delta, a resume and catching up are one thing, and a subscriber that
//! stalls costs a number.
//!
//! ```text
//!      publishers and subscribers                           Prometheus, operators, signals
//!               │  ▲   (the kernel spreads them)                      │
//! ┌─ shard 0 ─────▼──┴─────────────────────────────┐     ┌─ control ──▼─────────────┐
//! │ kernel    one io_uring: sockets, buffers       │     │ tokio-uring: /metrics,   │
//! │    │  ▲                                        │     │ /healthz, /readyz        │
//! │ protocol  HTTP head, frames, envelopes         │     └───────────┬──────────────┘
//! │    │  ▲                                        │                 │
//! │ session   heartbeat, rate, allowance           │◀── ShardCommand ┘
//! │    │  ▲                                        │      (bounded channel, waker)
//! │ topic     logs: records in, patches out        │
//! │    │  ▲                                        │     ┌─ engine ─────────────────┐
//! │ fanout    who is at the head, who is behind,   │     │ boot, placement, threads,│
//! │           how much each connection may be sent │     │ orderly shutdown;        │
//! └────────────────────┬───▲───────────────────────┘     │ embedding                │
//!                 mesh │   │ ShardMessage                └──────────────────────────┘
//!                      ▼   │ (a bounded lock-free channel each way, a doorbell)
//!               shard 1, shard 2, ...
//! ```
//!
//! A shard is one thread with an event loop. It owns its connections, its logs and its ring by value. A topic has one *home*
//! shard, which gives the offsets; other shards with subscribers keep a *replica* of its log and forward the home's frames
//! untouched. A client cannot tell how many shards there are.
//!
//! # Code map
//!
//! In the order in which bytes travel. Stages return values and never call the next stage; only [`shard`] connects them.
//!
//! | module | what it is | begin with |
//! |---|---|---|
//! | [`kernel`] | the seam to the operating system: operations and completions. All `unsafe` is here. [`kernel::Ring`] over io_uring, [`kernel::Simulation`] seeded | [`kernel::Kernel`], [`kernel::Completion`] |
//! | [`protocol`] | bytes to messages and back, without IO: [`protocol::http`], [`protocol::websocket`], [`protocol::envelope`], [`protocol::frame`], [`protocol::close`] | [`protocol::websocket::Receiver`] |
//! | [`session`] | one connection: alive, stalled or dead; how many messages it may send, and what it may be sent again | [`session::Heartbeat`] |
//! | [`topic`] | names, patterns, classes; the log, its retention and its patches; the memory of sequences | [`topic::Log`], [`topic::Log::patch`] |
//! | [`fanout`] | a topic's lists of subscribers, a connection's way out and its in-flight window | [`fanout::Channel`], [`fanout::Window`] |
//! | [`mesh`] | the ways between shards: channels, and a doorbell that wakes only sleepers | [`mesh::Endpoint`] |
//! | [`shard`] | the turn: reap, parse, apply, expire, flush, submit, settle | [`shard::Shard::turn`] |
//! | [`engine`] | boot, pinning, orderly shutdown; also the way to embed | [`engine::Engine`] |
//! | [`control`] | the other thread: metrics, health, signals | [`control::Control`] |
//! | [`client`] | the Rust client, on tokio; builds without the engine (feature `client`) | the module's page |
//! | [`cli`] | one file per command, and the exit codes | [`cli::Exit`] |
//! | [`feed`] | recorded captures, and a simulated market that writes the same format: real input for `demo`, `replay` and tests | the module's page |
//! | `fuzzing` | what the fuzzers check, each with an oracle of its own; built for tests and `fuzz/` only | `fuzzing/mod.rs` |
//!
//! What all of them use: [`clock`] (time is an argument, a [`clock::Moment`]), [`ids`] (newtypes), [`limits`] (every limit
//! with its default), [`config`] (where settings come from). The wire contract is `proto/tidegate/v1/tidegate.proto`;
//! `docs/protocol.md` explains it from the client's side, `docs/decisions/` why things are as they are.
//!
//! # The path of one record
//!
//! Names without a link are private to [`shard`], in the file that stands beside them.
//!
//! 1. **In.** A multishot receive completes: [`kernel::Completion::Received`]. `Shard::reap` (`mod.rs`) hands the bytes, in the
//!    buffer that they arrived in, to `Core::received` (`receive.rs`). [`protocol::websocket::Receiver`] unmasks them in place and
//!    lends a message; [`protocol::envelope::decode`] makes a frame of it. (What a program that embeds the engine publishes comes
//!    without a socket, through [`engine::Publisher`], and goes on at the topic's home in step 2.)
//! 2. **Applied.** `Core::dispatch` (`dispatch.rs`) sends a `Publish` to `Core::publish_admitted` (`publish.rs`), which parses each
//!    record once ([`topic::NewRecord::parse`]) and hands them to the topic's home: this shard, or another by
//!    [`shard::ShardMessage::Publish`]. There the sequence is checked ([`topic::Sequences`]), the topic found or made
//!    ([`topic::Registry`]), and each record appended by [`topic::Log::apply`], which encodes it for all time. The topic is now
//!    dirty; the acknowledgement goes back to the publisher's shard and waits in the connection's [`fanout::Outlet`].
//! 3. **Offered.** `Core::flush` (`flush.rs`) takes the dirty topics by priority (`flush/offer.rs`). For the first subscriber at the
//!    previous head `Core::shared` (`flush/chunk.rs`) has [`topic::Log::patch`] make a frame, WebSocket header included; everyone else at that head gets the same
//!    bytes, by reference count. Who may not take it (blocked, no room in the window, options) is listed as behind.
//!    Before them, each shard that follows the topic is sent a [`topic::Transfer`] with the same bytes (`followers.rs`); there
//!    [`topic::Log::follow`] brings the replica up (`following.rs`), and its flush forwards them in the same way.
//! 4. **Caught up.** Connections that woke (writable again, a pong or credit, a timer) are `serve`d: `gather` orders their topics
//!    (`flush/gather.rs`), `chunk` (`flush/chunk.rs`) has the log make a patch from each one's own cursor, as far as there is room.
//! 5. **Out.** `Outbox` (`outbox.rs`) holds one send for each connection: the rest of a cut frame, answers, patches, a marker.
//!    [`shard::Shard::prepare`] queues them, [`shard::Shard::submit`] enters the kernel once for all of them, and for waiting.
//! 6. **Settled.** Only short sends report back: `Core::sent_short` (`settle.rs`) keeps the rest of the frame that was cut and
//!    takes whole frames behind it back, their cursors with them. `commit` accounts for the rest: [`shard::Ledger`],
//!    [`fanout::Window::sent`].
//! 7. **Confirmed.** The pong of the marker, or `Credit`, comes back on the same way as step 1, and
//!    [`fanout::Window::confirm_mark`] makes room for more.
//!
//! Around it, in the same folder:
//!
//! * of one shard: `core.rs` (what it owns), `connection.rs` (a connection as it holds it), `accept.rs` (admission, the upgrade),
//!   `subscribe.rs` and `resubscribe.rs` (subscriptions, the topics they match, what is sent again), `deadlines.rs` (everything that
//!   happens because time passed, from one [`shard::wheel`]), `closing.rs` (how connections end);
//! * between shards: `message.rs` (what they say), `questions.rs` (a `Subscribe` or a shown session asks other shards first, and its
//!   client is not read from until they have answered), `directory.rs` (topics whose home is elsewhere), `admission.rs` (what all
//!   shards admit together);
//! * to other threads: `handle.rs` (commands, the program's records), `counters.rs` and `report.rs` (what the control thread is told),
//!   `journal.rs` (what a harness is told).
//!
//! # Invariants
//!
//! * A cursor moves only with a frame that says so, and moves back if the socket did not begin to take that frame.
//! * For every patch, `to - from = records + conflated + filtered + expired + overrun + lost`. Nothing is dropped without a count.
//! * Each subscriber of a topic is in exactly one of its channel's two lists; its [`fanout::Place`] says where.
//! * A connection gets at most one send per turn, and nothing while an earlier one is short.
//! * The kernel owns no bytes to be sent once [`kernel::Kernel::enter`] has returned.
//! * A slot of the socket table is reused only when the kernel holds no operation of it; ids carry a generation.
//! * A topic's offsets are given, and the fates of its events decided, at its home alone. A replica's head is always a moment of its
//!   home's state; the checksum is compared whenever it moves.
//! * Between two shards messages keep their order, and a fence is answered behind everything that was to be said before.
//! * Everything has a limit in [`limits`], and a counter for when it is hit. Nothing grows by what a peer merely claims.
//! * A peer's fault is a close code and a counter; a broken invariant panics, and the process ends with 70, since its state cannot
//!   be trusted.
//!
//! Deliberately absent:
//!
//! * **Queues of patches.** A connection holds answers and the rest of one cut frame; what it has still to be sent is a cursor.
//! * **Locks, `Rc<RefCell>`, globals** in a shard. Other threads speak to it through bounded channels ([`shard::ShardHandle`]); all
//!   that shards share are the counts of [`shard::Admission`], touched when a connection comes and when it goes.
//! * **`async`** on the data path. The turn is a function; the control thread and the client are where futures live.
//! * **Clocks** within a shard. `now` is read once a turn and passed down, so that whole shards run in virtual time.
//! * **Per-client encoding.** Records are encoded when they are appended; a patch is a head and slices of what is there.
//! * **Unsafe code** outside [`kernel`].
//!
//! # Where to make which change
//!
//! | change | place |
//! |---|---|
//! | a setting or limit | [`limits`], a row in `config/settings.rs`; its counter in `shard/counters.rs`, which does not compile until `control/metrics.rs` exports it |
//! | a frame of the protocol | the `.proto`, `shard/dispatch.rs`, `docs/protocol.md` and its test |
//! | what is dropped, and when | `judge` in `topic/patch.rs` for one cursor, `topic/retention.rs` for everyone |
//! | who is sent to first | `gather` and `offer_dirty` in `shard/flush/` |
//! | how much a slow client is sent | [`fanout::Window`] |
//! | a reason to close | `protocol/close.rs`, `shard/closing.rs` |
//! | an operation of the kernel | [`kernel::Kernel`], both implementations, and `kernel/contract_tests.rs`, which holds them to one behaviour |
//! | a metric | `control/metrics.rs`, and its row in `docs/operations.md` |
//! | a command | a file in `cli/` |
//! | a scenario of `tidegate bench` | a file in `cli/bench/`; another server's protocol: a file in `cli/bench/dialect/` |
//!
//! # Where it is tested
//!
//! | what may be wrong | what finds it |
//! |---|---|
//! | one module | its own tests, at the end of the file or beside it |
//! | a shard's turn, under faults, from a seed | `tests/simulation`; all shards and the mesh between them: `tests/many_shards` |
//! | what depends on the order of turns and timers | `tests/turns` |
//! | what a client is told, and when | `tests/protocol_rules.rs`, `tests/protocol_document` (byte by byte), `tests/limits` |
//! | who is sent what under pressure | `tests/pressure`, `tests/stalled.rs` |
//! | the host: descriptors, slow and broken networks, long runs | `tests/faults`, `tests/soak`, `tests/idle.rs` |
//! | what it costs | `benches/`, of which `benches/instructions/run` is not moved by other load on the machine |

#![cfg_attr(not(feature = "server"), forbid(unsafe_code))]

pub mod clock;
pub mod ids;
pub mod protocol;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "cli")]
pub mod feed;

#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod control;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(feature = "server")]
pub mod fanout;
#[cfg(all(feature = "server", any(test, fuzzing)))]
pub mod fuzzing;
#[cfg(feature = "server")]
pub mod kernel;
#[cfg(feature = "server")]
pub mod limits;
#[cfg(feature = "server")]
pub mod mesh;
#[cfg(feature = "server")]
pub mod session;
#[cfg(feature = "server")]
pub mod shard;
#[cfg(feature = "server")]
pub mod topic;
