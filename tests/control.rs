//! The control thread against real sockets: what the admin port answers, its limits, and that stopping gives everything back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use tidegate::control::{Control, ControlConfig, ControlError, ShutdownRequest, Signals};
use tidegate::kernel::Waker;
use tidegate::shard::{ClassCounters, Counters, Report, ShardCommand, ShardHandle, inlets_of};

/// Descriptors and threads are counted for the whole process, so that these tests take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    // A test that failed has reported it; the others may go on.
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// These stand-ins for shards look at their channels all the time.
#[derive(Debug)]
struct NeverAsleep;

impl Waker for NeverAsleep {
    fn wake(&self) {}
}

fn handle(capacity: usize) -> (ShardHandle, Receiver<ShardCommand>) {
    let (outlets, inlets) = inlets_of(capacity, 1);
    (ShardHandle::new(outlets, Arc::new(NeverAsleep)), inlets.commands)
}

/// Answers reports until all handles are gone.
fn answer(commands: Receiver<ShardCommand>, turns: u64) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for command in commands {
            if let ShardCommand::Report(report) = command {
                let counters = Counters { turns, classes: vec![ClassCounters::default()], ..Counters::default() };
                // Who asked may have gone.
                let _ = report.send(Report { counters, ..Report::default() });
            }
        }
    })
}

fn start(shards: Vec<ShardHandle>) -> Control {
    let config = ControlConfig {
        admin: SocketAddr::from(([127, 0, 0, 1], 0)),
        class_names: vec!["default".to_owned()],
        signals: Signals::Ignore,
        cpu: None,
    };
    Control::start(config, shards).expect("the control thread starts")
}

/// Sends `request` and reads until the server closes.
fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("the admin port accepts");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a valid timeout");
    stream.write_all(request).expect("the admin port reads");
    let mut answer = Vec::new();
    // A reset after the answer is an end as good as another.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).expect("text")
}

fn get(address: SocketAddr, path: &str) -> String {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
}

/// What the process holds: threads of ours (the test harness has others), and descriptors.
fn held() -> (usize, usize) {
    let entries = |directory| std::fs::read_dir(directory).expect("procfs is mounted").map_while(Result::ok);
    // A thread may end between the two calls.
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    let threads = entries("/proc/self/task").map(name).filter(|name| name.starts_with("tidegate")).count();
    (threads, entries("/proc/self/fd").count())
}

