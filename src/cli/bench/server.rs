//! The server under measurement: a child process, or one that runs elsewhere.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::failed;
use super::options::{CommonArgs, Cpus};
use super::process::{self, CpuTime};
use crate::cli::{CliError, Exit};
use crate::kernel;

/// How long the admin port may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take to end.
const PATIENCE_AT_END: Duration = Duration::from_secs(60);

/// The server.
pub(super) struct Server {
    child: Option<Child>,
    pid: Option<u32>,
    pub(super) address: SocketAddr,
    /// Peers have none.
    admin: Option<SocketAddr>,
    /// Where it runs, if it was started here, and where the generator is to run.
    pub(super) cpus: Cpus,
}

impl Server {
    /// Starts one, or finds the one at `--url`.
    pub(super) fn start(options: &CommonArgs, cpus: Cpus) -> Result<Self, CliError> {
        let list = cpus.server.map(|cpu| cpu.to_string());
        Self::start_with(options, cpus, 1, list.as_deref())
    }

    /// ... with so many shards, on these CPUs.
    pub(super) fn start_with(
        options: &CommonArgs,
        cpus: Cpus,
        shards: u32,
        list: Option<&str>,
    ) -> Result<Self, CliError> {
        if let Some(address) = options.address()? {
            return Ok(Self { child: None, pid: options.pid, address, admin: options.admin, cpus });
        }
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--shards", &shards.to_string()]);
        if let Some(list) = list {
            command.args(["--cpus", list]);
        }
        if let Some(congestion) = options.congestion() {
            command.env("TIDEGATE_CONGESTION", congestion);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let stdout = child.stdout.take().expect("it is piped");
        let mut said = BufReader::new(stdout).lines();
        let mut address_behind = |label: &str| said.next()?.ok()?.strip_prefix(label)?.parse().ok();
        let (address, admin) = (address_behind("listening on "), address_behind("admin port on "));
        // It is ended, should it not say where it is.
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut server = Self { pid: Some(child.id()), child: Some(child), address: nowhere, admin, cpus };
        match address.filter(|_| admin.is_some()) {
            Some(address) => server.address = address,
            None => return Err(server.did_not_start()),
        }
        Ok(server)
    }

    /// Why the server that was started here says nothing: it ends, by itself or now.
    fn did_not_start(&mut self) -> CliError {
        let ended = self.child.take().and_then(|mut child| child.wait().ok());
        match ended.and_then(|status| Exit::of_code(status.code()?)) {
            // It has said why, on the standard error that is ours, too.
            Some(exit) if exit != Exit::Success => CliError::quiet(exit),
            _ => failed("the server did not start"),
        }
    }

    /// Ends the server that was started here, in an orderly way: it says by its exit code whether it gave back everything that
    /// it held. Whoever is connected is sent away.
    ///
    /// # Errors
    /// If something was still held, or it does not end.
    pub(super) fn end(mut self) -> Result<(), CliError> {
        let Some(child) = &mut self.child else { return Ok(()) };
        kernel::terminate(child).map_err(|error| failed(format!("the server cannot be told to end: {error}")))?;
        let deadline = Instant::now() + PATIENCE_AT_END;
        let status = loop {
            match child.try_wait().map_err(failed)? {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    return Err(failed(format!("the server did not end within {} s", PATIENCE_AT_END.as_secs())));
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        self.child = None;
        // What was held it says itself, on standard error.
        match status.code().and_then(Exit::of_code) {
            Some(Exit::Success) => Ok(()),
            exit => Err(CliError::new(
                exit.unwrap_or(Exit::Failure),
                format!("the server did not end in an orderly way: {status}"),
            )),
        }
    }

    /// The server's process, if it is known.
    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// CPU time; 0 if the process is not known.
    pub(super) fn cpu_time(&self) -> Result<CpuTime, CliError> {
        let unknown = Ok(CpuTime::default());
        self.pid
            .map_or(unknown, |pid| process::cpu_time(pid).map_err(|error| failed(format!("process {pid}: {error}"))))
    }

    /// The share of `seconds` in which it had work, in percent: its busiest thread's ([`CpuTime::busiest_percent`]). Where all threads
    /// have but one CPU, that of the CPU, if it is more: some runtimes move their work from thread to thread.
    pub(super) fn busy_percent(&self, spent: &CpuTime, seconds: f64) -> Result<f64, CliError> {
        let busiest = spent.busiest_percent(seconds);
        let Some(pid) = self.pid else { return Ok(busiest) };
        let has_one = process::has_one_cpu(pid).map_err(|error| failed(format!("process {pid}: {error}")))?;
        Ok(if has_one { busiest.max(spent.cpu_percent(seconds)) } else { busiest })
    }

    /// Memory; zero if the process is not known.
    pub(super) fn memory(&self) -> Result<process::Memory, CliError> {
        let unknown = Ok(process::Memory::default());
        self.pid.map_or(unknown, |pid| process::memory(pid).map_err(|error| failed(format!("process {pid}: {error}"))))
    }

    /// What `/metrics` says; nothing, if there is no admin port.
    pub(super) fn metrics(&self) -> Result<Metrics, CliError> {
        let Some(admin) = self.admin else { return Ok(Metrics(String::new())) };
        let read = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&admin, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = read().map_err(|error| {
            CliError::new(Exit::NoServer, format!("the admin port at {admin} does not answer: {error}"))
        })?;
        if !text.starts_with("HTTP/1.1 200 ") {
            return Err(CliError::new(
                Exit::NoServer,
                format!("what answers at {admin} is no admin port: it has no metrics"),
            ));
        }
        Ok(Metrics(text))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Gone already, at worst.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One look at `/metrics`.
pub(super) struct Metrics(String);

impl Metrics {
    /// The sum of a metric's series that have `label` (all, if it is empty).
    pub(super) fn sum(&self, name: &str, label: &str) -> f64 {
        let series = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let is_ours = (labels.is_empty() || labels.starts_with('{')) && labels.contains(label);
            is_ours.then(|| value.parse::<f64>().ok())?
        });
        series.sum()
    }

    /// The values of a metric, by shard.
    pub(super) fn by_shard(&self, name: &str, shards: u32) -> Vec<u64> {
        (0..shards).map(|shard| self.sum(name, &format!("shard=\"{shard}\"")) as u64).collect()
    }

    /// Records that had this outcome.
    pub(super) fn records(&self, outcome: &str) -> u64 {
        self.sum("tidegate_records_total", &format!("outcome=\"{outcome}\"")) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_label_and_names_are_whole() {
        let text = "# TYPE a counter\na_total{class=\"x\",shard=\"0\"} 3\na_total{class=\"y\",shard=\"0\"} 4\na_total_more 9\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!((metrics.sum("a_total", ""), metrics.sum("a_total", "class=\"y\"")), (7.0, 4.0));
    }
}
