//! Memory of this machine that may still be taken.
//!
//! The system's own figure is in /proc/meminfo. A control group may allow less: its limit stands in files of the group and of
//! each group above it, in the form of version 2 or 1. Where there is no /proc, the kernel is asked for free memory alone.

use rustix::system::sysinfo;
use std::path::{Path, PathBuf};

/// Bytes that this process may still take, with what others and its own control group can give back.
#[must_use]
pub fn available_bytes() -> u64 {
    available_below(Path::new("/")).unwrap_or_else(free_bytes)
}

/// As the files below `root` say; `None` if there is no meminfo.
fn available_below(root: &Path) -> Option<u64> {
    let meminfo = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    // The kernel's own estimate, of Linux 3.14 and later; else what is free now.
    let available = meminfo_bytes(&meminfo, "MemAvailable").or_else(|| meminfo_bytes(&meminfo, "MemFree"))?;
    Some(group_bytes(root).map_or(available, |group| available.min(group)))
}

/// Free memory. Without /proc nobody says how much of the page cache could be had back.
fn free_bytes() -> u64 {
    let info = sysinfo();
    info.freeram as u64 * u64::from(info.mem_unit)
}

fn meminfo_bytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A version's names of files, and of what of the page cache can be given back.
struct GroupFiles {
    limit: &'static str,
    used: &'static str,
    reclaimable: [&'static str; 2],
}

const VERSION_2: GroupFiles =
    GroupFiles { limit: "memory.max", used: "memory.current", reclaimable: ["inactive_file", "active_file"] };
const VERSION_1: GroupFiles = GroupFiles {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: ["total_inactive_file", "total_active_file"],
};

/// What the control groups of this process leave; `None` if none has a limit.
fn group_bytes(root: &Path) -> Option<u64> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let left = |line: &str| {
        // NUMBER:CONTROLLERS:PATH; version 2 has no controllers.
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let of_memory = controllers.split(',').any(|controller| controller == "memory");
        match controllers {
            "" => group_left(&root.join("sys/fs/cgroup"), path, &VERSION_2),
            _ if of_memory => group_left(&root.join("sys/fs/cgroup/memory"), path, &VERSION_1),
            _ => None,
        }
    };
    groups.lines().filter_map(left).min()
}

/// The least that is left to a group and to those above it. Within a container the path may be that of the host, which is not
/// there: then its own group is the mount point itself.
fn group_left(mount: &Path, path: &str, files: &GroupFiles) -> Option<u64> {
    let group: PathBuf = mount.join(path.trim_start_matches('/'));
    let above = group.ancestors().take_while(|group| group.starts_with(mount));
    above.filter_map(|group| left_in(group, files)).min()
}

fn left_in(group: &Path, files: &GroupFiles) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    // "max" is no number, and no limit.
    let limit = number(files.limit)?;
    let stat = read("memory.stat").unwrap_or_default();
    let field = |name: &str| {
        stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
    };
    let reclaimable: u64 = files.reclaimable.into_iter().filter_map(field).sum::<u64>();
    let used = number(files.used)?.saturating_sub(reclaimable);
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal: 4000 kB\nMemFree: 100 kB\nMemAvailable:   3000 kB\n");
    const KIB: u64 = 1024;

    #[test]
    fn without_groups_it_is_what_the_system_says() {
        assert_eq!(available_below(root(&[MEMINFO]).path()), Some(3000 * KIB));
        let old = root(&[("proc/meminfo", "MemTotal: 4000 kB\nMemFree: 100 kB\n")]);
        assert_eq!(available_below(old.path()), Some(100 * KIB));
    }

    #[test]
    fn without_proc_free_memory_is_asked_for() {
        assert_eq!(available_below(root(&[]).path()), None);
        assert!(free_bytes() > 0 && available_bytes() > 0);
    }

    #[test]
    fn the_tightest_group_above_counts_without_its_page_cache() {
        let of_version_2 = root(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/outer/inner\n"),
            ("sys/fs/cgroup/outer/memory.max", "1000000\n"),
            ("sys/fs/cgroup/outer/memory.current", "400000\n"),
            ("sys/fs/cgroup/outer/memory.stat", "anon 5\ninactive_file 100000\nactive_file 50000\n"),
            ("sys/fs/cgroup/outer/inner/memory.max", "max\n"),
            ("sys/fs/cgroup/outer/inner/memory.current", "400000\n"),
        ]);
        assert_eq!(available_below(of_version_2.path()), Some(1_000_000 - 400_000 + 150_000));
        let of_version_1 = root(&[
            MEMINFO,
            ("proc/self/cgroup", "3:cpu,cpuacct:/x\n2:memory:/x\n0::/x\n"),
            ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "800000\n"),
            ("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "300000\n"),
            ("sys/fs/cgroup/memory/x/memory.stat", "total_inactive_file 100000\n"),
            // What is no limit is a huge number.
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n"),
        ]);
        assert_eq!(available_below(of_version_1.path()), Some(600_000));
    }

    #[test]
    fn in_a_container_the_mount_point_is_the_group() {
        let container = root(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/docker/0123\n"),
            ("sys/fs/cgroup/memory.max", "1000000\n"),
            ("sys/fs/cgroup/memory.current", "999999\n"),
        ]);
        assert_eq!(available_below(container.path()), Some(1));
    }
}
