//! Hosts on one machine: network namespaces, wired to each other by pairs of virtual interfaces.

use std::io::Write as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// False, and says so where everybody sees it, if no namespaces can be made here. With `TEST_NAMESPACES=required` that is
/// a failure.
pub(super) fn is_possible(test: &str) -> bool {
    let reason = if !succeeds("sh", &["-c", "[ \"$(id -u)\" = 0 ]"]) {
        "needs root"
    } else if let Some(missing) = ["ip", "tc", "nft"].into_iter().find(|tool| !succeeds(tool, &["-V"])) {
        &format!("needs {missing} (tests/faults/prepare installs it)")
    } else if let Err(error) = run("ip", &["netns", "list"]) {
        &format!("has no network namespaces: {error}")
    } else {
        return true;
    };
    let is_required = std::env::var("TEST_NAMESPACES").is_ok_and(|value| value == "required");
    assert!(!is_required, "{test} {reason}");
    // Not by `eprintln`, which the test harness keeps for itself where a test passes.
    writeln!(std::io::stderr(), "{test}: skipped: {reason}").expect("standard error is open");
    false
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// What it said, or why it failed.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
}

/// One host. It is gone, with its interfaces, when it is dropped and nothing runs in it any more.
pub(super) struct Namespace(String);

impl Namespace {
    pub(super) fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tidegate-{}-{}-{role}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]).expect("root may");
        let namespace = Self(name);
        namespace.run("ip link set lo up");
        namespace
    }

    /// `words` run in it.
    pub(super) fn run(&self, words: &str) -> String {
        let words: Vec<&str> = ["netns", "exec", &self.0].into_iter().chain(words.split(' ')).collect();
        run("ip", &words).expect("it is possible")
    }

    /// A program to be started in it.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    /// A cable to `other`: an interface named `to-OTHER'S ROLE` with `address` here, and the same there.
    pub(super) fn connect(&self, address: &str, other: &Self, other_address: &str) {
        let (here, there) = (self.interface_to(other), other.interface_to(self));
        self.run(&format!("ip link add {here} type veth peer name {there} netns {}", other.0));
        for (namespace, interface, address) in [(self, here, address), (other, there, other_address)] {
            namespace.run(&format!("ip address add {address}/24 dev {interface}"));
            namespace.run(&format!("ip link set {interface} up"));
        }
    }

    pub(super) fn interface_to(&self, other: &Self) -> String {
        format!("to-{}", other.0.rsplit('-').next().expect("a name has a role"))
    }

    /// What `/metrics` says on the admin port 8434 of a server in it.
    pub(super) fn metrics(&self) -> String {
        let request = "exec 3<>/dev/tcp/127.0.0.1/8434; \
            printf 'GET /metrics HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3";
        run("ip", &["netns", "exec", &self.0, "bash", "-c", request]).expect("the admin port answers")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Left behind at worst.
        let _ = run("ip", &["netns", "del", &self.0]);
    }
}
