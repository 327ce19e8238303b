//! What processes hold, and what they have used.

use rustix::param::clock_ticks_per_second;
use std::io;
use std::time::Duration;

/// Bytes of this process that are in memory.
pub(crate) fn resident_bytes() -> io::Result<u64> {
    resident_bytes_of("self")
}

/// Bytes in memory of process `pid` and all that it has started.
pub(crate) fn resident_bytes_of_family(pid: &str) -> io::Result<u64> {
    let others: u64 = family(pid)?[1..].iter().map(|pid| resident_bytes_of(pid).unwrap_or(0)).sum();
    Ok(resident_bytes_of(pid)? + others)
}

/// Processor time that this process and all that it has started have used, to a tick of the kernel's clock.
pub(crate) fn cpu_time_of_family() -> io::Result<Duration> {
    let ticks: u64 = family("self")?.iter().map(|pid| cpu_ticks_of(pid).unwrap_or(0)).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
}

/// The pid of this process's worker of a rank.
pub(crate) fn worker(rank: u32) -> io::Result<i32> {
    let is_of_rank = |pid: &&String| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|&byte| byte == 0).skip_while(|word| *word != b"--rank").skip(1);
        words.next() == Some(rank.to_string().as_bytes())
    };
    let family = family("self")?;
    let pid = family[1..].iter().find(is_of_rank).and_then(|pid| pid.parse().ok());
    pid.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such process"))
}

/// Process `pid`, and all that it has started. One that ends meanwhile holds nothing.
fn family(pid: &str) -> io::Result<Vec<String>> {
    let mut family = vec![pid.to_owned()];
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may have ended since.
        let children = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        family.extend(children.split_whitespace().flat_map(|child| self::family(child).unwrap_or_default()));
    }
    Ok(family)
}

fn resident_bytes_of(pid: &str) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other(format!("process {pid} does not tell its memory")))
}

/// Of the process in user mode and in the kernel.
fn cpu_ticks_of(pid: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may have spaces and brackets; the state comes behind it.
    let mut fields = text[text.rfind(')')? + 1..].split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_written_to_is_resident() {
        let before = resident_bytes().expect("a process has memory");
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        let after = resident_bytes().expect("a process has memory");
        assert!(after >= before + (60 << 20), "{before} {after} {}", block.len());
        assert!(resident_bytes_of_family("self").expect("a process has memory") >= after / 2);
    }

    #[test]
    fn work_takes_processor_time() {
        let before = cpu_time_of_family().expect("a process tells");
        let used = || cpu_time_of_family().expect("a process tells") - before;
        // However slow the machine is, the work is counted in the end.
        while used() < Duration::from_millis(50) {
            std::hint::black_box((0..100_000u64).fold(0, |sum: u64, n| sum.wrapping_add(n * n)));
        }
    }
}
