//! The event loop: the only place that knows the whole turn.

#![forbid(unsafe_code)]

mod counters;
mod handle;
pub mod wheel;

pub use counters::{ClassCounters, Counters, Gauges, Ledger, LimitHits, Report};
pub use handle::{ShardCommand, ShardHandle};
