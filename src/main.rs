//! The `tidegate` binary: see `tidegate --help`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Shards free what others allocated; mimalloc is good at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidegate::cli::run()
}
