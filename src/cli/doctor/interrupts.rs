//! Interrupts, against the CPUs that shards are pinned to.

use std::collections::BTreeSet;

use super::Plan;
use super::finding::{Finding, Verdict};
use super::host::{Host, shown_list};

/// One interrupt line of a device, with the CPUs that serve it.
struct Interrupt {
    number: String,
    cpus: Vec<usize>,
}

/// Those that have come at least once.
fn active(host: &Host) -> Vec<Interrupt> {
    let text = host.text("proc/interrupts").unwrap_or_default();
    let mut lines = text.lines();
    let columns = lines.next().unwrap_or_default().split_whitespace().count();
    let counted = lines.filter_map(|line| {
        let (number, rest) = line.trim().split_once(':')?;
        let has_come =
            rest.split_whitespace().take(columns).any(|count| count.parse::<u64>().is_ok_and(|count| count > 0));
        (number.bytes().all(|b| b.is_ascii_digit()) && has_come).then(|| number.to_owned())
    });
    let with_cpus = counted.filter_map(|number| {
        let list = |name: &str| host.list(&format!("proc/irq/{number}/{name}"));
        let allowed = list("smp_affinity_list");
        // One that was just moved is served where it was until it comes again.
        let effective =
            list("effective_affinity_list").into_iter().filter(|cpu| allowed.contains(cpu)).collect::<Vec<_>>();
        let cpus = if effective.is_empty() { allowed } else { effective };
        (!cpus.is_empty()).then_some(Interrupt { number, cpus })
    });
    with_cpus.collect()
}

/// The numbers of the network cards' interrupts.
fn of_network(host: &Host) -> BTreeSet<String> {
    let interfaces = host.names("sys/class/net").into_iter();
    // A virtio device's interrupts are those of the PCI device above it.
    let directories = interfaces.flat_map(|name| {
        ["device/msi_irqs", "device/../msi_irqs"].map(|place| format!("sys/class/net/{name}/{place}"))
    });
    directories.flat_map(|directory| host.names(&directory)).collect()
}

/// Where packets are handled by the shard that wants them (`incoming_cpu`) the cards' interrupts belong to the shards' CPUs; all others
/// belong elsewhere.
pub(super) fn affinity(host: &Host, plan: &Plan) -> Finding {
    let pinned = plan.pinned();
    let spare: Vec<_> =
        host.list("sys/devices/system/cpu/online").into_iter().filter(|cpu| !pinned.contains(cpu)).collect();
    let network = of_network(host);
    let is_on_shard = |irq: &Interrupt| irq.cpus.iter().any(|cpu| pinned.contains(cpu));
    let is_wrong = |irq: &Interrupt| {
        let belongs_to_shards = plan.config.incoming_cpu && network.contains(&irq.number);
        if belongs_to_shards { !irq.cpus.iter().all(|cpu| pinned.contains(cpu)) } else { is_on_shard(irq) }
    };
    let interrupts = active(host);
    let wrong: Vec<_> = interrupts.iter().filter(|irq| is_wrong(irq)).map(|irq| irq.number.as_str()).collect();
    let (verdict, found) = if interrupts.is_empty() {
        (Verdict::Note, "not readable".to_owned())
    } else if pinned.is_empty() {
        (Verdict::Fine, "shards are not pinned".to_owned())
    } else if spare.is_empty() {
        (Verdict::Note, "every CPU is a shard's: none is left for interrupts".to_owned())
    } else if wrong.is_empty() {
        (Verdict::Fine, "where they belong".to_owned())
    } else {
        (Verdict::Advice, format!("{} of {} in use are misplaced: {}", wrong.len(), interrupts.len(), wrong.join(", ")))
    };
    let (shards, rest) = (shown_list(&pinned), shown_list(&spare));
    let script = |option: &str| {
        format!(
            "`tuning/isolate --cpus {shards}{option}` shows what it would do, and does it with --apply; those that it has to leave \
             alone are the kernel's own, and go with isolcpus=managed_irq,{shards} on its command line"
        )
    };
    let (advised, how) = if spare.is_empty() {
        let advised = "a CPU for interrupts and everything else, where the load leaves one";
        (advised.to_owned(), "--cpus without one of them".to_owned())
    } else if plan.config.incoming_cpu {
        let advised = format!("the network cards' on CPU {shards}, all others on CPU {rest}");
        (advised, script(" --network-on-shards"))
    } else {
        (format!("all on CPU {rest}"), script(""))
    };
    Finding {
        subject: "interrupts",
        verdict,
        found,
        advised,
        why: "an interrupt and the packets behind it take their time out of the middle of a shard's turn",
        how,
    }
}

pub(super) fn balancing(host: &Host, plan: &Plan) -> Finding {
    let processes = host.names("proc").into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    let runs = processes.into_iter().any(|id| host.text(&format!("proc/{id}/comm")).as_deref() == Some("irqbalance"));
    let is_pinned = !plan.pinned().is_empty();
    let (verdict, found) = match (runs, is_pinned) {
        (false, _) => (Verdict::Fine, "irqbalance does not run"),
        (true, false) => (Verdict::Fine, "irqbalance runs, and shards are not pinned"),
        (true, true) => (Verdict::Advice, "irqbalance runs, and shards are pinned"),
    };
    Finding {
        subject: "irqbalance",
        verdict,
        found: found.to_owned(),
        advised: "not running, or told to keep off the shards' CPUs".to_owned(),
        why: "it moves interrupts about, onto the CPUs of shards, too",
        how: format!(
            "`systemctl disable --now irqbalance`, or IRQBALANCE_BANNED_CPULIST={} in /etc/default/irqbalance",
            shown_list(&plan.pinned())
        ),
    }
}
