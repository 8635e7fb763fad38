//! fanout
#![forbid(unsafe_code)]
