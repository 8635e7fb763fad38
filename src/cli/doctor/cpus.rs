//! The CPUs that shards run on.

use super::Plan;
use super::finding::{Finding, Verdict};
use super::host::{Host, shown_list};
use crate::cli::Exit;
use crate::config::Idle;

/// Share of all CPU time since boot that a hypervisor may have given to others.
const STEAL: f64 = 0.01;
/// Clock sources that are read without a system call.
const FAST_CLOCKS: [&str; 4] = ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"];

pub(super) fn placement(host: &Host, plan: &Plan) -> Finding {
    let (allowed, online) = (host.allowed_cpus(), host.list("sys/devices/system/cpu/online"));
    let shards = usize::from(plan.placement.shards());
    let outside = |cpus: &[usize]| -> Vec<_> { plan.pinned().into_iter().filter(|cpu| !cpus.contains(cpu)).collect() };
    let absent = if online.is_empty() { Vec::new() } else { outside(&online) };
    let forbidden = outside(&allowed);
    let (verdict, found) = if !absent.is_empty() {
        (Verdict::Fatal(Exit::Configuration), format!("CPU {} is not online here", shown_list(&absent)))
    } else if !forbidden.is_empty() {
        let (forbidden, allowed) = (shown_list(&forbidden), shown_list(&allowed));
        (Verdict::Advice, format!("CPU {forbidden} is outside those that this process may run on: {allowed}"))
    } else if shards > plan.runs_on(host).len() {
        (Verdict::Advice, format!("{shards} shards on {} CPUs", plan.runs_on(host).len()))
    } else {
        (Verdict::Fine, plan.placement.to_string())
    };
    Finding {
        subject: "placement",
        verdict,
        found,
        advised: "one shard for each CPU, and a CPU for everything else where one can be spared".to_owned(),
        why: "shards that share a CPU wait for each other, and each turn of one is latency of the other",
        how: format!(
            "--cpus out of {}, --shards not above their number; AllowedCPUs= and CPUAffinity= of the unit",
            shown_list(&allowed)
        ),
    }
}

pub(super) fn quota(host: &Host, plan: &Plan) -> Finding {
    let shards = f64::from(plan.placement.shards());
    let (verdict, found) = match host.cpu_quota() {
        None => (Verdict::Fine, "none".to_owned()),
        Some(quota) => {
            let is_tight = quota.cpus() < shards || quota.throttled > 0 || plan.config.idle == Idle::Spin;
            let verdict = if is_tight { Verdict::Advice } else { Verdict::Note };
            (
                verdict,
                format!(
                    "{:.2} CPUs in each {} ms, made to wait {} times",
                    quota.cpus(),
                    quota.period_us / 1_000,
                    quota.throttled
                ),
            )
        }
    };
    Finding {
        subject: "CPU quota",
        verdict,
        found,
        advised: "no quota but whole CPUs; else fewer shards than it, and idle = \"park\"".to_owned(),
        why: "a cgroup that used its share up stands still until the next period: tens of milliseconds for everyone at once",
        how: "`docker run --cpuset-cpus` in place of --cpus; Kubernetes: whole CPUs, Guaranteed, static CPU manager; systemd: AllowedCPUs= in place of CPUQuota=".to_owned(),
    }
}