/// Waits until the process holds as much as before: a joined thread leaves `/proc` a moment later.
fn returns_to(before: (usize, usize)) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while held() != before {
        assert!(Instant::now() < deadline, "{:?} threads and descriptors instead of {before:?}", held());
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn shards_that_answer_are_ready_and_measured() {
    let _turn = turn();
    let ((first, first_commands), (second, second_commands)) = (handle(4), handle(4));
    let threads = [answer(first_commands, 7), answer(second_commands, 8)];
    let control = start(vec![first, second]);
    let health = get(control.local_addr(), "/healthz");
    assert!(health.starts_with("HTTP/1.1 200 ") && health.ends_with("\r\n\r\nok\n"), "{health}");
    let ready = get(control.local_addr(), "/readyz");
    assert!(ready.starts_with("HTTP/1.1 200 ") && ready.ends_with("\r\n\r\nready\n"), "{ready}");
    let metrics = get(control.local_addr(), "/metrics");
    assert!(metrics.to_ascii_lowercase().contains("content-type: application/openmetrics-text;"), "{metrics}");
    for line in ["tidegate_turns_total{shard=\"0\"} 7\n", "tidegate_turns_total{shard=\"1\"} 8\n", "# EOF\n"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert!(get(control.local_addr(), "/nothing").starts_with("HTTP/1.1 404 "));
    control.begin_drain();
    let draining = get(control.local_addr(), "/readyz");
    assert!(draining.starts_with("HTTP/1.1 503 ") && draining.ends_with("shutting down\n"), "{draining}");
    control.stop();
    for thread in threads {
        thread.join().expect("stopping dropped the handles");
    }
}

#[test]
fn silent_full_and_ended_shards_are_named() {
    let _turn = turn();
    let (answering, commands) = handle(4);
    let thread = answer(commands, 7);
    let (silent, _unread) = handle(4);
    let (full, _no_room) = handle(0);
    let (ended, _) = handle(4);
    let control = start(vec![answering, silent, full, ended]);
    let asked = Instant::now();
    let ready = get(control.local_addr(), "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("no answer from shard 1, 2, 3\n"), "{ready}");
    assert!(asked.elapsed() < Duration::from_secs(5), "it waits a second, not for each");
    let metrics = get(control.local_addr(), "/metrics");
    for (shard, up) in [(0, 1), (1, 0), (2, 0), (3, 0)] {
        assert!(metrics.contains(&format!("tidegate_shard_up{{shard=\"{shard}\"}} {up}\n")), "{metrics}");
    }
    control.stop();
    thread.join().expect("stopping dropped the handles");
}

#[test]
fn stopping_gives_back_threads_descriptors_and_the_port() {
    let _turn = turn();
    let before = held();
    for round in 0..5 {
        let (shard, commands) = handle(4);
        let answering = answer(commands, 1);
        let control = start(vec![shard]);
        let address = control.local_addr();
        assert_eq!(held().0, before.0 + 1, "the thread is found while it runs");
        // One served, one idle, one in the middle of a head: all are cut.
        assert!(get(control.local_addr(), "/healthz").contains("ok"));
        let _idle = TcpStream::connect(address).expect("the admin port accepts");
        let mut slow = TcpStream::connect(address).expect("the admin port accepts");
        slow.write_all(b"GET /heal").expect("the admin port reads");
        let requests = control.shutdown_requests().clone();
        if round % 2 == 0 {
            control.stop()
        } else {
            drop(control)
        }
        assert_eq!(requests.recv(), Ok(ShutdownRequest::ControlEnded));
        answering.join().expect("stopping dropped the handles");
        drop((_idle, slow));
        // Not by binding it: somebody's outgoing connection may have been given the port by now.
        let refused = TcpStream::connect(address).expect_err("nobody listens any more");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        returns_to(before);
    }
}

#[test]
fn a_failed_start_gives_back_everything_and_names_the_address() {
    let _turn = turn();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound");
    let before = held();
    let config = ControlConfig { admin: address, class_names: Vec::new(), signals: Signals::Ignore, cpu: None };
    let error = Control::start(config, Vec::new()).expect_err("the port is taken");
    assert!(matches!(&error, ControlError::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    returns_to(before);
}

#[test]
fn heads_have_a_size_and_a_time() {
    let _turn = turn();
    let control = start(Vec::new());
    let header = format!("X: {}\r\n", "x".repeat(1_000));
    let large = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{}\r\n", header.repeat(20));
    assert!(exchange(control.local_addr(), large.as_bytes()).starts_with("HTTP/1.1 431 "));
    let many = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: x\r\n".repeat(64));
    assert!(exchange(control.local_addr(), many.as_bytes()).starts_with("HTTP/1.1 431 "));
    let began = Instant::now();
    let slow = exchange(control.local_addr(), b"GET /healthz HTTP/1.1\r\n");
    assert!(!slow.contains("200") && began.elapsed() > Duration::from_secs(4), "{slow}");
    assert!(began.elapsed() < Duration::from_secs(15), "closed after 5 s");
    control.stop();
}

#[test]
fn connections_beyond_the_limit_wait_for_a_place() {
    let _turn = turn();
    let control = start(Vec::new());
    let mut holders: Vec<_> =
        (0..64).map(|_| TcpStream::connect(control.local_addr()).expect("accepted or queued")).collect();
    let mut late = TcpStream::connect(control.local_addr()).expect("queued");
    late.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("the kernel takes it");
    late.set_read_timeout(Some(Duration::from_millis(300))).expect("a valid timeout");
    let mut answer = [0; 12];
    assert!(late.read(&mut answer).is_err(), "all places are taken");
    holders.pop();
    late.set_read_timeout(Some(Duration::from_secs(20))).expect("a valid timeout");
    late.read_exact(&mut answer).expect("a place is free");
    assert_eq!(&answer, b"HTTP/1.1 200");
    control.stop();
}

/// Not a test: what `the_second_signal_ends_the_process_at_once` watches. It handles signals, which is for the whole process.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn shutdown_that_never_ends() {
    let config = ControlConfig {
        admin: SocketAddr::from(([127, 0, 0, 1], 0)),
        class_names: Vec::new(),
        signals: Signals::Handle,
        cpu: None,
    };
    let control = Control::start(config, Vec::new()).expect("the control thread starts");
    println!("\nstate: {}", control.local_addr());
    println!("\nstate: {:?}", control.wait_for_shutdown_request());
    loop {
        thread::park();
    }
}

#[test]
fn the_second_signal_ends_the_process_at_once() {
    // The ends of a child's pipes are descriptors, too.
    let _turn = turn();
    for (first, second, request) in [("INT", "INT", "Interrupt"), ("TERM", "INT", "Terminate")] {
        let mut child = Command::new(std::env::current_exe().expect("procfs is mounted"))
            .args(["--exact", "shutdown_that_never_ends", "--ignored", "--nocapture"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this very program runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut next_state = || lines.find_map(|line| line.expect("text").strip_prefix("state: ").map(str::to_owned));
        let signal = |name: &str| {
            let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status();
            assert!(status.expect("there is a shell").success());
        };
        let address = next_state().and_then(|text| text.parse().ok()).expect("it starts");
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 200 "));
        signal(first);
        assert_eq!(next_state().as_deref(), Some(request));
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 503 "), "no new clients are wanted");
        signal(second);
        assert_eq!(child.wait().expect("it is our child").code(), Some(130));
    }
}
