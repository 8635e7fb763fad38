//! feed
#![forbid(unsafe_code)]
