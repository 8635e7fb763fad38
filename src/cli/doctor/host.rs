//! Reads a host through `/proc` and `/sys`, or through copies of them.

use std::fs;
use std::path::PathBuf;

use crate::config::CpuSet;

/// Numbers of `capabilities(7)`.
pub(super) const CAP_NET_ADMIN: u32 = 12;
pub(super) const CAP_IPC_LOCK: u32 = 14;
pub(super) const CAP_SYS_ADMIN: u32 = 21;

/// The host whose `/proc` and `/sys` stand below `root`. Nothing is ever written.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Host {
    root: PathBuf,
}

impl Host {
    pub(in crate::cli) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A file's text without blanks around it; `None` if it cannot be read. Bytes that are no text are replaced.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.root.join(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// A sysctl by its name.
    pub(super) fn sysctl(&self, name: &str) -> Option<String> {
        self.text(&format!("proc/sys/{}", name.replace('.', "/")))
    }

    pub(super) fn sysctl_number(&self, name: &str) -> Option<u64> {
        self.sysctl(name)?.parse().ok()
    }

    /// A file with a list of CPUs or nodes; empty if it is empty or not there.
    pub(super) fn list(&self, path: &str) -> Vec<usize> {
        parse_list(&self.text(path).unwrap_or_default())
    }

    /// The names in a directory, sorted; empty if it is not there.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        names
    }

    /// The choice in brackets, as in `always [madvise] never`.
    pub(super) fn choice(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let (_, rest) = text.split_once('[')?;
        rest.split_once(']').map(|(choice, _)| choice.to_owned())
    }

    /// A line of `NAME: VALUE` in a file such as `proc/meminfo`.
    pub(super) fn field(&self, path: &str, name: &str) -> Option<String> {
        let text = self.text(path)?;
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
    }

    /// A line of `/proc/meminfo`, in bytes.
    pub(super) fn memory(&self, name: &str) -> Option<u64> {
        let value = self.field("proc/meminfo", name)?;
        value.strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// This process's soft limit, `u64::MAX` if there is none.
    pub(in crate::cli) fn soft_limit(&self, name: &str) -> Option<u64> {
        let text = self.text("proc/self/limits")?;
        let values = text.lines().find_map(|line| line.strip_prefix(name))?;
        let soft = values.split_whitespace().next()?;
        if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
    }

    /// Whether this process has a capability.
    pub(super) fn is_capable(&self, capability: u32) -> bool {
        let mask = self.field("proc/self/status", "CapEff").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
        mask.is_some_and(|mask| mask >> capability & 1 == 1)
    }

    /// The CPUs that this process may run on.
    pub(in crate::cli) fn allowed_cpus(&self) -> Vec<usize> {
        parse_list(&self.field("proc/self/status", "Cpus_allowed_list").unwrap_or_default())
    }

    /// As many CPUs as this process may keep busy: by its affinity and its quota, at least one.
    pub(super) fn usable_cpus(&self) -> usize {
        let allowed = self.allowed_cpus().len().max(1);
        let quota = self.cpu_quota().map_or(allowed, |quota| quota.cpus() as usize);
        allowed.min(quota.max(1))
    }

    /// The narrowest quota of the process's cgroup and those above it.
    pub(super) fn cpu_quota(&self) -> Option<CpuQuota> {
        let quotas = self.cgroups("cpu").into_iter().filter_map(|directory| {
            let quota = if let Some(max) = self.text(&format!("{directory}/cpu.max")) {
                let (quota, period) = max.split_once(' ')?;
                CpuQuota { quota_us: quota.parse().ok()?, period_us: period.parse().ok()?, throttled: 0 }
            } else {
                let quota_us = self.number(&format!("{directory}/cpu.cfs_quota_us"))?;
                CpuQuota { quota_us, period_us: self.number(&format!("{directory}/cpu.cfs_period_us"))?, throttled: 0 }
            };
            let statistics = self.text(&format!("{directory}/cpu.stat")).unwrap_or_default();
            let throttled = statistics.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse().ok());
            (quota.period_us > 0).then_some(CpuQuota { throttled: throttled.unwrap_or(0), ..quota })
        });
        quotas.min_by(|a, b| a.cpus().total_cmp(&b.cpus()))
    }

    /// The narrowest memory limit of the process's cgroup and those above it, in bytes.
    pub(super) fn memory_limit(&self) -> Option<u64> {
        let limits = self.cgroups("memory").into_iter().filter_map(|directory| {
            let v2 = self.number(&format!("{directory}/memory.max"));
            v2.or_else(|| self.number(&format!("{directory}/memory.limit_in_bytes")))
        });
        // Version 1 says "none" by the largest multiple of a page.
        limits.min().filter(|&limit| limit < 1 << 62)
    }

    /// The directories of the process's cgroups that may carry `controller`, with those above them.
    fn cgroups(&self, controller: &str) -> Vec<String> {
        let membership = self.text("proc/self/cgroup").unwrap_or_default();
        let mut directories = Vec::new();
        for line in membership.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let mounts: &[&str] = match controllers {
                "" => &["sys/fs/cgroup", "sys/fs/cgroup/unified"],
                _ if controllers.split(',').any(|name| name == controller) => match controller {
                    "cpu" => &["sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"],
                    _ => &["sys/fs/cgroup/memory"],
                },
                _ => continue,
            };
            for mount in mounts {
                let mut path = path.trim_end_matches('/');
                loop {
                    directories.push(format!("{mount}{path}"));
                    let Some((above, _)) = path.rsplit_once('/') else { break };
                    path = above;
                }
            }
        }
        directories
    }
}

/// CPU time that a cgroup may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CpuQuota {
    quota_us: u64,
    pub(super) period_us: u64,
    /// How often the cgroup was made to wait for the next period.
    pub(super) throttled: u64,
}

impl CpuQuota {
    /// How many CPUs it keeps busy.
    pub(super) fn cpus(self) -> f64 {
        self.quota_us as f64 / self.period_us as f64
    }
}

/// `0-3,6`; empty if it is empty or no list.
fn parse_list(text: &str) -> Vec<usize> {
    text.parse::<CpuSet>().map(|set| set.as_slice().to_vec()).unwrap_or_default()
}

/// CPUs as the kernel lists them, for people.
pub(in crate::cli) fn shown_list(cpus: &[usize]) -> String {
    let list: Vec<_> = cpus.iter().map(usize::to_string).collect();
    // Runs are joined by the type that knows how.
    list.join(",").parse::<CpuSet>().map_or_else(|_| "none".to_owned(), |set| set.to_string())
}
