//! TCP.

use super::Plan;
use super::finding::{Finding, Verdict};
use super::host::{CAP_NET_ADMIN, Host};
use crate::cli::Exit;
use crate::limits::NOTSENT_LOWAT_BYTES;

/// Fewer ports than that bound what one client host, or a proxy, can open to one address.
const PORTS: u64 = 28_000;

pub(super) fn congestion(host: &Host, plan: &Plan) -> Finding {
    let words = |name| host.sysctl(name).unwrap_or_default();
    let (available, allowed) =
        (words("net.ipv4.tcp_available_congestion_control"), words("net.ipv4.tcp_allowed_congestion_control"));
    let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
    let fatal = Verdict::Fatal(Exit::Configuration);
    let system = host.sysctl("net.ipv4.tcp_congestion_control");
    let (verdict, found) = match (&plan.config.congestion, system) {
        (Some(name), _) if !has(&available, name) => {
            (fatal, format!("`{name}` is configured, and this kernel has {available}"))
        }
        (Some(name), _) if !has(&allowed, name) && !host.is_capable(CAP_NET_ADMIN) => {
            (fatal, format!("`{name}` is configured, and without CAP_NET_ADMIN only these may be chosen: {allowed}"))
        }
        (Some(name), _) => (Verdict::Fine, format!("{name}, as configured")),
        (None, Some(system)) => (Verdict::Fine, format!("{system}, the system's")),
        (None, None) => (Verdict::Note, "not readable".to_owned()),
    };
    Finding {
        subject: "congestion",
        verdict,
        found,
        advised: "bbr where clients come over long or lossy ways, cubic elsewhere".to_owned(),
        why: "cubic takes each loss for a full way and slows down; over loopback no difference was measured (tuning/README.md)",
        how: "`congestion = \"cubic\"` in the configuration; net.ipv4.tcp_allowed_congestion_control must name it, unless the engine has CAP_NET_ADMIN".to_owned(),
    }
}

pub(super) fn migration(host: &Host, plan: &Plan) -> Finding {
    let shards = plan.placement.shards();
    let value = host.sysctl("net.ipv4.tcp_migrate_req");
    let (verdict, found) = match value.as_deref() {
        _ if shards == 1 => (Verdict::Fine, "one shard: there is one listener".to_owned()),
        None => (Verdict::Note, "this kernel has no such switch (it came with 5.14)".to_owned()),
        Some("0") => (Verdict::Advice, format!("0, with {shards} listeners on one port")),
        Some(value) => (Verdict::Fine, value.to_owned()),
    };
    Finding {
        subject: "tcp_migrate_req",
        verdict,
        found,
        advised: "1".to_owned(),
        why: "each shard listens; what waits to be accepted by one that stops is reset, unless it may move to another",
        how: "`sysctl net.ipv4.tcp_migrate_req=1` (tuning/60-tidegate.conf)".to_owned(),
    }
}

pub(super) fn unsent_bytes(host: &Host, _: &Plan) -> Finding {
    let system = host.sysctl("net.ipv4.tcp_notsent_lowat");
    let system = system.map_or_else(|| "not readable".to_owned(), |value| format!("{value} is the system's"));
    Finding {
        subject: "tcp_notsent_lowat",
        verdict: Verdict::Fine,
        found: format!("{NOTSENT_LOWAT_BYTES} bytes, which the engine sets on its sockets; {system}"),
        advised: "leave the system's as it is".to_owned(),
        why: "unsent bytes stay in the log, where they still merge, and not in the kernel, where they only get older",
        how: String::new(),
    }
}

pub(super) fn ports(host: &Host, plan: &Plan) -> Finding {
    let port = u64::from(plan.config.listen.port());
    let range = host.sysctl("net.ipv4.ip_local_port_range");
    let range = range.as_deref().and_then(|range| {
        let mut ends = range.split_whitespace().map(str::parse::<u64>);
        Some((ends.next()?.ok()?, ends.next()?.ok()?))
    });
    let reserved = host.sysctl("net.ipv4.ip_local_reserved_ports").unwrap_or_default();
    let is_reserved = reserved.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse::<u64>(), last.parse::<u64>()), (Ok(first), Ok(last)) if (first..=last).contains(&port))
    });
    let reuse = host.sysctl("net.ipv4.tcp_tw_reuse").unwrap_or_else(|| "unknown".to_owned());
    let (verdict, found) = match range {
        None => (Verdict::Note, "not readable".to_owned()),
        Some((first, last)) => {
            let count = (last + 1).saturating_sub(first);
            let shown = format!("{first} to {last}, tcp_tw_reuse {reuse}");
            if (first..=last).contains(&port) && !is_reserved {
                (Verdict::Advice, format!("{shown}: the engine's port {port} is one of them"))
            } else if count < PORTS {
                (Verdict::Note, format!("{shown}: {count} connections from here to one address"))
            } else {
                (Verdict::Fine, shown)
            }
        }
    };
    Finding {
        subject: "local ports",
        verdict,
        found,
        advised: "the engine's port outside the range, or reserved; a wide range where proxies or load generators run"
            .to_owned(),
        why: "an outgoing connection may take a port of the range, and the engine then cannot listen on it; the engine itself opens none",
        how: format!(
            "`sysctl net.ipv4.ip_local_reserved_ports={port}`; on client hosts `sysctl net.ipv4.ip_local_port_range='10240 65535'`"
        ),
    }
}
