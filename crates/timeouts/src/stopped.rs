//! The state of a process, as Linux tells it.

/// Whether process `pid` is stopped by a signal (SIGSTOP, ctrl-z) or by a debugger. `false` if there is no such process, or
/// no `/proc`.
#[must_use]
pub fn is_stopped(pid: u32) -> bool {
    matches!(process_state(pid), Some('T' | 't'))
}

/// The state of process `pid`, by its letter in proc_pid_stat(5): `R` runs, `S` sleeps, `D` waits for a device, `T` is stopped by a
/// signal, `t` by a debugger, `Z` has ended. `None` if there is no such process, or no `/proc`.
#[must_use]
pub fn process_state(pid: u32) -> Option<char> {
    // The state follows the program's name, which is in parentheses and may hold any bytes.
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    stat.get(end + 2).copied().map(char::from)
}

#[cfg(test)]
mod tests {
    use super::is_stopped;
    use std::process::{Child, Command};

    /// Sends a signal, and waits until the process is seen as stopped or not.
    fn signal(child: &Child, name: &str, stopped: bool) {
        let pid = child.id();
        assert!(Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().expect("a shell").success());
        let seen = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            is_stopped(pid) == stopped
        });
        assert!(seen, "after SIG{name}");
    }

    #[test]
    fn a_stopped_process_is_seen() {
        let mut child = Command::new("sleep").arg("600").spawn().expect("a process");
        assert!(!is_stopped(child.id()));
        signal(&child, "STOP", true);
        signal(&child, "CONT", false);
        signal(&child, "STOP", true);
        child.kill().expect("our child");
        child.wait().expect("our child");
        assert!(!is_stopped(child.id()), "it has ended");
    }
}
