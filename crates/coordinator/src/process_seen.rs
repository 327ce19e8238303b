//! What the system tells of a worker that does not answer, without asking it.

use timeouts::process_state;

/// The most bytes of a kernel stack that are told.
const STACK_BYTES_MAX: usize = 512;

/// Its pid and state, and where its device thread (`device-RANK`) waits within the kernel, as far as this process may see that.
pub(crate) fn process_seen(pid: u32, rank: usize) -> String {
    let state = match process_state(pid) {
        Some('T' | 't') => "T: stopped".to_owned(),
        Some('D') => "D: waits for a device or a file system".to_owned(),
        Some('R') => "R: runs".to_owned(),
        Some('S') => "S: sleeps".to_owned(),
        Some('Z') => "Z: has ended".to_owned(),
        Some(other) => other.to_string(),
        None => "unknown".to_owned(),
    };
    let at = device_thread(pid, rank).map(|at| format!("; {at}")).unwrap_or_default();
    format!("process {pid}, state {state}{at}")
}

fn device_thread(pid: u32, rank: usize) -> Option<String> {
    let name = format!("device-{rank}");
    let is_device = |task: &std::path::PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let task = tasks.filter_map(Result::ok).map(|task| task.path()).find(is_device)?;
    let read = |file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
    let waits_in = match &*read("wchan") {
        "" | "0" => "runs outside of the kernel".to_owned(),
        place => format!("waits in {place}"),
    };
    // Only root may read it. Each line is `[<0>] function+offset`.
    let stack = read("stack");
    let stack: Vec<_> = stack.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    let stack = crate::fleet::shortened(&stack.join(" < "), STACK_BYTES_MAX);
    Some(if stack.is_empty() { format!("{name} {waits_in}") } else { format!("{name} {waits_in} ({stack})") })
}

#[cfg(test)]
mod tests {
    use super::process_seen;

    #[test]
    fn a_thread_is_seen_where_it_waits() {
        let (to, from) = std::sync::mpsc::channel::<()>();
        let wait = move || from.recv().is_ok();
        let thread = std::thread::Builder::new().name("device-7".to_owned()).spawn(wait).expect("a thread");
        let pid = std::process::id();
        let waits = |seen: &str| seen.contains("; device-7 waits in ") || seen.contains("; device-7 runs outside");
        let seen = (0..1000).map(|_| process_seen(pid, 7)).find(|seen| waits(seen)).expect("it waits");
        assert!(seen.starts_with(&format!("process {pid}, state ")), "{seen}");
        assert!(!process_seen(pid, 8).contains("device-"), "there is no such thread");
        drop(to);
        assert!(!thread.join().expect("no panic"));
        // A pid that no Linux gives to a process.
        assert_eq!(process_seen(u32::MAX, 0), format!("process {}, state unknown", u32::MAX));
    }
}
