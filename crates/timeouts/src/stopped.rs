//! The state of a process, as Linux tells it.

/// Whether process `pid` is stopped by a signal (SIGSTOP, ctrl-z) or by a debugger. `false` if there is no such process, or
/// no `/proc`.
#[must_use]
pub fn is_stopped(pid: u32) -> bool {
    // proc_pid_stat(5): the state follows the program's name, which is in parentheses and may hold any bytes.
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.iter().rposition(|&byte| byte == b')').and_then(|end| stat.get(end + 2));
    matches!(state, Some(b'T' | b't'))
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
