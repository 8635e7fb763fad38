//! CPU time and memory of a process, from `/proc` (proc(5)).

use std::collections::BTreeMap;
use std::fs;
use std::io;

/// What each thread of a process had of the CPU since it began.
#[derive(Clone, Debug, Default)]
pub(super) struct CpuTime(BTreeMap<u32, ThreadTime>);

#[derive(Clone, Copy, Debug, Default)]
struct ThreadTime {
    /// Nanoseconds on a CPU.
    used_ns: u64,
    /// Nanoseconds in which it could have run, but others did.
    waited_ns: u64,
}

impl std::ops::Sub for CpuTime {
    type Output = Self;

    /// What the threads that are still there had since `earlier`.
    fn sub(self, earlier: Self) -> Self {
        let since = |(id, now): (u32, ThreadTime)| {
            let before = earlier.0.get(&id).copied().unwrap_or_default();
            let used_ns = now.used_ns.saturating_sub(before.used_ns);
            (id, ThreadTime { used_ns, waited_ns: now.waited_ns.saturating_sub(before.waited_ns) })
        };
        Self(self.0.into_iter().map(since).collect())
    }
}

impl CpuTime {
    /// Nanoseconds on a CPU, all threads together.
    pub(super) fn used_ns(&self) -> u64 {
        self.0.values().map(|thread| thread.used_ns).sum()
    }

    /// The share of `seconds` that all threads together were on a CPU, in percent of one.
    pub(super) fn cpu_percent(&self, seconds: f64) -> f64 {
        self.used_ns() as f64 / seconds / 1e7
    }

    /// The share of `seconds` in which the busiest thread had work, in percent: it was on its CPU, or waiting for it while other
    /// processes, or other threads of its own, were there.
    pub(super) fn busiest_percent(&self, seconds: f64) -> f64 {
        let busiest = self.0.values().map(|thread| thread.used_ns + thread.waited_ns).max();
        busiest.unwrap_or(0) as f64 / seconds / 1e7
    }
}

/// CPU time of a process. `schedstat` counts nanoseconds where `stat` counts ticks.
pub(super) fn cpu_time(pid: u32) -> io::Result<CpuTime> {
    let mut threads = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        let id = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        // A thread may end between the listing and the look.
        let (Some(id), Ok(text)) = (id, fs::read_to_string(path.join("schedstat"))) else { continue };
        let mut words = text.split_whitespace().map(|word| word.parse().unwrap_or(0));
        let (used_ns, waited_ns) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
        threads.insert(id, ThreadTime { used_ns, waited_ns });
    }
    Ok(CpuTime(threads))
}

/// What a process occupies in user space, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// Resident set.
    pub(super) rss: u64,
    /// Its share of anonymous pages: heap and stacks, without the program's text.
    pub(super) anonymous: u64,
}

/// Memory of a process now.
pub(super) fn memory(pid: u32) -> io::Result<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let bytes = |name: &str| {
        let line = rollup.lines().find(|line| line.split(':').next() == Some(name));
        line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kb| kb.parse::<u64>().ok()).map(|kb| kb * 1024)
    };
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "smaps_rollup without Rss");
    let rss = bytes("Rss").ok_or_else(missing)?;
    Ok(Memory { rss, anonymous: bytes("Pss_Anon").or_else(|| bytes("Anonymous")).unwrap_or(rss) })
}

/// What the kernel's slabs occupy in the whole system, in bytes: sockets and all that belongs to them.
pub(super) fn kernel_memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:"));
    let kb = line.and_then(|rest| rest.split_whitespace().next()).and_then(|kb| kb.parse::<u64>().ok());
    kb.map(|kb| kb * 1024).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "meminfo without Slab"))
}

/// Where this thread may run, as the system lists it ("0-3").
pub(super) fn allowed_cpus() -> io::Result<String> {
    allowed_cpus_of("thread-self")
}

/// Whether a process has one CPU for all its threads.
pub(super) fn has_one_cpu(pid: u32) -> io::Result<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let id = task?.file_name();
        if allowed_cpus_of(&format!("{pid}/task/{}", id.to_string_lossy()))
            .is_ok_and(|list| list.parse::<usize>().is_err())
        {
            return Ok(false);
        }
    }
    Ok(true)
}

fn allowed_cpus_of(task: &str) -> io::Result<String> {
    let status = fs::read_to_string(format!("/proc/{task}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.map(|list| list.trim().to_owned())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "status without Cpus_allowed_list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_as_busy_as_its_busiest_thread() {
        let time = |threads: &[(u32, u64, u64)]| {
            CpuTime(
                threads
                    .iter()
                    .map(|(id, used_ns, waited_ns)| (*id, ThreadTime { used_ns: *used_ns, waited_ns: *waited_ns }))
                    .collect(),
            )
        };
        let second = 1_000_000_000;
        let before = time(&[(1, 5 * second, 0), (2, 0, 0), (3, second, second)]);
        // Two at work half of the time each, and each waiting for the other meanwhile; one began, one ended.
        let after = time(&[(1, 5 * second + second / 2, second / 4), (2, second / 2, second / 4), (4, second / 10, 0)]);
        let spent = after - before;
        assert_eq!(spent.used_ns(), second + second / 10);
        assert!((spent.busiest_percent(1.0) - 75.0).abs() < 1e-9, "not 160: {spent:?}");
        assert!((spent.cpu_percent(1.0) - 110.0).abs() < 1e-9);
    }

    #[test]
    fn our_own_process_has_used_time_and_memory() {
        let pid = std::process::id();
        let before = cpu_time(pid).expect("proc is mounted").used_ns();
        let mut sum = 0_u64;
        let until = std::time::Instant::now() + std::time::Duration::from_millis(50);
        while std::time::Instant::now() < until {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_time(pid).expect("proc is mounted").used_ns() > before);
        let memory = memory(pid).expect("proc is mounted");
        assert!(kernel_memory().expect("proc is mounted") > 0);
        assert!(memory.anonymous > 0 && memory.rss >= memory.anonymous);
    }
}
