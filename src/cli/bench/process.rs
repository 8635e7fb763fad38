//! CPU time and memory of a process, from `/proc` (proc(5)).

use std::fs;
use std::io;

/// What a process had of the CPU since it began, all threads together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CpuTime {
    /// Nanoseconds on a CPU.
    pub(super) used_ns: u64,
    /// Nanoseconds in which a thread could have run, but others did.
    pub(super) waited_ns: u64,
}

impl std::ops::Sub for CpuTime {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { used_ns: self.used_ns - earlier.used_ns, waited_ns: self.waited_ns - earlier.waited_ns }
    }
}

impl CpuTime {
    /// The share of `seconds` in which it had work, in percent: also where other processes took the CPU.
    pub(super) fn busy_percent(self, seconds: f64) -> f64 {
        (self.used_ns + self.waited_ns) as f64 / seconds / 1e7
    }
}

/// CPU time of a process. `schedstat` counts nanoseconds where `stat` counts ticks.
pub(super) fn cpu_time(pid: u32) -> io::Result<CpuTime> {
    let mut total = CpuTime::default();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the look.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let mut words = text.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(0));
        total.used_ns += words.next().unwrap_or(0);
        total.waited_ns += words.next().unwrap_or(0);
    }
    Ok(total)
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
    let status = fs::read_to_string("/proc/thread-self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.map(|list| list.trim().to_owned())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "status without Cpus_allowed_list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_has_used_time_and_memory() {
        let pid = std::process::id();
        let before = cpu_time(pid).expect("proc is mounted").used_ns;
        let mut sum = 0_u64;
        let until = std::time::Instant::now() + std::time::Duration::from_millis(50);
        while std::time::Instant::now() < until {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_time(pid).expect("proc is mounted").used_ns > before);
        let memory = memory(pid).expect("proc is mounted");
        assert!(kernel_memory().expect("proc is mounted") > 0);
        assert!(memory.anonymous > 0 && memory.rss >= memory.anonymous);
    }
}
