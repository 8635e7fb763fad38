//! Who was busy while it was measured: whether a run at saturation says something of the server, or of the load generator.

use std::fmt;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::failed;
use super::process::{self, CpuTime};
use super::server::Server;
use super::shape::Drive;
use crate::cli::CliError;

/// A run at saturation counts only while the server is so busy: else the generator is what was measured.
const SATURATED_PERCENT: f64 = 95.0;

/// Looks at both sides from its start to its stop.
pub(super) struct Watch {
    server: CpuTime,
    generator: CpuTime,
    start: Instant,
}

/// What both sides had of their CPUs.
pub(super) struct Spent {
    pub(super) seconds: f64,
    pub(super) server: CpuTime,
    pub(super) generator: CpuTime,
}

impl Watch {
    pub(super) fn start(server: &Server) -> Result<Self, CliError> {
        Ok(Self { server: server.cpu_time()?, generator: own_cpu_time()?, start: Instant::now() })
    }

    pub(super) fn stop(self, server: &Server) -> Result<Spent, CliError> {
        let seconds = self.start.elapsed().as_secs_f64();
        Ok(Spent { seconds, server: server.cpu_time()? - self.server, generator: own_cpu_time()? - self.generator })
    }
}

fn own_cpu_time() -> Result<CpuTime, CliError> {
    process::cpu_time(std::process::id()).map_err(failed)
}

/// How busy both sides were, as shares of the time. Part of a result: its fields stand among the others.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Saturation {
    /// The server's busiest thread: on its CPU, or waiting for it.
    pub(super) server_busy_percent: f64,
    /// All its threads, on a CPU: over 100 where there are several CPUs, less where other processes took them.
    pub(super) server_cpu_percent: f64,
    /// The load generator's one thread: on its CPU, or waiting for it.
    generator_busy_percent: f64,
    /// At saturation, if the server's process is known: whether it was the bottleneck, so that the figures are its own.
    pub(super) counts: Option<bool>,
}

impl Saturation {
    pub(super) fn of(spent: &Spent, server: &Server, drive: Drive) -> Result<Self, CliError> {
        let Spent { seconds, server: cpu, generator } = spent;
        let server_busy_percent = server.busy_percent(cpu, *seconds)?;
        let is_judged = drive.outstanding().is_some() && server.pid().is_some();
        Ok(Self {
            server_busy_percent,
            server_cpu_percent: cpu.cpu_percent(*seconds),
            generator_busy_percent: generator.busiest_percent(*seconds),
            counts: is_judged.then_some(server_busy_percent >= SATURATED_PERCENT),
        })
    }

    /// Behind the figures in one line.
    pub(super) fn remark(&self) -> &'static str {
        if self.counts == Some(false) { ", does not count" } else { "" }
    }
}

impl fmt::Display for Saturation {
    /// Lines of their own; that of the verdict only where there is one.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (server, generator) = (self.server_busy_percent, self.generator_busy_percent);
        write!(
            out,
            "  busy       the server's busiest thread {server:.1} % of the time (on its CPU, or waiting for it), all of them on a CPU \
             {:.1} %; the generator's {generator:.1} %",
            self.server_cpu_percent
        )?;
        let verdict = match self.counts {
            None => return Ok(()),
            Some(true) => "counts",
            Some(false) if generator >= SATURATED_PERCENT => "does not count: generator-bound",
            Some(false) => "does not count: neither was busy all the time",
        };
        write!(
            out,
            "\n  saturation {verdict} (the server's busiest thread has to be busy {SATURATED_PERCENT} % of the time)"
        )
    }
}
