//! A signal to a process that was started here.

use std::io;
use std::process::Child;

/// Asks a child to end in an orderly way (`SIGTERM`; kill(2)).
///
/// # Errors
/// If it was waited for already.
pub fn terminate(child: &mut Child) -> io::Result<()> {
    if child.try_wait()?.is_some() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it has ended already"));
    }
    let pid = libc::pid_t::try_from(child.id()).expect("the kernel counts processes in this type");
    // SAFETY: kill(2) takes no pointers. The child was not waited for, so its pid is not another process's.
    if unsafe { libc::kill(pid, libc::SIGTERM) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_is_told_once() {
        let mut child = Command::new("sleep").arg("600").spawn().expect("it is there");
        terminate(&mut child).expect("it runs");
        assert_eq!(child.wait().expect("it is ours").signal(), Some(libc::SIGTERM));
        terminate(&mut child).expect_err("it is gone");
    }
}
