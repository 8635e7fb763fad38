//! What stands in the way of a ring, in words that say what to do about it.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// Why there is no ring. Each message is one sentence that names the remedy; all of them are the operator's to act on.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// `kernel.io_uring_disabled` is set.
    #[error(
        "io_uring is switched off on this machine (kernel.io_uring_disabled = {value}): run `sysctl kernel.io_uring_disabled=0`{}",
        if *.value == 1 { ", or put the process into the group kernel.io_uring_group" } else { "" }
    )]
    Disabled {
        /// What the sysctl says: 1 (a group may use it) or 2 (nobody may).
        value: u8,
    },
    /// The system call is refused although no sysctl forbids it.
    #[error(
        "io_uring is refused ({errno_name}): the seccomp profile of the container runtime blocks it (Docker's and containerd's default do); \
         allow io_uring_setup, io_uring_enter and io_uring_register, or run with `--security-opt seccomp=unconfined`"
    )]
    Blocked {
        /// `EPERM`, `EACCES` or `ENOSYS`.
        errno_name: &'static str,
    },
    /// The limit of locked memory is too low for the rings.
    #[error(
        "io_uring may not lock enough memory: raise RLIMIT_MEMLOCK (`ulimit -l`, `LimitMEMLOCK=` of systemd), or configure smaller rings"
    )]
    LockedMemory,
    /// The kernel does not know a flag or feature.
    #[error("this kernel lacks {feature} of io_uring: run Linux {since} or newer")]
    Missing {
        /// What is missing.
        feature: &'static str,
        /// The first kernel that has it.
        since: &'static str,
    },
    /// No descriptors are left.
    #[error("no descriptor is left for the ring: raise RLIMIT_NOFILE (`ulimit -n`, `LimitNOFILE=` of systemd)")]
    Descriptors,
    /// The configuration cannot be.
    #[error("the ring cannot be configured so: {reason}")]
    Configuration {
        /// Which setting, and what it must be.
        reason: &'static str,
    },
    /// Anything else.
    #[error("{step} failed, which has no known remedy: {error}")]
    Other {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

impl BootError {
    /// What a failed `io_uring_setup(2)` means. `disabled` is the value of `kernel.io_uring_disabled`, 0 where there is none.
    pub(super) fn of_setup(error: io::Error, disabled: u8) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) if disabled != 0 => Self::Disabled { value: disabled },
            Some(libc::EPERM) => Self::Blocked { errno_name: "EPERM" },
            Some(libc::EACCES) => Self::Blocked { errno_name: "EACCES" },
            Some(libc::ENOSYS) => Self::Blocked { errno_name: "ENOSYS" },
            Some(libc::ENOMEM) => Self::LockedMemory,
            Some(libc::EMFILE | libc::ENFILE) => Self::Descriptors,
            Some(libc::EINVAL) => Self::Missing { feature: "SINGLE_ISSUER or DEFER_TASKRUN", since: "6.1" },
            _ => Self::Other { step: "io_uring_setup", error },
        }
    }

    /// What a failed registration means.
    pub(super) fn of_registration(step: &'static str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOMEM) => Self::LockedMemory,
            Some(libc::EMFILE | libc::ENFILE) => Self::Descriptors,
            Some(libc::EPERM) => Self::Blocked { errno_name: "EPERM" },
            _ => Self::Other { step, error },
        }
    }
}

/// What `kernel.io_uring_disabled` says; 0 where it is unknown (before Linux 6.6).
pub(super) fn disabled_sysctl() -> u8 {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Asks the kernel for everything that [`Ring`](super::Ring) uses and that `io_uring_setup` did not already prove.
///
/// Multishot accept and receive and provided buffer rings cannot be asked for; `DEFER_TASKRUN` (6.1) is younger than all of them.
pub(super) fn probe(ring: &IoUring) -> Result<(), BootError> {
    let has = ring.params();
    let features = [
        (has.is_feature_nodrop(), "FEAT_NODROP (no completion is lost)", "5.5"),
        (has.is_feature_submit_stable(), "FEAT_SUBMIT_STABLE", "5.5"),
        (has.is_feature_fast_poll(), "FEAT_FAST_POLL", "5.7"),
        (has.is_feature_ext_arg(), "FEAT_EXT_ARG (waiting with a timeout)", "5.11"),
        (has.is_feature_skip_cqe_on_success(), "FEAT_CQE_SKIP", "5.17"),
    ];
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known).map_err(|error| BootError::of_registration("the probe", error))?;
    let operations = [
        (opcode::AcceptMulti::CODE, "the operation ACCEPT", "5.5"),
        (opcode::RecvMulti::CODE, "the operation RECV", "5.6"),
        (opcode::Send::CODE, "the operation SEND", "5.6"),
        (opcode::SendMsg::CODE, "the operation SENDMSG", "5.3"),
        (opcode::PollAdd::CODE, "the operation POLL_ADD", "5.1"),
        (opcode::AsyncCancel::CODE, "the operation ASYNC_CANCEL", "5.5"),
        (opcode::Read::CODE, "the operation READ", "5.6"),
        (opcode::MsgRingData::CODE, "the operation MSG_RING (shards wake each other)", "5.18"),
    ];
    let operations = operations.map(|(code, feature, since)| (known.is_supported(code), feature, since));
    match features.iter().chain(&operations).find(|(is_there, ..)| !is_there) {
        Some(&(_, feature, since)) => Err(BootError::Missing { feature, since }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(errno: i32, disabled: u8) -> String {
        BootError::of_setup(io::Error::from_raw_os_error(errno), disabled).to_string()
    }

    #[test]
    fn every_refusal_names_its_remedy() {
        assert!(of(libc::EPERM, 2).contains("sysctl kernel.io_uring_disabled=0"));
        assert!(!of(libc::EPERM, 2).contains("io_uring_group"));
        assert!(of(libc::EPERM, 1).contains("kernel.io_uring_group"));
        assert!(of(libc::EPERM, 0).contains("seccomp"));
        assert!(of(libc::ENOSYS, 0).contains("seccomp"));
        assert!(of(libc::ENOMEM, 0).contains("RLIMIT_MEMLOCK"));
        assert!(of(libc::EMFILE, 0).contains("RLIMIT_NOFILE"));
        assert!(of(libc::EINVAL, 0).contains("Linux 6.1"));
        assert!(of(libc::EIO, 0).contains("io_uring_setup failed"));
    }

    #[test]
    fn messages_are_one_line() {
        for errno in [libc::EPERM, libc::ENOSYS, libc::ENOMEM, libc::EMFILE, libc::EINVAL, libc::EIO] {
            for disabled in 0..3 {
                assert!(!of(errno, disabled).contains('\n'));
            }
        }
    }
}
