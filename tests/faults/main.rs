//! What goes wrong around an engine: descriptors that run out, readers that stall by the thousand, a completion queue that overflows; and in network namespaces a slow link, a lossy one, and one that is cut.
//!
//! How long they run is set by `TEST_STALLED_READERS` and `TEST_LOSS_SECONDS`.

#![forbid(unsafe_code)]

mod descriptors;
mod hostile;
mod namespace;
mod network;
mod overflow;
mod serve;
mod stalled;
#[path = "../support/mod.rs"]
mod support;

/// A number from the environment.
fn set_by(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Lets this process have as many descriptors as it may: both ends of thousands of connections are its own.
fn raise_descriptor_limit() {
    let pid = std::process::id().to_string();
    let hard = std::process::Command::new("prlimit")
        .args(["--pid", &pid, "--nofile", "--noheadings", "--output=HARD"])
        .output();
    let hard = String::from_utf8(hard.expect("util-linux is there").stdout).expect("text");
    let status =
        std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={}:", hard.trim())]).status();
    assert!(status.expect("util-linux is there").success());
}
