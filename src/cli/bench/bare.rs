//! What any server must pay: a loop that sends as many bytes to as many sockets, and does nothing else.
//!
//! It stands in the server's place in everything else: a process of its own on the server's CPU, which accepts; its rounds
//! are due when the server's records were; and what it sends are patches, so that the other side is the same [`Connection`]s on
//! the generator's CPU. That matters: a reader that is quicker or slower, or on the sender's own CPU, changes what a
//! send costs by half.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};

use super::connection::Connection;
use super::dialect::{self, Duty, Observations, Role, Values};
use super::load::{EVENTS, SCRATCH, VERIFY_ONE_IN};
use super::options::{CommonArgs, pin};
use super::payload::{self, Stopwatch};
use super::server::Server;
use super::{failed, process, socket};
use crate::cli::seconds::seconds as parse_seconds;
use crate::cli::{CliError, print};
use crate::kernel::{self, ListenOptions};
use crate::protocol::envelope;
use crate::protocol::wire::{self, server_frame::Body};

/// Sends before the measurement begins are left out.
const WARM_UP: Duration = Duration::from_secs(1);

/// The options of the sending side, which a run starts as a process of its own.
#[derive(Debug, Args)]
pub(super) struct BareSendArgs {
    /// Sockets.
    #[arg(long)]
    connections: usize,
    /// Bytes of each send.
    #[arg(long)]
    bytes: usize,
    /// Rounds a second.
    #[arg(long)]
    rate: u64,
    #[arg(long, value_parser = parse_seconds)]
    seconds: Duration,
    #[arg(long)]
    cpu: Option<usize>,
    #[arg(long)]
    congestion: Option<String>,
}

/// What the sending side found.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct BareResult {
    pub(super) sends: u64,
    pub(super) cpu_ns: u64,
    /// Rounds, those of the warm-up among them.
    rounds: u64,
    /// Where it was allowed to run.
    cpus: String,
}

impl BareResult {
    pub(super) fn ns_per_send(&self) -> f64 {
        self.cpu_ns as f64 / self.sends.max(1) as f64
    }

    /// Both together.
    pub(super) fn and(self, later: &Self) -> Self {
        Self { sends: self.sends + later.sends, cpu_ns: self.cpu_ns + later.cpu_ns, ..self }
    }
}

/// The sending side.
pub(super) fn send(args: &BareSendArgs) -> Result<(), CliError> {
    pin(args.cpu)?;
    let listener = kernel::listen(SocketAddr::from(([127, 0, 0, 1], 0)), ListenOptions::default()).map_err(failed)?;
    if let Some(name) = &args.congestion {
        socket2::SockRef::from(&listener).set_tcp_congestion(name.as_bytes()).map_err(failed)?;
    }
    listener.set_nonblocking(false).map_err(failed)?;
    print(&format!("{}\n", listener.local_addr().map_err(failed)?))?;
    let mut sockets = Vec::with_capacity(args.connections);
    for _ in 0..args.connections {
        let (stream, _) = listener.accept().map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        sockets.push(stream);
    }
    let mut result = BareResult::default();
    let (start, end) = (Instant::now(), WARM_UP + args.seconds);
    let mut cpu_before = None;
    for round in 0_u64.. {
        if let Some(wait) = Duration::from_nanos(round * 1_000_000_000 / args.rate).checked_sub(start.elapsed()) {
            std::thread::sleep(wait);
        }
        let elapsed = start.elapsed();
        if elapsed >= end {
            break;
        }
        if elapsed >= WARM_UP && cpu_before.is_none() {
            cpu_before = Some(process::cpu_time(std::process::id()).map_err(failed)?.used_ns());
            result.sends = 0;
        }
        let frame = patch(round, args.bytes);
        for stream in &mut sockets {
            if stream.write(&frame).map_err(failed)? < frame.len() {
                return Err(failed("the bare loop's reader does not keep up"));
            }
        }
        result.sends += sockets.len() as u64;
        result.rounds += 1;
    }
    let cpu = process::cpu_time(std::process::id()).map_err(failed)?.used_ns();
    result.cpu_ns = cpu - cpu_before.unwrap_or(cpu);
    result.cpus = process::allowed_cpus().map_err(failed)?;
    print(&format!("{}\n", serde_json::to_string(&result).map_err(failed)?))
}

