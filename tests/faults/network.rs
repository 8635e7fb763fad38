//! Links that are slow, lossy, or cut, between hosts of their own.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::namespace::{Namespace, is_possible};
use super::serve::{BINARY, Lines, Serve, limit_hits, sum_of};
use super::set_by;
use super::support::LIMIT;
use super::support::raw::Raw;
use super::support::wait_until;

const KEYS: usize = 20;

fn serve_in(namespace: &Namespace, settings: &[(&str, &str)]) -> Serve {
    Serve::of(
        namespace.command(BINARY),
        &["--listen", "0.0.0.0:8433", "--admin", "127.0.0.1:8434", "--insecure"],
        settings,
    )
}

/// `tidegate sub --json` there, and what it said so far.
struct Subscriber {
    lines: Lines,
    state: BTreeMap<String, String>,
    events: Vec<String>,
    records: usize,
    conflated: u64,
    lost: u64,
}

impl Subscriber {
    fn new(namespace: &Namespace, topic: &str, server: &str) -> Self {
        let url = format!("ws://{server}:8433");
        let lines = Lines::of(namespace.command(BINARY), &["sub", topic, "--json", "--url", &url]);
        Self { lines, state: BTreeMap::new(), events: Vec::new(), records: 0, conflated: 0, lost: 0 }
    }

    fn take(&mut self, line: &str) {
        let line: Value = serde_json::from_str(line).expect("a JSON object");
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        match line["type"].as_str().expect("a type") {
            "record" => {
                self.records += 1;
                let value = text("value").expect("nothing is deleted here");
                match text("key") {
                    Some(key) => drop(self.state.insert(key, value)),
                    None => self.events.push(value),
                }
            }
            "patch" => {
                self.conflated += line["conflated"].as_u64().expect("a count");
                self.lost += line["lost"].as_u64().expect("a count") + line["overrun"].as_u64().expect("a count");
                assert!(
                    !line["current"].as_bool().expect("a claim") || line["verified"].as_bool().expect("a claim"),
                    "{line}"
                );
            }
            _ => {}
        }
    }

    /// Whatever has been said by now.
    fn catch_up(&mut self) {
        while let Ok(line) = self.lines.lines.try_recv() {
            self.take(&line);
        }
    }

    fn read_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < LIMIT, "in vain: {what}; {} records, {} events", self.records, self.events.len());
            let line = self.lines.next();
            self.take(&line);
        }
    }
}

/// `tidegate pub TOPIC -` there.
struct Publisher {
    lines: Lines,
    input: ChildStdin,
    published: usize,
}

impl Publisher {
    fn new(namespace: &Namespace, topic: &str, server: &str) -> Self {
        let url = format!("ws://{server}:8433");
        let mut lines = Lines::of(namespace.command(BINARY), &["pub", topic, "-", "--url", &url]);
        Self { input: lines.input(), lines, published: 0 }
    }

    fn publish(&mut self, record: &Value) {
        writeln!(self.input, "{record}").expect("it reads");
        self.published += 1;
    }

    /// Waits until all is acknowledged.
    fn finish(self) {
        drop(self.input);
        for _ in 0..self.published {
            self.lines.next().parse::<u64>().expect("an offset");
        }
    }
}

