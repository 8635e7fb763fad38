//! The binary as people and scripts meet it: what it says, where, and how it ends.

mod refusals;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

const LOOPBACK: [&str; 5] = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

fn tidegate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    // Whatever is set where the tests run is no part of them.
    let settings =
        std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("TIDEGATE_"));
    for name in settings {
        command.env_remove(name);
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    tidegate().args(arguments).output().expect("the binary runs")
}

/// Ends with `code`, nothing on standard output, and one line on standard error, which is returned.
fn refused(arguments: &[&str], code: i32) -> String {
    let output = run(arguments);
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(output.stdout.is_empty());
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

/// A file that is removed in the end.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("the temporary directory is writable");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("the temporary directory's name is text")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // Left behind at worst.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A running `serve`, killed if the test fails.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut child =
            tidegate().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("text");
        let address = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("unexpected line {line:?}"));
        let address = address.trim_end().parse().expect("an address");
        Self { child, address }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status();
        assert!(status.expect("there is a shell").success());
    }

    /// Waits for the end; the exit code and what was logged.
    fn ended(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.child.stderr.as_mut().expect("piped").read_to_string(&mut log).expect("text");
        (self.child.wait().expect("it is our child").code(), log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn help_explains_commands_and_exit_codes() {
    let output = run(&["--help"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0));
    for part in ["serve", "Exit codes:", "  0  done", "  3  the configuration is wrong", " 70  ", "130  "] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let serve = String::from_utf8(run(&["serve", "--help"]).stdout).expect("text");
    for flag in
        ["--config", "--listen", "--admin", "--shards", "--cpus", "--idle", "--insecure", "--check", "--print-config"]
    {
        assert!(serve.contains(flag), "{flag} in {serve}");
    }
    assert!(run(&["--version"]).stdout.starts_with(b"tidegate "));
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [&["serve", "--lisen", "x"][..], &["swerve"], &[], &["serve", "--check", "--print-config"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}

#[test]
fn an_unknown_key_is_named_with_file_and_line() {
    let file = TempFile::new("unknown.toml", "\n[limits]\nmesage_bytes = 5\n");
    let error = refused(&["serve", "--config", file.path()], 3);
    let expected = format!(
        "tidegate: {}:3: `limits.mesage_bytes`: unknown setting; did you mean `limits.message_bytes`?\n",
        file.path()
    );
    assert_eq!(error, expected);
}

#[test]
fn wrong_settings_end_with_3() {
    assert!(
        refused(&["serve", "--shards", "none"], 3).starts_with("tidegate: --shards: expected \"auto\" or a number")
    );
    assert!(
        refused(&["serve", "--config", "/nonexistent.toml"], 3).contains("/nonexistent.toml: cannot read the file")
    );
    assert!(refused(&["serve", "--listen", "0.0.0.0:0"], 3).contains("--insecure"));
    let output = tidegate().args(["serve", "--check"]).env("TIDEGATE_LISTN", "x").output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean `TIDEGATE_LISTEN`?"));
    let output = tidegate().args(LOOPBACK).env("TIDEGATE_LOG", "a=b=c").output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn check_prints_limits_and_print_config_loads_back() {
    let output =
        tidegate().args(["serve", "--check"]).env("TIDEGATE_LIMITS_TOPICS", "77").output().expect("the binary runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0));
    let topics = text.lines().find(|line| line.trim_start().starts_with("topics ")).expect("the limit is printed");
    assert!(topics.contains(" 77 topics of the engine") && topics.ends_with("beyond: error LIMIT_REACHED"), "{topics}");

    let printed = run(&["serve", "--print-config", "--listen", "127.0.0.1:4", "--idle", "spin"]).stdout;
    let file = TempFile::new("printed.toml", std::str::from_utf8(&printed).expect("text"));
    let again = tidegate()
        .args(["serve", "--print-config"])
        .env("TIDEGATE_CONFIG", file.path())
        .output()
        .expect("the binary runs");
    assert_eq!(String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&printed));
    assert!(String::from_utf8_lossy(&printed).contains("listen = \"127.0.0.1:4\""));
}

#[test]
fn a_cpu_that_is_not_there_is_refused_instead_of_forgotten() {
    let error = refused(&[&LOOPBACK[..], &["--cpus", "1023"]].concat(), 3);
    assert!(error.contains("--cpus: no shard can run on CPU 1023"), "{error}");
    assert!(refused(&["serve", "--cpus", "1024"], 3).contains("each from 0 to 1023"));
}

/// Whatever this machine is like: the code is one of the table, and the JSON says the same.
#[test]
fn doctor_judges_this_machine() {
    let output = run(&["doctor", "--json"]);
    let code = output.status.code().expect("not ended by a signal");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!([0, 9].contains(&code), "tests need a machine that the engine runs on: {report:#}");
    assert_eq!(report["exit_code"], code);
    let findings = report["findings"].as_array().expect("a list");
    assert!(findings.len() > 20, "{report:#}");
    let names = |key| -> Vec<_> { findings.iter().map(|finding| finding[key].as_str().expect("text")).collect() };
    assert_eq!(code == 9, names("verdict").contains(&"advice"));
    let ring = findings.iter().find(|finding| finding["subject"] == "io_uring").expect("it is looked at");
    assert_eq!(ring["verdict"], "fine", "a ring is made for real");

    let text = String::from_utf8(run(&["doctor", "--all"]).stdout).expect("text");
    for subject in names("subject") {
        assert!(text.contains(subject), "{subject} in {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 160), "{text}");
}

#[test]
fn doctor_ends_with_the_code_that_the_engine_would_end_with() {
    let root = std::env::temp_dir().join(format!("tidegate-{}-doctor", std::process::id()));
    let set = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("below the root")).expect("writable");
        std::fs::write(path, text).expect("writable");
    };
    let doctor = |more: &[&str]| run(&[&["doctor", "--root", root.to_str().expect("text")], more].concat());
    set("proc/self/status", "Cpus_allowed_list:\t0-1\n");
    let verdict = |more: &[&str]| {
        let output = doctor(more);
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    assert_eq!(verdict(&[]).0, Some(0), "{}", verdict(&[]).1);
    set("proc/sys/net/core/somaxconn", "128\n");
    assert_eq!(verdict(&[]).0, Some(9));
    assert!(verdict(&[]).1.contains("sysctl net.core.somaxconn=4096"), "{}", verdict(&[]).1);
    set("sys/devices/system/cpu/online", "0-1\n");
    assert_eq!(verdict(&["--cpus", "7"]).0, Some(3));
    set("proc/sys/kernel/io_uring_disabled", "2\n");
    assert_eq!(verdict(&[]).0, Some(8));
    assert!(verdict(&[]).1.contains("the engine does not run here (exit code 8)"), "{}", verdict(&[]).1);
    std::fs::remove_dir_all(&root).expect("it was made above");
    // Nothing to look at is no clean bill of health.
    let nothing = refused(&["doctor", "--root", "/nonexistent"], 7);
    assert!(nothing.contains("/nonexistent/proc/self/status"), "{nothing}");
    assert!(refused(&["doctor", "--shards", "none"], 3).contains("--shards"));
    assert_eq!(run(&["doctor", "--all", "--json"]).status.code(), Some(2));
}

/// Also where no server is there to refuse it.
#[test]
fn a_wrong_topic_is_told_before_a_server_is_looked_for() {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let url = format!("ws://{closed}");
    for (arguments, what) in [
        (["sub", "a//b"], "\"a//b\" is not a valid topic or pattern: no segment is empty"),
        (["sub", "**/a"], "** stands only at the end"),
        (["sub", "*/*/*/*"], "\"*/*/*/*\" is not a valid topic or pattern: it has more than 3 times `*`"),
        (["pub", "a/*"], "\"a/*\" is not a valid topic"),
    ] {
        let error = refused(
            &[&arguments[..], &["--url", &url], if arguments[0] == "pub" { &["k=v"] } else { &[] }].concat(),
            2,
        );
        assert!(error.contains(what), "{error}");
    }
    assert!(refused(&["sub", "a/*", "--url", &url], 5).contains("start one with `tidegate serve`"));
}

#[test]
fn a_subscriber_outlives_its_server_and_ends_when_it_is_told() {
    let mut server = Server::start(&LOOPBACK);
    let url = format!("ws://{}", server.address);
    assert_eq!(run(&["pub", "a/b", "key=value", "--url", &url]).status.code(), Some(0));
    let mut subscriber = tidegate()
        .args(["sub", "a/*", "--url", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut out = BufReader::new(subscriber.stdout.take().expect("piped")).lines();
    let mut log = BufReader::new(subscriber.stderr.take().expect("piped")).lines().map(|line| line.expect("text"));
    assert!(out.any(|line| line.expect("text").ends_with("key = value")), "it prints what is there");
    server.child.kill().expect("it runs");
    server.child.wait().expect("it is our child");
    assert!(log.any(|line| line.contains("connecting again")), "it says what it does");
    let status = Command::new("sh").args(["-c", &format!("kill -INT {}", subscriber.id())]).status();
    assert!(status.expect("there is a shell").success());
    assert_eq!(subscriber.wait().expect("it is our child").code(), Some(0));
}

/// It says so, and prints the topic when it comes.
#[test]
fn a_subscriber_of_nothing_yet_says_that_it_waits() {
    let server = Server::start(&LOOPBACK);
    let url = format!("ws://{}", server.address);
    for (arguments, topic, waits) in [
        (&["x/1"][..], "x/1", "# x/1: no such topic yet, waiting"),
        (&["y/*", "--state"], "y/1", "# y/*: no such topic yet, waiting"),
        (&["z/1", "--json"], "z/1", r#"{"topic":"z/1","type":"waiting"}"#),
    ] {
        let mut subscriber = tidegate()
            .arg("sub")
            .args(arguments)
            .args(["--url", &url, "--count", "1"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut out = BufReader::new(subscriber.stdout.take().expect("piped")).lines().map(|line| line.expect("text"));
        assert_eq!(out.next().as_deref(), Some(waits));
        assert_eq!(run(&["pub", topic, "key=value", "--url", &url]).status.code(), Some(0));
        assert!(out.any(|line| line.contains("key") && line.contains("value")), "it comes");
        assert_eq!(subscriber.wait().expect("it is our child").code(), Some(0));
    }
}

#[test]
fn nobody_reading_the_output_is_no_failure() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = tidegate().args(["serve", "--check"]).stdout(writer).output().expect("the binary runs");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_port_in_use_is_one_sentence_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    for (flag, other) in [("--listen", "--admin"), ("--admin", "--listen")] {
        let error = refused(&["serve", flag, &address, other, "127.0.0.1:0"], 4);
        assert!(
            error.starts_with(&format!("tidegate: cannot listen on {address}: another process listens there")),
            "{error}"
        );
        assert!(error.contains(flag), "{error}");
    }
    let error = refused(&["serve", "--listen", "192.0.2.1:1", "--admin", "127.0.0.1:0", "--insecure"], 4);
    assert!(error.contains("no interface of this machine has that address"), "{error}");
}

/// Everything that the engine held was given back, or the code is 70.
#[test]
fn the_first_signal_shuts_down_in_an_orderly_way() {
    for (signal, arguments) in
        [("INT", &LOOPBACK[..]), ("TERM", &LOOPBACK), ("TERM", &["echo", "--listen", "127.0.0.1:0"])]
    {
        let server = Server::start(arguments);
        assert_ne!(server.address.port(), 0);
        // One client in the middle of its session, and one in the middle of its request.
        let mut client = TcpStream::connect(server.address).expect("it listens");
        let path = if arguments[0] == "echo" { "/" } else { "/v1/ws" };
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        client.write_all(format!("{head}Sec-WebSocket-Protocol: tidegate.v1\r\n\r\n").as_bytes()).expect("it reads");
        let mut status = [0; 12];
        client.read_exact(&mut status).expect("it answers");
        assert_eq!(&status, b"HTTP/1.1 101");
        let mut unready = TcpStream::connect(server.address).expect("it listens");
        unready.write_all(head.as_bytes()).expect("it reads");
        server.signal(signal);
        // Both are told to go, and go.
        client.read_to_end(&mut Vec::new()).expect("it says goodbye");
        drop((client, unready));
        let (code, log) = server.ended();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("shutting down"), "{log}");
    }
}

#[test]
fn a_demo_ends_by_itself_and_gives_everything_back() {
    let output = run(&["demo", "--seconds", "2", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let (text, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{text}{log}");
    assert!(text.contains("conflated"), "{text}");
}