pub(super) fn siblings(host: &Host, plan: &Plan) -> Finding {
    let cpus = plan.runs_on(host);
    let siblings = |cpu: usize| host.list(&format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"));
    let firsts: Vec<_> = cpus
        .iter()
        .copied()
        .filter(|&cpu| !siblings(cpu).iter().any(|other| *other < cpu && cpus.contains(other)))
        .collect();
    let shared = cpus.len() - firsts.len();
    let (verdict, found) = if shared == 0 {
        (Verdict::Fine, "each shard has a core of its own".to_owned())
    } else if usize::from(plan.placement.shards()) <= firsts.len() && plan.pinned().is_empty() {
        (Verdict::Fine, format!("{shared} of {} CPUs share a core, and there are cores enough", cpus.len()))
    } else {
        (Verdict::Advice, format!("{shared} of {} CPUs share a core with another one of a shard", cpus.len()))
    };
    Finding {
        subject: "SMT siblings",
        verdict,
        found,
        advised: "one shard for each core where latency counts; both threads of it where only throughput does"
            .to_owned(),
        why: "the two threads of a core share its units and caches, so that a busy one slows its sibling down",
        how: format!("--cpus {}", shown_list(&firsts)),
    }
}

pub(super) fn isolated(host: &Host, plan: &Plan) -> Finding {
    let isolated = host.list("sys/devices/system/cpu/isolated");
    let pinned = plan.pinned();
    let unused: Vec<_> = isolated.iter().copied().filter(|cpu| !pinned.contains(cpu)).collect();
    let (verdict, found) = match (isolated.is_empty(), unused.is_empty(), plan.config.idle) {
        (true, _, Idle::Spin) => (Verdict::Advice, "none, and shards spin".to_owned()),
        (true, _, Idle::Park) => (Verdict::Fine, "none; shards that park do well without".to_owned()),
        (false, false, _) => (
            Verdict::Advice,
            format!("{}, of which no shard is pinned to {}", shown_list(&isolated), shown_list(&unused)),
        ),
        (false, true, _) => (Verdict::Fine, format!("{}, all of them shards'", shown_list(&isolated))),
    };
    Finding {
        subject: "isolated CPUs",
        verdict,
        found,
        advised: "the shards' CPUs isolated when idle = \"spin\"; none isolated that no shard is pinned to".to_owned(),
        why: "the scheduler keeps off isolated CPUs: nothing disturbs a shard there, and nothing runs there unless it is pinned",
        how: format!(
            "isolcpus=managed_irq,domain,{0} on the kernel's command line and --cpus {0}",
            shown_list(if isolated.is_empty() { &pinned } else { &isolated })
        ),
    }
}

pub(super) fn tickless(host: &Host, plan: &Plan) -> Finding {
    let tickless = host.list("sys/devices/system/cpu/nohz_full");
    let pinned = plan.pinned();
    let is_covered = !pinned.is_empty() && pinned.iter().all(|cpu| tickless.contains(cpu));
    let (verdict, found) = match (plan.config.idle, is_covered) {
        (_, true) => (Verdict::Fine, format!("{}: the shards' CPUs", shown_list(&tickless))),
        (Idle::Spin, false) => (Verdict::Note, format!("{}, and shards spin", shown_list(&tickless))),
        (Idle::Park, false) => {
            (Verdict::Fine, format!("{}; a CPU that parks has no tick anyway", shown_list(&tickless)))
        }
    };
    Finding {
        subject: "nohz_full",
        verdict,
        found,
        advised: "the shards' CPUs, when idle = \"spin\"".to_owned(),
        why: "the timer interrupts a busy CPU 100 to 1,000 times a second; without it every system call costs a little more",
        how: format!("nohz_full={0} rcu_nocbs={0} on the kernel's command line", shown_list(&pinned)),
    }
}

pub(super) fn governor(host: &Host, plan: &Plan) -> Finding {
    let governors = plan.runs_on(host).into_iter().filter_map(|cpu| {
        host.text(&format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor")).map(|governor| (cpu, governor))
    });
    let governors: Vec<_> = governors.collect();
    let slow: Vec<_> = governors.iter().filter(|(_, governor)| governor != "performance").collect();
    let (verdict, found) = match (governors.is_empty(), slow.first()) {
        (true, _) => (Verdict::Fine, "frequencies are not ours to control".to_owned()),
        (false, None) => (Verdict::Fine, "performance".to_owned()),
        (false, Some((_, governor))) => {
            let cpus: Vec<_> = slow.iter().map(|(cpu, _)| *cpu).collect();
            (Verdict::Advice, format!("{governor} on CPU {}", shown_list(&cpus)))
        }
    };
    Finding {
        subject: "governor",
        verdict,
        found,
        advised: "performance".to_owned(),
        why: "a shard that wakes for microseconds never convinces another governor to raise the frequency",
        how: "`cpupower frequency-set -g performance`, or write it to /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor".to_owned(),
    }
}

pub(super) fn clock_source(host: &Host, _: &Plan) -> Finding {
    let clock = host.text("sys/devices/system/clocksource/clocksource0/current_clocksource");
    let verdict = match clock.as_deref() {
        None => Verdict::Note,
        Some(clock) if FAST_CLOCKS.contains(&clock) => Verdict::Fine,
        Some(_) => Verdict::Advice,
    };
    Finding {
        subject: "clock source",
        verdict,
        found: clock.unwrap_or_else(|| "not readable".to_owned()),
        advised: format!("one of {}", FAST_CLOCKS.join(", ")),
        why: "a shard reads the clock each turn; other sources make a system call of it",
        how: "write it to /sys/devices/system/clocksource/clocksource0/current_clocksource if available_clocksource names it; `dmesg | grep -i tsc` says why not".to_owned(),
    }
}

pub(super) fn virtualisation(host: &Host, _: &Plan) -> Finding {
    let text = host.text("proc/cpuinfo").unwrap_or_default();
    let is_guest =
        text.lines().any(|line| line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "hypervisor"));
    Finding {
        subject: "virtualisation",
        verdict: if is_guest { Verdict::Note } else { Verdict::Fine },
        found: if is_guest { "a guest of a hypervisor" } else { "none seen" }.to_owned(),
        advised: "vCPUs that nobody else uses, with several queues of the network card".to_owned(),
        why: "each sleep and wake-up of a guest costs more than a host's, and what the neighbours do shows in the tail",
        how: "dedicated or pinned vCPUs, from whoever runs the host".to_owned(),
    }
}

pub(super) fn steal(host: &Host, _: &Plan) -> Finding {
    let text = host.text("proc/stat").unwrap_or_default();
    let times: Vec<f64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|time| time.parse().ok())
        .collect();
    let total: f64 = times.iter().sum();
    let (verdict, found) = match times.get(7) {
        Some(stolen) if total > 0.0 => {
            let share = stolen / total;
            let verdict = if share > STEAL { Verdict::Advice } else { Verdict::Fine };
            (verdict, format!("{:.1} % of all CPU time since boot", 100.0 * share))
        }
        _ => (Verdict::Note, "not readable".to_owned()),
    };
    Finding {
        subject: "steal",
        verdict,
        found,
        advised: format!("at most {:.0} %", 100.0 * STEAL),
        why: "while the hypervisor gives a CPU to others its shard stands still, and nothing here can tell clients so",
        how: "dedicated vCPUs, or another host; `mpstat 1` shows it as it happens".to_owned(),
    }
}
