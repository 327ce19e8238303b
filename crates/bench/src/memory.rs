//! What processes hold.

use std::io;

/// Bytes of this process that are in memory.
pub(crate) fn resident_bytes() -> io::Result<u64> {
    resident_bytes_of("self")
}

/// Bytes in memory of process `pid` and all that it has started.
pub(crate) fn resident_bytes_of_family(pid: &str) -> io::Result<u64> {
    let mut bytes = resident_bytes_of(pid)?;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let children = std::fs::read_to_string(task?.path().join("children"))?;
        for child in children.split_whitespace() {
            // One that ends meanwhile holds nothing.
            bytes += resident_bytes_of_family(child).unwrap_or(0);
        }
    }
    Ok(bytes)
}

fn resident_bytes_of(pid: &str) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other(format!("process {pid} does not tell its memory")))
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
}
