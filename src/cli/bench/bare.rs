//! What any server must pay: a loop that sends the same bytes to as many sockets, and does nothing else.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};

use super::options::{CommonArgs, pin};
use super::{failed, process, socket};
use crate::cli::{CliError, print};

/// Sends before the measurement begins are left out.
const WARM_UP: Duration = Duration::from_secs(1);

/// The options of the sending side, which a run starts as a process of its own.
#[derive(Debug, Args)]
pub(super) struct BareSendArgs {
    /// Where the reading side listens.
    address: SocketAddr,
    /// Sockets.
    #[arg(long)]
    connections: usize,
    /// Bytes of each send.
    #[arg(long)]
    bytes: usize,
    /// Rounds a second; 0: as fast as it goes.
    #[arg(long)]
    rate: u64,
    #[arg(long)]
    seconds: f64,
    #[arg(long)]
    cpu: Option<usize>,
    #[arg(long)]
    congestion: Option<String>,
}

/// What the sending side found.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct BareResult {
    pub(super) sends: u64,
    /// Sends that the socket did not take whole.
    pub(super) short: u64,
    pub(super) cpu_ns: u64,
}

impl BareResult {
    pub(super) fn ns_per_send(&self) -> f64 {
        self.cpu_ns as f64 / self.sends.max(1) as f64
    }
}

impl std::ops::Add for BareResult {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { sends: self.sends + other.sends, short: self.short + other.short, cpu_ns: self.cpu_ns + other.cpu_ns }
    }
}

/// The sending side.
pub(super) fn send(args: &BareSendArgs) -> Result<(), CliError> {
    pin(args.cpu);
    let mut sockets = Vec::with_capacity(args.connections);
    for _ in 0..args.connections {
        let stream = socket::connect(args.address, args.congestion.as_deref()).map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        sockets.push(stream);
    }
    let frame = vec![0x5a; args.bytes];
    let mut result = BareResult::default();
    let (start, end) = (Instant::now(), WARM_UP + Duration::from_secs_f64(args.seconds));
    let mut cpu_before = None;
    for round in 0_u64.. {
        let due = Duration::from_nanos((round * 1_000_000_000).checked_div(args.rate).unwrap_or(0));
        if let Some(wait) = due.checked_sub(start.elapsed()) {
            std::thread::sleep(wait);
        }
        let elapsed = start.elapsed();
        if elapsed >= end {
            break;
        }
        if elapsed >= WARM_UP && cpu_before.is_none() {
            cpu_before = Some(process::cpu_time(std::process::id()).map_err(failed)?.used_ns);
            result = BareResult::default();
        }
        for stream in &mut sockets {
            match stream.write(&frame) {
                Ok(n) => {
                    result.sends += 1;
                    result.short += u64::from(n < frame.len());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => result.short += 1,
                Err(error) => return Err(failed(error)),
            }
        }
    }
    let cpu = process::cpu_time(std::process::id()).map_err(failed)?.used_ns;
    result.cpu_ns = cpu - cpu_before.unwrap_or(cpu);
    print(&format!("{}\n", serde_json::to_string(&result).map_err(failed)?))
}

/// Runs the sending side against this process, which reads as it reads from a server.
pub(super) fn measure(
    options: &CommonArgs,
    connections: usize,
    bytes: usize,
    rate: u64,
    seconds: f64,
) -> Result<BareResult, CliError> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["bench", "bare-send", &address.to_string()]);
    command.args(["--connections", &connections.to_string(), "--bytes", &bytes.to_string()]);
    command.args(["--rate", &rate.to_string(), "--seconds", &seconds.to_string()]);
    if let (Some(cpu), _) = options.cpus() {
        command.args(["--cpu", &cpu.to_string()]);
    }
    if let Some(congestion) = options.congestion() {
        command.args(["--congestion", congestion]);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let stdout = child.stdout.take().expect("it is piped");
    let read = read_everything(&listener, connections);
    if read.is_err() {
        // Else it would wait for a reader.
        let _ = child.kill();
    }
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
    child.wait().map_err(failed)?;
    read.map_err(failed)?;
    serde_json::from_str(&line).map_err(|_| failed("the bare loop did not finish"))
}

/// Accepts, and reads until everyone is gone.
fn read_everything(listener: &TcpListener, connections: usize) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut streams = Vec::with_capacity(connections);
    listener.set_nonblocking(false)?;
    for at in 0..connections {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(at), Interest::READABLE)?;
        streams.push(stream);
    }
    let (mut open, mut events) = (connections, Events::with_capacity(256));
    let mut scratch = vec![0; 256 * 1024];
    while open > 0 {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            loop {
                match streams[event.token().0].read(&mut scratch) {
                    Ok(0) => {
                        open -= 1;
                        poll.registry().deregister(&mut streams[event.token().0])?;
                        break;
                    }
                    // What is behind the end of the stream is another event.
                    Ok(n) if n < scratch.len() && !event.is_read_closed() => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(())
}
