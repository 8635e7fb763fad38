//! Shards driven by hand in virtual time: who takes a turn when is the test's choice, so that what depends on the order of
//! shards and timers is shown every time.

#![allow(unreachable_pub, reason = "a test of several files")]

mod again;
mod descriptors;
mod filtered;
mod forgetting;
mod handed;
mod pausing;
mod silent;
mod stopped;
mod takeover;
mod world;
