//! Input for replays, tests and measurements: recorded captures and a simulated market, as records; and what checks that the
//! books which arrive at the far end are right. Nothing here knows the engine or the network.
//!
//! ```text
//!  capture.gz --lines--> capture --+
//!                                  +--> events --align--> records --> publications, paced by `pace`
//!  market (seeded) ----------------+        |
//!                                           +--> book: the oracle, from messages that no record is made of
//!  match.csv.gz --lines--> game ------------------------> publications
//! ```

#![forbid(unsafe_code)]

pub mod align;
pub mod book;
pub mod capture;
pub mod decimal;
pub mod game;
pub mod lines;
pub mod market;
pub mod pace;
pub mod recorded;
pub mod records;
pub mod source;
