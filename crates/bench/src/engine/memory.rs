//! What a process holds.

use std::io;
use std::path::Path;

/// Bytes of this process that are in memory.
pub(crate) fn resident_bytes() -> io::Result<u64> {
    resident_bytes_of(Path::new("/proc/self/status"))
}

fn resident_bytes_of(status: &Path) -> io::Result<u64> {
    let text = std::fs::read_to_string(status)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other(format!("{}: no VmRSS", status.display())))
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
    }
}
