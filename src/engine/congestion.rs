//! Congestion control of connections (`TCP_CONGESTION`, `tcp(7)`).

use std::io;
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Why sockets cannot have a congestion control. Says which ones they can have.
#[derive(Debug, thiserror::Error)]
#[error("no socket can have the congestion control \"{name}\"{}", advice(.source))]
pub struct CongestionError {
    /// What was asked for.
    pub name: String,
    /// What the kernel said.
    pub source: io::Error,
}

/// Has `socket` use it; what a listener accepts inherits it.
///
/// # Errors
/// If this kernel does not have it, or this process may not choose it.
pub(super) fn set(socket: &impl AsFd, name: &str) -> Result<(), CongestionError> {
    let result = SockRef::from(socket).set_tcp_congestion(name.as_bytes());
    result.map_err(|source| CongestionError { name: name.to_owned(), source })
}

/// Sees on a socket of its own that sockets can have it.
///
/// # Errors
/// If they cannot.
pub fn check_congestion(name: &str) -> Result<(), CongestionError> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
    set(&socket.map_err(|source| CongestionError { name: name.to_owned(), source })?, name)
}

fn advice(error: &io::Error) -> String {
    // Both lists are per network namespace (ip-sysctl).
    let words = |list: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/tcp_{list}_congestion_control"));
    let (what, list) = match error.kind() {
        io::ErrorKind::PermissionDenied => ("without CAP_NET_ADMIN only these may be chosen", "allowed"),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidInput => ("this kernel has these", "available"),
        _ => return format!(": {error}"),
    };
    match words(list) {
        Ok(names) => format!(": {what}: {} (net.ipv4.tcp_{list}_congestion_control)", names.trim()),
        Err(_) => format!(": {error}"),
    }
}
