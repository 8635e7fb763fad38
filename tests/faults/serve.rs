//! `tidegate serve` in a process of its own, seen from outside: its metrics, memory, descriptors and time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;

use super::support::LIMIT;

/// Killed if the test fails; else [`Serve::end`].
pub(super) struct Serve {
    child: Child,
    pub(super) address: SocketAddr,
    admin: SocketAddr,
    log: Option<JoinHandle<String>>,
}

/// The binary, without whatever is set where the tests run.
pub(super) fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE_")) {
        command.env_remove(name);
    }
    command
}

pub(super) const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

impl Serve {
    /// On ports that the kernel chose, with one shard. `prefix` is what starts it (`prlimit` and the like).
    pub(super) fn start(prefix: &[&str], settings: &[(&str, &str)]) -> Self {
        let words: Vec<&str> = prefix.iter().copied().chain([BINARY]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        Self::of(command, &["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], settings)
    }

    /// `command` ends with the binary.
    pub(super) fn of(command: Command, arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut child = without_settings(command)
            .args(["serve", "--shards", "1"])
            .args(arguments)
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut stderr = child.stderr.take().expect("piped");
        // Read as it comes: a full pipe would stop the server.
        let log = std::thread::spawn(move || {
            let mut log = String::new();
            stderr.read_to_string(&mut log).expect("text");
            log
        });
        let mut said = BufReader::new(child.stdout.as_mut().expect("piped")).lines().map(|line| line.expect("text"));
        let mut address_behind = |label: &str| said.next()?.strip_prefix(label)?.parse().ok();
        let (address, admin) = (address_behind("listening on "), address_behind("admin port on "));
        let (Some(address), Some(admin)) = (address, admin) else { panic!("{}", log.join().expect("it reads")) };
        Self { address, admin, child, log: Some(log) }
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("it runs")
    }

    /// Bytes of memory that are its own and resident.
    pub(super) fn resident_bytes(&self) -> usize {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux says so");
        let kilobytes: usize = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("kB");
        kilobytes * 1024
    }

    /// Clock ticks (hundredths of a second) that it computed for, in user space and in the kernel.
    pub(super) fn cpu_ticks(&self) -> u64 {
        let stat = self.proc("stat");
        // The name in parentheses may have spaces.
        let fields = stat.rsplit(')').next().expect("proc(5)").split_whitespace();
        fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("proc(5)")).sum()
    }

    /// A connection to the admin port.
    pub(super) fn admin(&self) -> Admin {
        Admin::connect(self.admin)
    }

    /// Ends it in an orderly way; it must have given everything back. Returns what it logged.
    pub(super) fn end(mut self) -> String {
        let status = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(status.expect("there is kill").success());
        let code = self.child.wait().expect("it is our child").code();
        let log = self.log.take().expect("taken once").join().expect("it reads");
        assert_eq!(code, Some(0), "{log}");
        log
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads `/metrics` over one connection, so that it needs no other descriptor later.
pub(super) struct Admin(BufReader<TcpStream>);

impl Admin {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the admin port listens");
        stream.set_read_timeout(Some(LIMIT)).expect("TCP");
        let mut admin = Self(BufReader::new(stream));
        // Answered, so accepted, whatever becomes of the descriptors.
        admin.metrics();
        admin
    }

    /// All of it.
    pub(super) fn metrics(&mut self) -> String {
        self.0.get_mut().write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
        let (mut line, mut len) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            self.0.read_line(&mut line).expect("a head");
            assert!(!line.is_empty(), "the admin port closed the connection");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                len = value.trim().parse().expect("a length");
            }
        }
        let mut text = vec![0; len];
        self.0.read_exact(&mut text).expect("a body");
        String::from_utf8(text).expect("text")
    }

    /// The sum of all series of that name.
    pub(super) fn value(&mut self, name: &str) -> usize {
        sum_of(&self.metrics(), name, "")
    }

    /// How often that limit was enforced.
    pub(super) fn limit_hits(&mut self, limit: &str) -> usize {
        limit_hits(&self.metrics(), limit)
    }
}

/// The sum of all series of that name in `/metrics` that have that label, as it is written.
pub(super) fn sum_of(text: &str, name: &str, label: &str) -> usize {
    let is_meant =
        |line: &&str| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']) && line.contains(label);
    let number = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number");
    let values: Vec<usize> = text.lines().filter(is_meant).map(number).collect();
    assert!(!values.is_empty(), "{name} with {label} is no series: {text}");
    values.into_iter().sum()
}

/// How often a limit was enforced, by `/metrics`.
pub(super) fn limit_hits(text: &str, limit: &str) -> usize {
    sum_of(text, "tidegate_limit_hits_total", &format!("limit=\"{limit}\""))
}

/// A command of the binary that prints lines. Killed when it is dropped.
pub(super) struct Lines {
    child: Child,
    pub(super) lines: std::sync::mpsc::Receiver<String>,
}

impl Lines {
    /// `command` ends with the binary.
    pub(super) fn of(command: Command, arguments: &[&str]) -> Self {
        let mut child = without_settings(command)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = std::sync::mpsc::channel();
        // Ends with the child.
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    pub(super) fn input(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("piped, and taken once")
    }

    /// The next line.
    pub(super) fn next(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("a line comes")
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
