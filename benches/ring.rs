//! The ring of the data path beside tokio-uring, as `docs/decisions/0001` compares them: 64 bytes there and back over loopback, by a
//! hundred clients that wait for their echo, alone and with idle connections beside them.
//!
//! `cargo bench --bench ring`. Each server is a process of its own on the first CPU, the clients are on the last. What is
//! measured is not the time that passes but the server's time on its CPU (`schedstat`), kernel included, for each echo. The memory
//! of an idle connection (anonymous pages of the server) goes to standard error.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion};
use tidegate::kernel::{Completion, Kernel, ListenOptions, Ring, RingConfig, Wait, listen};
use tokio_uring::buf::BoundedBuf;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Names the server that this process is to be.
const SERVER: &str = "BENCH_RING_SERVER";
const SERVERS: [&str; 2] = ["tidegate's ring", "tokio-uring"];
const CLIENTS: usize = 100;
const IDLE: [usize; 2] = [0, 9_000];
const ECHO_BYTES: usize = 64;
/// What a read of either server takes at most.
const BUFFER_BYTES: usize = 1_024;
/// Descriptors that are not connections.
const OTHER_DESCRIPTORS: usize = 500;

fn main() {
    if let Ok(which) = std::env::var(SERVER) {
        return serve(&which);
    }
    pin(true);
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    echo(&mut criterion);
    criterion.final_summary();
}

fn echo(criterion: &mut Criterion) {
    let idle = IDLE.map(|idle| idle.min(descriptors().saturating_sub(OTHER_DESCRIPTORS)));
    for idle in idle {
        let mut group = criterion.benchmark_group(format!("CPU per echo, {idle} idle connections"));
        for which in SERVERS {
            let mut server = None;
            group.bench_function(BenchmarkId::from_parameter(which), |bencher| {
                let server = server.get_or_insert_with(|| Server::start(which, idle));
                bencher.iter_custom(|echoes| server.cpu_of_echoes(echoes));
            });
        }
        group.finish();
    }
}

/// A server under measurement, and its clients.
struct Server {
    child: Child,
    clients: Vec<TcpStream>,
    _idle: Vec<TcpStream>,
}

impl Server {
    fn start(which: &str, idle: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .env(SERVER, which)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts again");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("the server's address");
        let address: SocketAddr = line.trim_end().parse().expect("the server's address");
        let clients = (0..CLIENTS).map(|_| connect(address)).collect();
        let mut server = Self { child, clients, _idle: Vec::new() };
        server.echo_all();
        let before = server.memory();
        server._idle = (0..idle).map(|_| connect(address)).collect();
        // Whoever is answered now came after all of them were accepted.
        server.echo_all();
        connect_and_echo(address);
        if idle > 0 {
            let bytes = (server.memory() as f64 - before as f64) / idle as f64;
            eprintln!("{which}: {bytes:.0} bytes of memory for each of {idle} idle connections");
        }
        server
    }

    /// At least so many echoes; the server's CPU time, as if it had been exactly so many.
    fn cpu_of_echoes(&mut self, echoes: u64) -> Duration {
        let rounds = echoes.div_ceil(CLIENTS as u64);
        let before = self.cpu_ns();
        for _ in 0..rounds {
            self.echo_all();
        }
        let spent = (self.cpu_ns() - before) as f64;
        Duration::from_nanos((spent * echoes as f64 / (rounds * CLIENTS as u64) as f64) as u64)
    }

    fn echo_all(&mut self) {
        for client in &mut self.clients {
            client.write_all(&[7; ECHO_BYTES]).expect("the server takes it");
        }
        for client in &mut self.clients {
            client.read_exact(&mut [0; ECHO_BYTES]).expect("the server answers");
        }
    }

    /// Of all its threads.
    fn cpu_ns(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let of_task = |path: std::path::PathBuf| -> Option<u64> {
            fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
        };
        tasks.filter_map(|task| of_task(task.ok()?.path())).sum()
    }

    /// Anonymous pages.
    fn memory(&self) -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).expect("it runs");
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("proc(5)");
        line.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).expect("proc(5)") * 1_024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already, at worst.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_nodelay(true).expect("TCP");
    stream
}

fn connect_and_echo(address: SocketAddr) {
    let mut stream = connect(address);
    stream.write_all(&[7; ECHO_BYTES]).expect("the server takes it");
    stream.read_exact(&mut [0; ECHO_BYTES]).expect("the server answers");
}

/// How many this process, and so its child, may have open.
fn descriptors() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").expect("proc(5)");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("proc(5)");
    line.split_whitespace().next().and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX)
}

/// Servers have the first CPU, clients the last.
fn pin(is_client: bool) {
    let cpus = core_affinity::get_core_ids().unwrap_or_default();
    let cpu = if is_client { cpus.last() } else { cpus.first() };
    if let Some(cpu) = cpu.filter(|_| cpus.len() > 1) {
        core_affinity::set_for_current(*cpu);
    }
}

// -- the servers ---------------------------------------------------------------------------------------------------------

fn serve(which: &str) {
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), ListenOptions::default()).expect("a port");
    println!("{}", listener.local_addr().expect("it is bound"));
    match which {
        "tokio-uring" => echo_on_tokio_uring(listener),
        _ => echo_on_ring(listener),
    }
}

fn echo_on_ring(listener: TcpListener) {
    let config = RingConfig { buffer_bytes: BUFFER_BYTES as u32, max_sockets: 100_000, ..RingConfig::default() };
    let mut ring = Ring::new(config, listener).expect("io_uring");
    loop {
        ring.enter(Wait::Forever).expect("the ring works");
        while let Some(completion) = ring.completion() {
            match completion {
                Completion::Received { socket, received } => {
                    let bytes = Bytes::copy_from_slice(ring.bytes(&received));
                    ring.release(received);
                    ring.send(socket, &[bytes]);
                }
                Completion::Ended { socket, .. } => ring.close(socket),
                _ => {}
            }
        }
    }
}

fn echo_on_tokio_uring(listener: TcpListener) {
    tokio_uring::builder().entries(1_024).start(async {
        let listener = tokio_uring::net::TcpListener::from_std(listener);
        loop {
            let (stream, _) = listener.accept().await.expect("there are descriptors");
            tokio_uring::spawn(async move {
                let mut buffer = vec![0; BUFFER_BYTES];
                loop {
                    let (read, filled) = stream.read(buffer).await;
                    let Ok(bytes @ 1..) = read else { break };
                    let (written, slice) = stream.write_all(filled.slice(..bytes)).await;
                    if written.is_err() {
                        break;
                    }
                    buffer = slice.into_inner();
                }
            });
        }
    });
}
