//! The pace of a scenario: what its publishers publish, how fast, and for how long that is measured.

use std::time::Duration;

use clap::Args;

use super::load::{Load, Totals};
use super::saturation::{Spent, Watch};
use super::server::{Metrics, Server};
use super::shape::Drive;
use crate::cli::CliError;
use crate::cli::seconds::seconds;

/// What is published, and for how long.
#[derive(Debug, Args)]
pub(super) struct PaceArgs {
    /// Records a second, of all publishers together.
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "outstanding", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// As fast as it goes, with so many publishes of each publisher unacknowledged.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    outstanding: Option<u64>,
    /// State: so many keys take turns, the same for all publishers; 0: events.
    #[arg(long, value_name = "KEYS", default_value_t = 0)]
    pub(super) keyed: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 128)]
    pub(super) bytes: usize,
    /// Seconds that are measured.
    #[arg(long, default_value = "10", value_parser = seconds, allow_negative_numbers = true)]
    seconds: Duration,
    /// Seconds before, which are not.
    #[arg(long, default_value = "2", value_parser = seconds, allow_negative_numbers = true)]
    warm_up: Duration,
}

/// What happened while it was measured.
pub(super) struct Measured {
    /// How long, and of the CPUs.
    pub(super) spent: Spent,
    /// Of all subscribers.
    pub(super) totals: Totals,
    /// Publishes.
    pub(super) acknowledged: u64,
    /// The server's, before and after.
    pub(super) metrics: (Metrics, Metrics),
}

impl PaceArgs {
    /// What was asked for; else `default`.
    pub(super) fn drive(&self, default: Drive) -> Drive {
        self.rate.map(Drive::Rate).or(self.outstanding.map(Drive::Outstanding)).unwrap_or(default)
    }

    /// Warms up, measures, and has everyone brought to the head.
    pub(super) fn measure(&self, load: &mut Load, server: &Server, drive: Drive) -> Result<Measured, CliError> {
        load.run_for(self.warm_up, drive)?;
        let (totals, acknowledged, before) = (load.totals(), load.acknowledged(), server.metrics()?);
        let watch = Watch::start(server)?;
        load.observations.is_measuring = true;
        load.run_for(self.seconds, drive)?;
        load.observations.is_measuring = false;
        let spent = watch.stop(server)?;
        let (totals, acknowledged) = (load.totals() - totals, load.acknowledged() - acknowledged);
        let metrics = (before, server.metrics()?);
        load.drain()?;
        Ok(Measured { spent, totals, acknowledged, metrics })
    }
}

impl Measured {
    /// By how much a counter of the server grew.
    pub(super) fn growth(&self, name: &str) -> u64 {
        let (before, after) = &self.metrics;
        (after.sum(name, "") - before.sum(name, "")) as u64
    }

    /// ... on each shard.
    pub(super) fn growth_by_shard(&self, name: &str, shards: u32) -> Vec<u64> {
        let (before, after) = &self.metrics;
        let (before, after) = (before.by_shard(name, shards), after.by_shard(name, shards));
        after.iter().zip(before).map(|(after, before)| after - before).collect()
    }
}