/// Calls `round` so often, twenty milliseconds apart: the rate of the load, not a wait for anything.
fn paced(rounds: usize, mut round: impl FnMut(usize)) {
    let begun = Instant::now();
    for n in 0..rounds {
        round(n);
        let due = begun + Duration::from_millis(20) * u32::try_from(n + 1).expect("minutes");
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// 130 kB/s to two subscribers, one of them on a link of 25 kB/s that holds as much as a home router does.
#[test]
fn behind_a_slow_link_the_state_stays_fresh_and_others_do_not_notice() {
    const ROUNDS: usize = 500;
    if !is_possible("behind_a_slow_link_the_state_stays_fresh_and_others_do_not_notice") {
        return;
    }
    let (server, fast, slow) = (Namespace::new("server"), Namespace::new("fast"), Namespace::new("slow"));
    server.connect("10.77.1.1", &fast, "10.77.1.2");
    server.connect("10.77.2.1", &slow, "10.77.2.2");
    for (near, far) in [(&server, &slow), (&slow, &server)] {
        near.run(&format!("tc qdisc add dev {} root tbf rate 200kbit burst 4kb limit 16kb", near.interface_to(far)));
    }
    let serve = serve_in(&server, &[]);
    let mut publisher = Publisher::new(&server, "market/x", "127.0.0.1");
    let value = |round: usize| format!("{round:0110}");
    let round = |publisher: &mut Publisher, n: usize| {
        (0..KEYS)
            .for_each(|key| publisher.publish(&serde_json::json!({ "key": format!("key{key}"), "value": value(n) })));
    };
    round(&mut publisher, 0);
    let mut fast = Subscriber::new(&fast, "market/x", "10.77.1.1");
    let mut slow = Subscriber::new(&slow, "market/x", "10.77.2.1");
    for subscriber in [&mut fast, &mut slow] {
        subscriber.read_until("a snapshot", |subscriber| subscriber.state.len() == KEYS);
    }
    paced(ROUNDS, |n| {
        round(&mut publisher, n + 1);
        fast.catch_up();
        slow.catch_up();
    });
    publisher.finish();
    slow.catch_up();
    let before_the_end = slow.records;
    let is_newest = |subscriber: &Subscriber| subscriber.state.values().all(|newest| *newest == value(ROUNDS));
    slow.read_until("the newest state", is_newest);
    fast.read_until("the newest state", is_newest);
    // Of what was sent, what came after the last publish was on its way then: were it a queue, most would be.
    let published = ROUNDS * KEYS;
    let late = slow.records - before_the_end;
    println!("of {published}: slow {} and {late} late, fast {}", before_the_end, fast.records);
    assert!(late < published / 16, "{late} records came after the end: they waited somewhere");
    assert!(slow.records < published / 2 && slow.conflated > 0, "{} records fit through the link", slow.records);
    assert!(fast.records > published / 2 && fast.records > 2 * slow.records, "the fast one had {}", fast.records);
    assert_eq!((slow.lost, fast.lost), (0, 0));
    drop((slow, fast));
    serve.end();
}

/// A subscriber and a publisher beyond a router that drops every twentieth packet, each way.
#[test]
fn over_a_lossy_hop_critical_events_arrive_once_each_in_order_and_the_state_converges() {
    if !is_possible("over_a_lossy_hop_critical_events_arrive_once_each_in_order_and_the_state_converges") {
        return;
    }
    let rounds = set_by("TEST_LOSS_SECONDS", 8) * 50;
    let (server, router, client) = (Namespace::new("server"), Namespace::new("router"), Namespace::new("client"));
    router.connect("10.77.3.1", &server, "10.77.3.2");
    router.connect("10.77.4.1", &client, "10.77.4.2");
    server.run("ip route add default via 10.77.3.1");
    client.run("ip route add default via 10.77.4.1");
    router.run("sysctl -q net.ipv4.ip_forward=1");
    router.run("nft add table inet loss");
    router.run("nft add chain inet loss forward { type filter hook forward priority 0 ; }");
    router.run("nft add rule inet loss forward numgen random mod 100 < 5 counter drop");

    let serve = serve_in(&server, &[]);
    let topics =
        [("down", &server, "127.0.0.1", &client, "10.77.3.2"), ("up", &client, "10.77.3.2", &server, "127.0.0.1")];
    let mut ways: Vec<_> = topics
        .into_iter()
        .map(|(topic, from, from_url, to, to_url)| {
            let mut publisher = Publisher::new(from, topic, from_url);
            publisher.publish(&serde_json::json!({ "key": "key0", "value": "first" }));
            let mut subscriber = Subscriber::new(to, topic, to_url);
            subscriber.read_until("the topic", |subscriber| !subscriber.state.is_empty());
            (publisher, subscriber)
        })
        .collect();
    paced(rounds, |n| {
        for (publisher, subscriber) in &mut ways {
            publisher.publish(&serde_json::json!({ "value": format!("event {n}"), "priority": "critical" }));
            let key = format!("key{}", n % KEYS);
            publisher.publish(&serde_json::json!({ "key": key, "value": format!("value {n}") }));
            subscriber.catch_up();
        }
    });
    let state: BTreeMap<String, String> =
        (0..rounds).map(|n| (format!("key{}", n % KEYS), format!("value {n}"))).collect();
    let events: Vec<String> = (0..rounds).map(|n| format!("event {n}")).collect();
    for (publisher, mut subscriber) in ways {
        publisher.finish();
        subscriber.read_until("everything", |subscriber| {
            subscriber.state == state && subscriber.events.len() >= events.len()
        });
        assert_eq!(subscriber.lost, 0);
        assert!(subscriber.events == events, "{:?}", subscriber.events);
    }
    let rules = router.run("nft list table inet loss");
    let dropped = rules.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    println!("{rounds} rounds, {dropped:?} packets dropped");
    assert!(dropped.expect("a counter") > rounds / 20, "{rules}");
    let metrics = server.metrics();
    assert_eq!(sum_of(&metrics, "tidegate_records_total", "outcome=\"lost\""), 0);
    serve.end();
}

const BLACK_HOLED: usize = 200;

/// Connects so many times, says so, and holds the connections until it is killed.
#[test]
#[ignore = "started by `peers_behind_a_link_that_was_cut_are_closed_and_no_others`, on a host of its own"]
fn alone_connections_that_are_held() {
    let address = std::env::var("FAULTS_SERVER").expect("given").parse().expect("an address");
    let connections: Vec<_> = (0..BLACK_HOLED).map(|_| Raw::hello(address)).collect();
    writeln!(std::io::stderr(), "connected").expect("it is piped");
    // Until nobody wants them any more.
    std::io::stdin().read_to_end(&mut Vec::new()).expect("it is piped");
    drop(connections);
}

#[test]
fn peers_behind_a_link_that_was_cut_are_closed_and_no_others() {
    if !is_possible("peers_behind_a_link_that_was_cut_are_closed_and_no_others") {
        return;
    }
    let (server, client, near) = (Namespace::new("server"), Namespace::new("client"), Namespace::new("near"));
    server.connect("10.77.5.1", &client, "10.77.5.2");
    server.connect("10.77.6.1", &near, "10.77.6.2");
    let settings = [("TIDEGATE_LIMITS_HEARTBEAT_INTERVAL_MS", "2000"), ("TIDEGATE_LIMITS_HEARTBEAT_ANSWER_MS", "1000")];
    let serve = serve_in(&server, &settings);
    // One at a link that stays, which reads nothing either: it is stalled, not dead.
    let mut holders: Vec<_> = [("10.77.5.1", &client), ("10.77.6.1", &near)]
        .into_iter()
        .map(|(address, namespace)| hold_connections(namespace, address))
        .collect();
    let connections = || sum_of(&server.metrics(), "tidegate_connections", "");
    assert_eq!(connections(), 2 * BLACK_HOLED);
    // Nothing says that it is gone: no FIN, no RST, no ICMP.
    server.run("nft add table inet hole");
    server.run("nft add chain inet hole input { type filter hook input priority 0 ; }");
    server.run(&format!("nft add rule inet hole input iifname {} drop", server.interface_to(&client)));
    wait_until("the black-holed ones are closed", || connections() <= BLACK_HOLED);
    // And nobody else in as long as it takes at most, to judge whoever was pinged by now: a ping, its answer, and a second look
    // two seconds later. That nothing happens can only be seen by waiting.
    std::thread::sleep(Duration::from_secs(2 + 1 + 2));
    let metrics = server.metrics();
    assert_eq!(sum_of(&metrics, "tidegate_connections", ""), BLACK_HOLED);
    assert_eq!(limit_hits(&metrics, "heartbeat"), BLACK_HOLED);
    for holder in &mut holders {
        drop(holder.stdin.take());
        holder.wait().expect("it is our child");
    }
    serve.end();
}

/// This program again, on that host, until its input ends.
fn hold_connections(namespace: &Namespace, address: &str) -> std::process::Child {
    let program = std::env::current_exe().expect("the test's own program");
    let mut command: Command = namespace.command(program.to_str().expect("text"));
    let mut child = command
        .args(["--exact", "network::alone_connections_that_are_held", "--ignored", "--nocapture"])
        .env("FAULTS_SERVER", format!("{address}:8433"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the test's own program starts");
    let mut said = [0; 10];
    child.stderr.as_mut().expect("piped").read_exact(&mut said).expect("it connects");
    assert_eq!(&said, b"connected\n");
    child
}
