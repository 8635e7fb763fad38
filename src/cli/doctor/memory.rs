//! Nodes, pages, and how much there is.

use super::Plan;
use super::finding::{Finding, Verdict};
use super::host::{Host, shown_list};

/// User-space and kernel memory of an idle subscribed connection: 0.5 and 3.6 KB (docs/operations.md), rounded up.
const PER_CONNECTION: u64 = 4_500;

pub(super) fn nodes(host: &Host, plan: &Plan) -> Finding {
    let nodes = host.list("sys/devices/system/node/online");
    let cpus = plan.runs_on(host);
    let of_node = |node: usize| host.list(&format!("sys/devices/system/node/node{node}/cpulist"));
    let used: Vec<_> =
        nodes.iter().copied().filter(|&node| of_node(node).iter().any(|cpu| cpus.contains(cpu))).collect();
    let cards: Vec<_> = host
        .names("sys/class/net")
        .into_iter()
        .filter_map(|name| {
            let node = host.text(&format!("sys/class/net/{name}/device/numa_node"))?.parse::<usize>().ok()?;
            (!used.contains(&node)).then_some(format!("{name} is at node {node}"))
        })
        .collect();
    let advice = used.first().map_or_else(String::new, |&node| shown_list(&of_node(node)));
    let (verdict, found) = match (nodes.len(), used.len()) {
        (0 | 1, _) => (Verdict::Fine, "one node".to_owned()),
        (count, 2..) => (Verdict::Advice, format!("{count} nodes, and shards on {} of them", used.len())),
        (count, _) if !cards.is_empty() => {
            (Verdict::Advice, format!("{count} nodes, shards on node {}, but {}", shown_list(&used), cards.join(", ")))
        }
        (count, _) => (Verdict::Fine, format!("{count} nodes, shards on node {} alone", shown_list(&used))),
    };
    Finding {
        subject: "NUMA",
        verdict,
        found,
        advised: "shards on one node, that of the network card; kernel.numa_balancing=0 when they are pinned"
            .to_owned(),
        why: "patches go between shards by reference, and memory of another node is slower to read",
        how: format!("--cpus {advice} keeps to one node"),
    }
}

pub(super) fn transparent_huge_pages(host: &Host, _: &Plan) -> Finding {
    let choice = host.choice("sys/kernel/mm/transparent_hugepage/enabled");
    let verdict = match choice.as_deref() {
        Some("always") => Verdict::Note,
        _ => Verdict::Fine,
    };
    Finding {
        subject: "THP",
        verdict,
        found: choice.unwrap_or_else(|| "this kernel has none".to_owned()),
        advised: "madvise".to_owned(),
        why: "the allocator asks for large pages where they help; with `always` every program has them, and a shard may be stopped to make one",
        how: "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`; transparent_hugepage=madvise on the kernel's command line to keep it".to_owned(),
    }
}

pub(super) fn reserved_huge_pages(host: &Host, _: &Plan) -> Finding {
    let count = |name| host.field("proc/meminfo", name).and_then(|value| value.parse::<u64>().ok());
    let (verdict, found) = match (count("HugePages_Total"), count("HugePages_Free")) {
        (Some(0) | None, _) => (Verdict::Fine, "none reserved".to_owned()),
        (Some(total), Some(free)) if free > 0 => (Verdict::Note, format!("{total} reserved, {free} of them unused")),
        (Some(total), _) => (Verdict::Fine, format!("{total} reserved, all in use")),
    };
    Finding {
        subject: "huge pages",
        verdict,
        found,
        advised: "none reserved for the engine".to_owned(),
        why: "the engine does not use them, and what is reserved nobody else can have",
        how: "`sysctl vm.nr_hugepages=0`, unless another program wants them".to_owned(),
    }
}

pub(super) fn available(host: &Host, plan: &Plan) -> Finding {
    let mib = |bytes: u64| bytes >> 20;
    let connections = plan.config.limits.connections as u64;
    let needed = connections * PER_CONNECTION;
    let (free, limit) = (host.memory("MemAvailable"), host.memory_limit());
    let (verdict, found) = match (free, limit) {
        (None, None) => (Verdict::Note, "not readable".to_owned()),
        (free, limit) => {
            let room = free.unwrap_or(u64::MAX).min(limit.unwrap_or(u64::MAX));
            let whose = if limit == Some(room) { "the cgroup's limit" } else { "available" };
            let verdict = if room < needed { Verdict::Advice } else { Verdict::Fine };
            (
                verdict,
                format!("{} MiB ({whose}); {connections} connections take {} MiB and more", mib(room), mib(needed)),
            )
        }
    };
    Finding {
        subject: "memory",
        verdict,
        found,
        advised: format!("{} MiB besides the topics' own, or the setting `connections` lower", mib(needed)),
        why: "an idle connection takes half a KiB here and 3.6 KiB in the kernel; when memory runs out the kernel ends the engine",
        how: "`connections` below [limits]; MemoryMax= of the unit, or the container's limit".to_owned(),
    }
}
