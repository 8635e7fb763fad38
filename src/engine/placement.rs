//! How many shards there are, and which CPUs they are pinned to.

use std::fmt;
use std::thread::available_parallelism;

use crate::config::{Config, Shards};
use crate::ids::ShardId;

/// Where the engine's threads run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The CPU of each shard; `None`: wherever the system puts it.
    shards: Vec<Option<usize>>,
    /// The CPU of the control thread; `None`: wherever the system puts it.
    control: Option<usize>,
}

impl Placement {
    /// What the configuration says; else one shard for each CPU that the process may use, by its affinity and its cgroup's
    /// quota.
    #[must_use]
    pub fn choose(config: &Config) -> Self {
        let allowed: Vec<usize> =
            core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
        let usable = available_parallelism().map_or(1, usize::from);
        Self::of(config, &allowed, usable)
    }

    /// The same for a process that may run on the CPUs `allowed`, and keep `usable` of them busy.
    #[must_use]
    pub fn of(config: &Config, allowed: &[usize], usable: usize) -> Self {
        let configured = config.cpus.as_ref().map(|cpus| cpus.as_slice());
        let cpus = configured.unwrap_or(allowed);
        let count = match config.shards {
            Shards::Count(count) => usize::from(count),
            Shards::Auto => configured.map_or(usable, <[usize]>::len).clamp(1, 256),
        };
        // Fewer CPUs than shards: the system spreads them better than a rule could. So it does with one shard.
        let pins = configured.is_some() || (count > 1 && count <= cpus.len());
        let shards: Vec<_> =
            (0..count).map(|shard| pins.then(|| cpus.get(shard % cpus.len().max(1)).copied()).flatten()).collect();
        let control = allowed.iter().copied().find(|cpu| pins && !shards.contains(&Some(*cpu)));
        Self { shards, control }
    }

    /// How many shards.
    #[must_use]
    pub fn shards(&self) -> u16 {
        u16::try_from(self.shards.len()).expect("at most 256")
    }

    /// The CPU that a shard is pinned to.
    #[must_use]
    pub fn cpu_of(&self, shard: ShardId) -> Option<usize> {
        self.shards[usize::from(shard.0)]
    }

    /// The CPU that the control thread is pinned to, if one was left.
    #[must_use]
    pub fn control_cpu(&self) -> Option<usize> {
        self.control
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.shards.len();
        write!(f, "{count} shard{}", if count == 1 { "" } else { "s" })?;
        let pinned: Vec<_> = self.shards.iter().flatten().map(usize::to_string).collect();
        if pinned.is_empty() {
            write!(f, " on any CPU")?;
        } else {
            write!(f, " on CPU{} {}", if pinned.len() == 1 { "" } else { "s" }, pinned.join(","))?;
        }
        match self.control {
            Some(cpu) => write!(f, ", control thread on CPU {cpu}"),
            None => write!(f, ", control thread on any CPU"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(shards: Shards, cpus: Option<&str>, allowed: &[usize], usable: usize) -> String {
        let cpus = cpus.map(|cpus| cpus.parse().expect("a list of CPUs"));
        Placement::of(&Config { shards, cpus, ..Config::default() }, allowed, usable).to_string()
    }

    #[test]
    fn there_is_a_shard_for_each_cpu_unless_the_configuration_says_otherwise() {
        let auto = Shards::Auto;
        assert_eq!(placed(auto, None, &[0, 1], 2), "2 shards on CPUs 0,1, control thread on any CPU");
        assert_eq!(
            placed(auto, None, &[2, 3, 5], 2),
            "2 shards on CPUs 2,3, control thread on CPU 5",
            "a quota of two"
        );
        assert_eq!(placed(auto, None, &[4], 1), "1 shard on any CPU, control thread on any CPU");
        assert_eq!(placed(auto, Some("1-2"), &[0, 1, 2], 3), "2 shards on CPUs 1,2, control thread on CPU 0");
        assert_eq!(placed(Shards::Count(1), Some("1"), &[0, 1], 2), "1 shard on CPU 1, control thread on CPU 0");
        assert_eq!(placed(Shards::Count(4), None, &[0, 1], 2), "4 shards on any CPU, control thread on any CPU");
    }
}
