//! The kernel, and whether it lets us use io_uring.

use super::Plan;
use super::finding::{Finding, Verdict};
use super::host::{CAP_SYS_ADMIN, Host};
use crate::cli::Exit;

/// The first kernel with everything that a ring of ours needs.
const OLDEST: (u32, u32) = (6, 1);

pub(super) fn release(host: &Host, _: &Plan) -> Finding {
    let release = host.sysctl("kernel.osrelease");
    let mut numbers = release.iter().flat_map(|release| release.split(|c: char| !c.is_ascii_digit()));
    let version =
        numbers.next().and_then(|major| Some((major.parse::<u32>().ok()?, numbers.next()?.parse::<u32>().ok()?)));
    let verdict = match version {
        Some(version) if version < OLDEST => Verdict::Fatal(Exit::NoIoUring),
        Some(_) => Verdict::Fine,
        None => Verdict::Note,
    };
    Finding {
        subject: "kernel",
        verdict,
        found: release.map_or_else(|| "not readable".to_owned(), |release| format!("Linux {release}")),
        advised: format!("Linux {}.{} or newer", OLDEST.0, OLDEST.1),
        why: "the ring defers its work to the thread that waits for it (DEFER_TASKRUN), and older kernels do not have that",
        how: "install a newer kernel of your distribution: Debian 12 has 6.1, Ubuntu 24.04 has 6.8".to_owned(),
    }
}

pub(super) fn io_uring(_: &Host, plan: &Plan) -> Finding {
    let (verdict, found) = match &plan.ring {
        None => (Verdict::Note, "not tried: only files were looked at".to_owned()),
        Some(Ok(())) => {
            (Verdict::Fine, "a ring was made, with every operation and feature that a shard uses".to_owned())
        }
        Some(Err(sentence)) => (Verdict::Fatal(Exit::NoIoUring), sentence.clone()),
    };
    Finding {
        subject: "io_uring",
        verdict,
        found,
        advised: "a ring that can be made by the user, and in the container, that the engine runs in".to_owned(),
        why: "every shard is an io_uring; there is no other way to run",
        how: "as the sentence says; docs/operations.md has a table of them".to_owned(),
    }
}

pub(super) fn io_uring_disabled(host: &Host, _: &Plan) -> Finding {
    let fatal = Verdict::Fatal(Exit::NoIoUring);
    let value = host.sysctl("kernel.io_uring_disabled");
    let group = host.sysctl("kernel.io_uring_group").unwrap_or_else(|| "-1".to_owned());
    let groups = ["Gid", "Groups"].map(|field| host.field("proc/self/status", field).unwrap_or_default());
    // The second of the four numbers behind "Gid" is the effective one.
    let is_member =
        groups[0].split_whitespace().nth(1) == Some(&group) || groups[1].split_whitespace().any(|id| id == group);
    let (verdict, found) = match value.as_deref() {
        None => (Verdict::Fine, "this kernel has no such switch (it came with 6.6)".to_owned()),
        Some("0") => (Verdict::Fine, "0: everybody may".to_owned()),
        Some("1") if host.is_capable(CAP_SYS_ADMIN) => {
            (Verdict::Fine, "1: a group may, and this process by its privilege".to_owned())
        }
        Some("1") if is_member => (Verdict::Fine, format!("1: the group {group} may, and this process is in it")),
        Some("1") => (fatal, format!("1: only the group {group} may, and this process is not in it")),
        Some(value) => (fatal, format!("{value}: nobody may")),
    };
    Finding {
        subject: "io_uring_disabled",
        verdict,
        found,
        advised: "0; or 1 with the engine's group in kernel.io_uring_group, which keeps everybody else out".to_owned(),
        why: "without io_uring no shard runs",
        how:
            "`sysctl kernel.io_uring_disabled=0`, or 1 and `sysctl kernel.io_uring_group=GID` (tuning/60-tidegate.conf)"
                .to_owned(),
    }
}

pub(super) fn seccomp(host: &Host, plan: &Plan) -> Finding {
    let mode = host.field("proc/self/status", "Seccomp");
    let (verdict, found) = match (mode.as_deref(), &plan.ring) {
        (Some("0") | None, _) => (Verdict::Fine, "no filter"),
        (Some(_), Some(Ok(()))) => (Verdict::Fine, "a filter that admits io_uring"),
        (Some(_), None) => (Verdict::Note, "a filter; whether it admits io_uring was not tried"),
        (Some(_), Some(Err(_))) => (Verdict::Advice, "a filter, and a ring could not be made"),
    };
    Finding {
        subject: "seccomp",
        verdict,
        found: found.to_owned(),
        advised: "a profile that admits io_uring_setup, io_uring_enter and io_uring_register".to_owned(),
        why: "the default profiles of Docker and containerd block io_uring",
        how: "`docker run --security-opt seccomp=tuning/seccomp.json`; Kubernetes: the file as a Localhost profile"
            .to_owned(),
    }
}
