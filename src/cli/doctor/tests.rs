//! A fake host in a temporary directory: well in every respect, until a test changes a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::finding::Verdict::{self, Advice, Fatal, Fine, Note};
use super::*;
use crate::config::{Flag, Idle, Shards};

/// A host of four CPUs on which a shard pinned to CPU 1 and one pinned to CPU 2 have nothing to complain about.
const GOOD: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.12.1-amd64\n"),
    ("proc/sys/kernel/io_uring_disabled", "0\n"),
    ("proc/sys/kernel/io_uring_group", "-1\n"),
    (
        "proc/self/status",
        "Name:\ttidegate\nGid:\t991\t991\t991\t991\nGroups:\t991 27 \nCapEff:\t0000000000000000\nSeccomp:\t0\nCpus_allowed_list:\t0-3\n",
    ),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max open files            1048576              1048576              files     \n\
         Max locked memory         8388608              8388608              bytes     \n",
    ),
    ("proc/self/cgroup", "0::/system.slice/tidegate.service\n"),
    ("sys/fs/cgroup/system.slice/tidegate.service/cpu.max", "max 100000\n"),
    ("sys/fs/cgroup/system.slice/tidegate.service/memory.max", "max\n"),
    ("proc/sys/fs/file-max", "9223372036854775807\n"),
    ("proc/sys/fs/nr_open", "1048576\n"),
    ("proc/sys/net/core/somaxconn", "4096\n"),
    ("sys/devices/system/cpu/online", "0-3\n"),
    ("sys/devices/system/cpu/isolated", "\n"),
    ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0\n"),
    ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1\n"),
    ("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2\n"),
    ("sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "3\n"),
    ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance\n"),
    ("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "performance\n"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
    ("sys/devices/system/node/online", "0\n"),
    ("sys/devices/system/node/node0/cpulist", "0-3\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu tsc\n"),
    ("proc/stat", "cpu  1000 0 500 8000 10 0 20 5 0 0\ncpu0 1 2 3\n"),
    (
        "proc/meminfo",
        "MemTotal:  32000000 kB\nMemAvailable:  30000000 kB\nHugePages_Total:       0\nHugePages_Free:        0\n",
    ),
    (
        "proc/interrupts",
        "           CPU0       CPU1       CPU2       CPU3\n\
         \x20 9:          0          0          0          0   IO-APIC   9-fasteoi   acpi\n\
         \x2030:        700          0          0          0   PCI-MSI  0-edge      nvme0q1\n\
         \x2031:          0          0          0       9000   PCI-MSI  1-edge      eth0-rx-0\n\
         LOC:        100        100        100        100   Local timer interrupts\n",
    ),
    ("proc/irq/9/smp_affinity_list", "0-3\n"),
    ("proc/irq/30/smp_affinity_list", "0-3\n"),
    ("proc/irq/30/effective_affinity_list", "0\n"),
    ("proc/irq/31/smp_affinity_list", "3\n"),
    ("proc/irq/31/effective_affinity_list", "\n"),
    ("sys/class/net/eth0/device/numa_node", "0\n"),
    ("sys/class/net/eth0/device/msi_irqs/31", "msix\n"),
    ("proc/77/comm", "sshd\n"),
    ("proc/sys/net/ipv4/tcp_congestion_control", "cubic\n"),
    ("proc/sys/net/ipv4/tcp_available_congestion_control", "reno cubic bbr\n"),
    ("proc/sys/net/ipv4/tcp_allowed_congestion_control", "reno cubic\n"),
    ("proc/sys/net/ipv4/tcp_migrate_req", "1\n"),
    ("proc/sys/net/ipv4/tcp_notsent_lowat", "4294967295\n"),
    ("proc/sys/net/ipv4/tcp_tw_reuse", "2\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("proc/sys/net/ipv4/ip_local_reserved_ports", "\n"),
];

/// A directory that is removed in the end.
struct Fake(PathBuf);

impl Fake {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("tidegate-doctor-{}-{count}", std::process::id()));
        let fake = Self(root);
        for (path, text) in GOOD {
            fake.set(path, text);
        }
        fake
    }

    fn set(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("the temporary directory is writable");
        fs::write(path, text).expect("the temporary directory is writable");
    }

    fn replace(&self, path: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.0.join(path)).expect("it is there");
        assert!(text.contains(from), "{path} lacks {from}");
        self.set(path, &text.replace(from, to));
    }

    fn diagnosis(&self, settings: &[(&'static str, &str)], ring: Option<Result<(), String>>) -> Diagnosis {
        let settings = [("shards", "auto"), ("cpus", "1-2"), ("limits.connections", "500000")].iter().chain(settings);
        let mut flags: Vec<Flag> = Vec::new();
        for &(key, value) in settings {
            flags.retain(|flag| flag.key != key);
            flags.push(Flag { flag: key, key, value: value.to_owned() });
        }
        let config = Config::from_sources(None::<(&Path, &str)>, [], &flags).expect("valid settings");
        let host = Host::new(&self.0);
        examine(&host, &Plan::new(&host, config, ring))
    }

    /// The one finding that is not fine.
    fn only(&self, settings: &[(&'static str, &str)]) -> Finding {
        let diagnosis = self.diagnosis(settings, Some(Ok(())));
        let mut findings = diagnosis.findings.into_iter().filter(|finding| finding.verdict != Fine);
        let finding = findings.next().expect("something is not fine");
        let others: Vec<_> = findings.collect();
        assert!(others.is_empty(), "beside {finding:?}: {others:?}");
        finding
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // Left behind at worst.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One row a line: a file, and what it says instead; the subject that is not fine then, and its verdict; a part of what was found,
/// and a part of what to do.
const PROVOKED: &str = r"
proc/sys/kernel/osrelease | 5.15.0-generic | kernel | fatal | 5.15 | newer kernel
proc/sys/kernel/osrelease | 6.0.19 | kernel | fatal | 6.0 | 6.1
proc/sys/kernel/io_uring_disabled | 2 | io_uring_disabled | fatal | nobody | sysctl kernel.io_uring_disabled=0
proc/sys/kernel/io_uring_disabled | 1 | io_uring_disabled | fatal | not in it | io_uring_group
proc/sys/fs/nr_open | 100000 | file-max | advice | 100000 for one | fs.nr_open
proc/sys/fs/file-max | 90000 | file-max | advice | 90000 for all | fs.file-max
proc/sys/net/core/somaxconn | 128 | somaxconn | advice | 128 | net.core.somaxconn=4096
sys/fs/cgroup/system.slice/tidegate.service/cpu.max | 150000 100000 | CPU quota | advice | 1.50 CPUs | AllowedCPUs
sys/fs/cgroup/system.slice/cpu.max | 50000 100000 | CPU quota | advice | 0.50 CPUs | cpuset-cpus
sys/fs/cgroup/cpu.max | 400000 100000 | CPU quota | note | 4.00 CPUs | AllowedCPUs
sys/devices/system/cpu/cpu2/topology/thread_siblings_list | 1-2 | SMT siblings | advice | 1 of 2 | --cpus 1
sys/devices/system/cpu/isolated | 2-3 | isolated CPUs | advice | pinned to 3 | --cpus 2-3
sys/devices/system/cpu/cpu2/cpufreq/scaling_governor | powersave | governor | advice | powersave on CPU 2 | cpupower
sys/devices/system/clocksource/clocksource0/current_clocksource | hpet | clock source | advice | hpet | available_clocksource
proc/cpuinfo | flags\t\t: fpu hypervisor tsc | virtualisation | note | guest | dedicated
proc/stat | cpu  1000 0 500 8000 10 0 20 500 0 0 | steal | advice | 5.0 % | dedicated
proc/irq/30/effective_affinity_list | 2 | interrupts | advice | 1 of 2 in use are misplaced: 30 | tuning/isolate --cpus 1-2`
proc/irq/31/smp_affinity_list | 0-3 | interrupts | advice | 31 | tuning/isolate
proc/88/comm | irqbalance | irqbalance | advice | runs | IRQBALANCE_BANNED_CPULIST=1-2
sys/kernel/mm/transparent_hugepage/enabled | [always] madvise never | THP | note | always | echo madvise
proc/meminfo | MemAvailable: 30000000 kB\nHugePages_Total: 64\nHugePages_Free: 60\n | huge pages | note | 64 reserved, 60 | nr_hugepages
proc/meminfo | MemAvailable: 1000000 kB\n | memory | advice | 976 MiB (available) | connections
sys/fs/cgroup/system.slice/memory.max | 1073741824 | memory | advice | 1024 MiB (the cgroup's limit) | MemoryMax
proc/sys/net/ipv4/tcp_migrate_req | 0 | tcp_migrate_req | advice | 2 listeners | tcp_migrate_req=1
proc/sys/net/ipv4/ip_local_port_range | 1024 65535 | local ports | advice | 8433 | ip_local_reserved_ports=8433
proc/sys/net/ipv4/ip_local_port_range | 50000 60999 | local ports | note | 11000 connections | ip_local_port_range
proc/sys/fs/nr_open | 500255 | file-max | advice | 500255 for one | at least 500256
proc/sys/net/core/somaxconn | 4095 | somaxconn | advice | 4095 | net.core.somaxconn=4096
proc/stat | cpu  1000 0 500 8000 10 0 20 107 0 0 | steal | advice | 1.1 % | at most 1 %
proc/sys/net/ipv4/ip_local_port_range | 1024 8433 | local ports | advice | port 8433 is one of them | ip_local_reserved_ports=8433
proc/sys/net/ipv4/ip_local_port_range | 8433 60999 | local ports | advice | port 8433 is one of them | ip_local_reserved_ports=8433
proc/sys/net/ipv4/ip_local_port_range | 33001 60999 | local ports | note | 27999 connections | ip_local_port_range
proc/meminfo | MemAvailable: 2197265 kB\n | memory | advice | 2145 MiB (available) | 2145 MiB
sys/devices/system/clocksource/clocksource0/current_clocksource | acpi_pm | clock source | advice | acpi_pm | kvm-clock
";

/// A file, and what it says instead, which is just enough, or concerns no shard.
const ENOUGH: &str = r"
sys/class/net/eth0/device/numa_node | -1
proc/sys/kernel/osrelease | 6.1.0-13-amd64
proc/sys/fs/nr_open | 500256
proc/sys/fs/file-max | 500256
sys/fs/cgroup/system.slice/tidegate.service/memory.max | 2250000000
proc/meminfo | MemAvailable: 2197266 kB\n
proc/stat | cpu  1000 0 500 8000 10 0 20 87 0 0
proc/sys/net/ipv4/ip_local_port_range | 33000 60999
sys/devices/system/clocksource/clocksource0/current_clocksource | kvm-clock
sys/devices/system/clocksource/clocksource0/current_clocksource | arch_sys_counter
sys/devices/system/clocksource/clocksource0/current_clocksource | hyperv_clocksource_tsc_page
sys/kernel/mm/transparent_hugepage/enabled | always madvise [never]
sys/devices/system/cpu/cpu3/cpufreq/scaling_governor | powersave
sys/devices/system/cpu/cpu3/topology/thread_siblings_list | 2-3
proc/irq/9/effective_affinity_list | 1
proc/self/comm | irqbalance
proc/cpuinfo | model name\t: hypervisor\nflags\t\t: fpu tsc
sys/fs/cgroup/user.slice/cpu.max | 50000 100000
";

/// The columns of each row, with `\n` and `\t` for what they stand for.
fn rows<const COLUMNS: usize>(table: &str) -> Vec<[String; COLUMNS]> {
    let columns = |row: &str| -> Vec<String> {
        row.split(" | ").map(|column| column.replace("\\n", "\n").replace("\\t", "\t")).collect()
    };
    table
        .trim()
        .lines()
        .map(|row| columns(row).try_into().unwrap_or_else(|_| panic!("not {COLUMNS} columns: {row}")))
        .collect()
}

const NO_IO_URING: Verdict = Fatal(Exit::NoIoUring);

#[test]
fn a_well_set_up_host_has_nothing_to_be_told() {
    let diagnosis = Fake::new().diagnosis(&[], Some(Ok(())));
    let complaints: Vec<_> = diagnosis.findings.iter().filter(|finding| finding.verdict != Fine).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert_eq!(diagnosis.findings.len(), CHECKS.len());
    assert_eq!(diagnosis.exit(), Exit::Success);
    assert_eq!(diagnosis.placement, "2 shards on CPUs 1,2, control thread on CPU 0");
    let mut subjects: Vec<_> = diagnosis.findings.iter().map(|finding| finding.subject).collect();
    subjects.sort_unstable();
    subjects.dedup();
    assert_eq!(subjects.len(), CHECKS.len(), "each has a name of its own");
}

#[test]
fn each_thing_that_is_wrong_is_found_and_nothing_else() {
    for [path, text, subject, verdict, found, how] in rows(PROVOKED) {
        let fake = Fake::new();
        fake.set(&path, &text);
        let finding = fake.only(&[]);
        assert_eq!((finding.subject, finding.verdict.name()), (&*subject, &*verdict), "{path}: {text}");
        assert!(finding.found.contains(&found), "{found} in {}", finding.found);
        assert!(format!("{} {}", finding.advised, finding.how).contains(&how), "{how} in {finding:?}");
        assert!(!finding.advised.is_empty() && !finding.why.is_empty());
        if finding.verdict.name() == "fatal" {
            assert_eq!(finding.verdict, NO_IO_URING, "{path}: {text}");
        }
    }
}

#[test]
fn what_is_just_enough_is_fine() {
    for [path, text] in rows(ENOUGH) {
        let fake = Fake::new();
        fake.set(&path, &text);
        let diagnosis = fake.diagnosis(&[], Some(Ok(())));
        let complaints: Vec<_> = diagnosis.findings.iter().filter(|finding| finding.verdict != Fine).collect();
        assert!(complaints.is_empty(), "{path}: {text}: {complaints:#?}");
    }
}

#[test]
fn locked_memory_is_enough_from_so_many_bytes_on() {
    // Two shards take 352 KiB each, the control thread 64; twice that leaves room for a restart.
    for (bytes, verdict) in [(786_431, NO_IO_URING), (786_432, Advice), (1_572_863, Advice), (1_572_864, Fine)] {
        let fake = Fake::new();
        fake.replace("proc/self/limits", "8388608              8388608", &format!("{bytes}              {bytes}"));
        let diagnosis = fake.diagnosis(&[], Some(Ok(())));
        let finding = diagnosis.findings.iter().find(|finding| finding.subject == "memlock");
        assert_eq!(finding.map(|finding| finding.verdict), Some(verdict), "{bytes} bytes");
    }
}

#[test]
fn limits_of_the_process_are_judged_by_what_the_configuration_needs() {
    let fake = Fake::new();
    fake.replace("proc/self/limits", "Max open files            1048576", "Max open files            20000  ");
    let finding = fake.only(&[]);
    assert_eq!((finding.subject, finding.verdict), ("nofile", Advice));
    assert!(finding.found.contains("room for about 19744 connections"), "{}", finding.found);
    assert_eq!(fake.diagnosis(&[("limits.connections", "10000")], Some(Ok(()))).exit(), Exit::Success);

    let fake = Fake::new();
    fake.replace("proc/self/limits", "8388608              8388608", "524288               524288 ");
    assert_eq!((fake.only(&[]).subject, fake.only(&[]).verdict), ("memlock", NO_IO_URING));
    // One shard fits, but not twice.
    let finding = fake.only(&[("cpus", "1")]);
    assert_eq!((finding.subject, finding.verdict), ("memlock", Advice), "{finding:?}");
    fake.replace("proc/self/status", "CapEff:\t0000000000000000", "CapEff:\t0000000000004000");
    assert_eq!(fake.diagnosis(&[], Some(Ok(()))).exit(), Exit::Success, "with CAP_IPC_LOCK it does not bind");
}

#[test]
fn a_group_or_a_privilege_opens_io_uring() {
    let fake = Fake::new();
    fake.set("proc/sys/kernel/io_uring_disabled", "1");
    for group in ["991", "27"] {
        fake.set("proc/sys/kernel/io_uring_group", group);
        assert_eq!(fake.diagnosis(&[], Some(Ok(()))).exit(), Exit::Success, "{group}");
    }
    fake.set("proc/sys/kernel/io_uring_group", "28");
    assert_eq!(fake.only(&[]).verdict, NO_IO_URING);
    fake.replace("proc/self/status", "CapEff:\t0000000000000000", "CapEff:\t0000000000200000");
    assert_eq!(fake.diagnosis(&[], Some(Ok(()))).exit(), Exit::Success);
}

#[test]
fn a_refused_ring_is_told_in_the_words_of_the_refusal() {
    let fake = Fake::new();
    let verdict_of = |diagnosis: &Diagnosis, subject: &str| {
        diagnosis.findings.iter().find(|finding| finding.subject == subject).expect("it is looked at").clone()
    };
    let refused = fake.diagnosis(&[], Some(Err("io_uring is refused, so and so".to_owned())));
    let finding = verdict_of(&refused, "io_uring");
    assert_eq!((finding.verdict, finding.found.as_str()), (NO_IO_URING, "io_uring is refused, so and so"));
    assert_eq!(refused.exit(), Exit::NoIoUring);
    assert_eq!(verdict_of(&refused, "seccomp").verdict, Fine);

    fake.replace("proc/self/status", "Seccomp:\t0", "Seccomp:\t2");
    let refused = fake.diagnosis(&[], Some(Err("refused".to_owned())));
    let finding = verdict_of(&refused, "seccomp");
    assert_eq!(finding.verdict, Advice);
    assert!(finding.how.contains("tuning/seccomp.json"));
    assert_eq!(verdict_of(&fake.diagnosis(&[], Some(Ok(()))), "seccomp").verdict, Fine);
    let untried = fake.diagnosis(&[], None);
    assert_eq!(["io_uring", "seccomp"].map(|subject| verdict_of(&untried, subject).verdict), [Note, Note]);
    assert_eq!(untried.exit(), Exit::Success);
}

#[test]
fn placement_is_judged_as_it_is_configured() {
    let fake = Fake::new();
    let finding = fake.only(&[("cpus", "2,5")]);
    assert_eq!((finding.subject, finding.verdict), ("placement", Fatal(Exit::Configuration)));
    assert!(finding.found.contains("CPU 5"), "{}", finding.found);
    fake.replace("proc/self/status", "Cpus_allowed_list:\t0-3", "Cpus_allowed_list:\t0-1");
    let finding = fake.only(&[]);
    assert_eq!((finding.subject, finding.verdict), ("placement", Advice));
    assert!(finding.found.contains("CPU 2") && finding.found.contains("0-1"), "{}", finding.found);
    fake.replace("proc/self/status", "Cpus_allowed_list:\t0-1", "Cpus_allowed_list:\t0-3");

    let host = Host::new(&fake.0);
    let five = Plan::new(&host, Config { shards: Shards::Count(5), ..Config::default() }, None);
    let finding = cpus::placement(&host, &five);
    assert_eq!((finding.verdict, finding.found.as_str()), (Advice, "5 shards on 4 CPUs"));

    // Without a list of CPUs a quota decides how many shards there are, and one that is not pinned minds no interrupt.
    fake.set("sys/fs/cgroup/cpu.max", "150000 100000");
    fake.set("proc/irq/31/smp_affinity_list", "0-3");
    let plan = Plan::new(&host, Config { shards: Shards::Auto, ..Config::default() }, None);
    assert_eq!((plan.placement.shards(), plan.pinned()), (1, vec![]));
    assert_eq!(interrupts::affinity(&host, &plan).verdict, Fine);
    assert_eq!(cpus::quota(&host, &plan).verdict, Note);
    fake.set("sys/fs/cgroup/cpu.stat", "nr_periods 90\nnr_throttled 12\nthrottled_usec 5\n");
    let finding = cpus::quota(&host, &plan);
    assert_eq!(
        (finding.verdict, finding.found.ends_with("made to wait 12 times")),
        (Advice, true),
        "{}",
        finding.found
    );
}

#[test]
fn shards_that_spin_want_cpus_of_their_own() {
    let fake = Fake::new();
    let diagnosis = fake.diagnosis(&[("idle", "spin")], Some(Ok(())));
    let verdicts: Vec<_> =
        diagnosis.findings.iter().filter(|f| f.verdict != Fine).map(|f| (f.subject, f.verdict)).collect();
    assert_eq!(verdicts, [("isolated CPUs", Advice), ("nohz_full", Note)]);
    fake.set("sys/devices/system/cpu/isolated", "1-2");
    fake.set("sys/devices/system/cpu/nohz_full", "1-3");
    assert_eq!(fake.diagnosis(&[("idle", "spin")], Some(Ok(()))).exit(), Exit::Success);
    // A quota stops a shard that spins, however wide it is.
    fake.set("sys/fs/cgroup/cpu.max", "400000 100000");
    let finding = fake.only(&[("idle", "spin")]);
    assert_eq!((finding.subject, finding.verdict), ("CPU quota", Advice));
}

#[test]
fn interrupts_of_the_network_belong_to_shards_that_take_their_own_packets() {
    let fake = Fake::new();
    let finding = fake.only(&[("incoming_cpu", "true")]);
    assert_eq!((finding.subject, finding.verdict), ("interrupts", Advice));
    assert!(finding.found.ends_with("misplaced: 31"), "{}", finding.found);
    assert!(finding.how.contains("--network-on-shards"));
    // A virtio device's stand above it.
    fs::remove_dir_all(fake.0.join("sys/class/net/eth0/device/msi_irqs")).expect("it is there");
    fake.set("sys/class/net/eth0/msi_irqs/31", "msix");
    assert!(fake.only(&[("incoming_cpu", "true")]).found.ends_with("misplaced: 31"));
    fake.set("proc/irq/31/smp_affinity_list", "2");
    // It was just moved, and has not come since.
    fake.set("proc/irq/31/effective_affinity_list", "3");
    assert_eq!(fake.diagnosis(&[("incoming_cpu", "true")], Some(Ok(()))).exit(), Exit::Success);
    assert_eq!(fake.only(&[]).found, "1 of 2 in use are misplaced: 31", "without the setting they do not");
    let finding = fake.only(&[("cpus", "0-3")]);
    assert_eq!((finding.subject, finding.verdict), ("interrupts", Note), "none is left for them: nothing can be done");
    assert_eq!(finding.how, "--cpus without one of them");
}

#[test]
fn shards_and_network_card_belong_on_one_node() {
    let fake = Fake::new();
    fake.set("sys/devices/system/node/online", "0-1");
    fake.set("sys/devices/system/node/node0/cpulist", "0-1");
    fake.set("sys/devices/system/node/node1/cpulist", "2-3");
    let finding = fake.only(&[]);
    assert_eq!((finding.subject, finding.verdict), ("NUMA", Advice));
    assert!(finding.found.contains("shards on 2 of them") && finding.how.contains("--cpus 0-1"), "{finding:?}");
    let finding = fake.only(&[("cpus", "2")]);
    assert!(finding.found.contains("shards on node 1, but eth0 is at node 0"), "{}", finding.found);
    assert_eq!(fake.diagnosis(&[("cpus", "1")], Some(Ok(()))).exit(), Exit::Success);
}

#[test]
fn congestion_control_must_be_there_and_allowed() {
    let fake = Fake::new();
    let finding = fake.only(&[("congestion", "vegas")]);
    assert_eq!((finding.subject, finding.verdict), ("congestion", Fatal(Exit::Configuration)));
    let finding = fake.only(&[("congestion", "bbr")]);
    assert!(finding.found.contains("only these may be chosen: reno cubic"), "{}", finding.found);
    fake.replace("proc/self/status", "CapEff:\t0000000000000000", "CapEff:\t0000000000001000");
    assert_eq!(fake.diagnosis(&[("congestion", "bbr")], Some(Ok(()))).exit(), Exit::Success);
    assert_eq!(fake.diagnosis(&[("congestion", "cubic")], Some(Ok(()))).exit(), Exit::Success);
}

#[test]
fn a_reserved_port_may_be_in_the_range_and_one_shard_needs_no_migration() {
    let fake = Fake::new();
    fake.set("proc/sys/net/ipv4/ip_local_port_range", "1024 65535");
    fake.set("proc/sys/net/ipv4/ip_local_reserved_ports", "80,8433-8434");
    assert_eq!(fake.diagnosis(&[], Some(Ok(()))).exit(), Exit::Success);
    fake.set("proc/sys/net/ipv4/tcp_migrate_req", "0");
    assert_eq!(fake.only(&[]).subject, "tcp_migrate_req");
    assert_eq!(fake.diagnosis(&[("cpus", "1")], Some(Ok(()))).exit(), Exit::Success);
}

/// Version 1 of control groups, as in older containers.
#[test]
fn quotas_of_either_version_of_control_groups_are_seen() {
    let fake = Fake::new();
    fake.set("proc/self/cgroup", "4:memory:/box\n2:cpu,cpuacct:/box\n0::/\n");
    fake.set("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "50000");
    fake.set("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000");
    fake.set("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "9223372036854771712");
    assert!(fake.only(&[]).found.contains("0.50 CPUs"));
    fake.set("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "-1");
    assert_eq!(fake.diagnosis(&[], Some(Ok(()))).exit(), Exit::Success);
    fake.set("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "1048576");
    assert_eq!(fake.only(&[]).subject, "memory");

    // Both at once, with version 2 beside version 1.
    let fake = Fake::new();
    fake.set("proc/self/cgroup", "2:cpu:/box\n0::/box\n");
    fake.set("sys/fs/cgroup/unified/box/cpu.max", "70000 100000");
    assert!(fake.only(&[]).found.contains("0.70 CPUs"));
}

#[test]
fn a_host_that_tells_nothing_is_not_advised() {
    let fake = Fake::new();
    for directory in ["proc/sys", "proc/irq", "sys"] {
        fs::remove_dir_all(fake.0.join(directory)).expect("it is there");
    }
    for file in ["proc/self/limits", "proc/self/cgroup", "proc/stat", "proc/meminfo", "proc/interrupts", "proc/cpuinfo"]
    {
        fs::remove_file(fake.0.join(file)).expect("it is there");
    }
    let diagnosis = fake.diagnosis(&[], Some(Ok(())));
    assert_eq!(diagnosis.exit(), Exit::Success, "{diagnosis:#?}");
}

/// `doctor` reads what `serve` asks the system for.
#[test]
fn on_this_machine_the_placement_is_that_of_the_engine() {
    let host = Host::new("/");
    for config in [Config::default(), Config { idle: Idle::Spin, shards: Shards::Count(3), ..Config::default() }] {
        let chosen = Placement::choose(&config);
        assert_eq!(Plan::new(&host, config, None).placement, chosen);
    }
}
