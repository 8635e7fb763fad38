//! What the process and the system may have open, locked and waiting.

use super::Plan;
use super::finding::{Finding, Verdict};
use super::host::{CAP_IPC_LOCK, Host};
use crate::cli::Exit;
use crate::kernel::ListenOptions;

/// Descriptors beside those of connections: rings, listeners, wakers, admin port, logs.
const OTHER_DESCRIPTORS: u64 = 256;
/// Locked memory that the kernel charges for one shard's ring (measured on Linux 6.18), rounded up to 8 KiB.
const LOCKED_PER_SHARD: u64 = 352 * 1024;
/// ... and for the control thread's.
const LOCKED_BESIDE: u64 = 64 * 1024;

fn descriptors_wanted(plan: &Plan) -> u64 {
    plan.config.limits.connections as u64 + OTHER_DESCRIPTORS
}

fn shown(limit: u64) -> String {
    if limit == u64::MAX { "no limit".to_owned() } else { limit.to_string() }
}

pub(super) fn descriptors(host: &Host, plan: &Plan) -> Finding {
    let (limit, wanted) = (host.soft_limit("Max open files"), descriptors_wanted(plan));
    let connections = plan.config.limits.connections;
    let (verdict, found) = match limit {
        None => (Verdict::Note, "not readable".to_owned()),
        Some(limit) if limit < wanted => {
            let room = limit.saturating_sub(OTHER_DESCRIPTORS);
            (
                Verdict::Advice,
                format!("{limit}: room for about {room} connections, and the setting `connections` is {connections}"),
            )
        }
        Some(limit) => (Verdict::Fine, shown(limit)),
    };
    Finding {
        subject: "nofile",
        verdict,
        found,
        advised: format!("at least {wanted}, or the setting `connections` lower"),
        why: "each connection takes a descriptor; when they run out accepting pauses, where beyond `connections` clients are told 503 at once",
        how: "LimitNOFILE= of the unit, tuning/limits.conf, `ulimit -n`; or `connections` below [limits]".to_owned(),
    }
}

pub(super) fn locked_memory(host: &Host, plan: &Plan) -> Finding {
    let needed = u64::from(plan.placement.shards()) * LOCKED_PER_SHARD + LOCKED_BESIDE;
    let (verdict, found) = match host.soft_limit("Max locked memory") {
        _ if host.is_capable(CAP_IPC_LOCK) => (Verdict::Fine, "exempt, by the privilege CAP_IPC_LOCK".to_owned()),
        None => (Verdict::Note, "not readable".to_owned()),
        Some(limit) if limit < needed => {
            (Verdict::Fatal(Exit::NoIoUring), format!("{limit} bytes, and the rings take {needed}"))
        }
        Some(limit) if limit < 2 * needed => {
            (Verdict::Advice, format!("{limit} bytes: enough for one engine, but not for a restart"))
        }
        Some(limit) => (Verdict::Fine, shown(limit)),
    };
    Finding {
        subject: "memlock",
        verdict,
        found,
        advised: format!("at least {} bytes: twice what the rings take", 2 * needed),
        why: "rings count as locked memory of the user, and those of an engine that has just ended may still count",
        how: "LimitMEMLOCK= of the unit, tuning/limits.conf, `ulimit -l`".to_owned(),
    }
}

pub(super) fn open_files(host: &Host, plan: &Plan) -> Finding {
    let wanted = descriptors_wanted(plan);
    let (all, process) = (host.sysctl_number("fs.file-max"), host.sysctl_number("fs.nr_open"));
    let (verdict, found) = match (all, process) {
        (Some(all), Some(process)) => {
            let verdict = if all.min(process) < wanted { Verdict::Advice } else { Verdict::Fine };
            (verdict, format!("{all} for all processes, {process} for one"))
        }
        _ => (Verdict::Note, "not readable".to_owned()),
    };
    Finding {
        subject: "file-max",
        verdict,
        found,
        advised: format!("fs.file-max and fs.nr_open at least {wanted}"),
        why: "they bound what nofile can be raised to, and what all processes have open together",
        how: "`sysctl fs.file-max=N fs.nr_open=N` (tuning/60-tidegate.conf)".to_owned(),
    }
}

pub(super) fn listen_backlog(host: &Host, _: &Plan) -> Finding {
    let wanted = u64::try_from(ListenOptions::default().backlog).expect("a backlog is not negative");
    let value = host.sysctl_number("net.core.somaxconn");
    let verdict = match value {
        None => Verdict::Note,
        Some(value) if value < wanted => Verdict::Advice,
        Some(_) => Verdict::Fine,
    };
    Finding {
        subject: "somaxconn",
        verdict,
        found: value.map_or_else(|| "not readable".to_owned(), shown),
        advised: format!("net.core.somaxconn at least {wanted}"),
        why: "each shard asks for so long a queue of connections to be accepted; what finds it full tries again a second later",
        how: format!("`sysctl net.core.somaxconn={wanted}` (tuning/60-tidegate.conf)"),
    }
}