/// A frame of about `bytes` that moves a subscriber from `from` to the next offset.
fn patch(from: u64, bytes: usize) -> bytes::Bytes {
    let frame = |len| {
        let record = wire::Record { value: payload::value(0, from + 1, len).into(), ..Default::default() };
        let patch = wire::Patch { from, to: from + 1, records: vec![record], ..Default::default() };
        envelope::encode(0, Body::Patch(patch))
    };
    let around = frame(bytes).len().saturating_sub(bytes);
    frame(bytes.saturating_sub(around))
}

/// Runs the sending side against this process, which reads as it reads from a server.
pub(super) fn measure(
    options: &CommonArgs,
    server: &Server,
    connections: usize,
    bytes: usize,
    rate: u64,
    seconds: Duration,
) -> Result<BareResult, CliError> {
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["bench", "bare-send"]);
    command.args(["--connections", &connections.to_string(), "--bytes", &bytes.to_string()]);
    command.args(["--rate", &rate.to_string(), "--seconds", &seconds.as_secs_f64().to_string()]);
    if let Some(cpu) = server.cpus.server {
        command.args(["--cpu", &cpu.to_string()]);
    }
    if let Some(congestion) = options.congestion() {
        command.args(["--congestion", congestion]);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let result = converse(options, &mut stdout, connections);
    if result.is_err() {
        // Else it might wait for a reader.
        let _ = child.kill();
    }
    child.wait().map_err(failed)?;
    let (result, rounds_read) = result?;
    if rounds_read != result.rounds * connections as u64 {
        return Err(failed("the bare loop's reader did not get all that was sent"));
    }
    let is_apart = server.cpus.generator.is_none() || result.cpus != process::allowed_cpus().map_err(failed)?;
    is_apart.then_some(result).ok_or_else(|| failed("the bare loop ran on the CPU of its reader"))
}

/// Connects to the sending side, reads until it is gone; returns what it says, and how many patches came.
fn converse(
    options: &CommonArgs,
    stdout: &mut impl BufRead,
    connections: usize,
) -> Result<(BareResult, u64), CliError> {
    let mut line = String::new();
    stdout.read_line(&mut line).map_err(failed)?;
    let address: SocketAddr = line.trim_end().parse().map_err(|_| failed("the bare loop did not start"))?;
    let mut poll = Poll::new().map_err(failed)?;
    let mut subscribers = Vec::with_capacity(connections);
    for at in 0..connections {
        let stream = socket::connect(address, options.congestion()).map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(at), Interest::READABLE).map_err(failed)?;
        let is_verifying = at.is_multiple_of(VERIFY_ONE_IN);
        let duty = Duty::Subscribe { is_verifying, credit: 0 };
        let role = Role { topic: "", duty, values: Values::Numbered, resume: None };
        subscribers.push(Connection::silent(stream, dialect::of(None, &role), &role));
    }
    let latency = Histogram::new(3).expect("3 digits are allowed");
    let mut observations = Observations { latency, is_measuring: false, clock: Stopwatch::start() };
    let (mut events, mut scratch) = (Events::with_capacity(EVENTS), vec![0; SCRATCH]);
    while subscribers.iter().any(|one| !one.has_ended) {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other.map_err(failed)?,
        }
        for event in &events {
            let subscriber = &mut subscribers[event.token().0];
            loop {
                match subscriber.read(&mut scratch, SCRATCH, &mut observations) {
                    // What is behind the end of the stream is no other event.
                    Ok(is_all) if is_all && !event.is_read_closed() => break,
                    Ok(_) => {}
                    Err(_) if subscriber.has_ended => break,
                    Err(error) => return Err(failed(error)),
                }
            }
        }
    }
    line.clear();
    stdout.read_line(&mut line).map_err(failed)?;
    let result = serde_json::from_str(&line).map_err(|_| failed("the bare loop did not finish"))?;
    Ok((result, subscribers.iter().map(|one| one.seen.messages).sum()))
}
