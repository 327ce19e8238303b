//! What a container, a control group or a service manager allows.

use super::check::Check;
use crate::units::gb;
use std::path::Path;

/// What is needed of it.
pub(super) struct Needs {
    pub(super) ranks: usize,
    pub(super) on_gpus: bool,
    /// Threads of each rank that compute.
    pub(super) threads: usize,
}

/// NCCL's ranks meet in files there: some 10 MB for each pair of them and channel.
const SHM_BYTES_PER_RANK: u64 = 64 << 20;
/// A rank's own threads beside those that compute: CUDA's, NCCL's, the control service.
const THREADS_BESIDE: usize = 24;
/// Of the coordinator.
const COORDINATOR_THREADS: usize = 64;
/// What a rank on a GPU takes of the host: the driver's part, staging, its program.
const HOST_BYTES_PER_GPU_RANK: u64 = 2 << 30;
/// What the driver and NCCL lock.
const LOCKED_BYTES: u64 = 8 << 20;

/// Looks at the limits that the files below `root` tell.
pub(super) fn look(root: &Path, needs: &Needs) -> Vec<Check> {
    let mut checks = Vec::new();
    if needs.on_gpus && needs.ranks > 1 {
        checks.extend(shm(root, needs.ranks));
    }
    if needs.on_gpus {
        checks.extend(memlock(root));
    }
    checks.extend(pids(root, needs));
    checks.extend(memory(root, needs));
    checks
}

fn shm(root: &Path, ranks: usize) -> Option<Check> {
    let mounts = std::fs::read_to_string(root.join("proc/self/mounts")).ok()?;
    // The last one is seen. Without a size it is half of the memory.
    let mount = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some("/dev/shm"));
    let Some(mount) = mount else {
        let remedy = "mount a tmpfs at /dev/shm";
        return Some(Check::warn("/dev/shm", "there is none, and NCCL's ranks meet there", remedy));
    };
    let options = mount.split(' ').nth(3)?;
    let size = options.split(',').find_map(|option| size_bytes(option.strip_prefix("size=")?));
    let needed = SHM_BYTES_PER_RANK * ranks as u64;
    Some(match size {
        Some(size) if size < needed => Check::warn(
            "/dev/shm",
            format!("it has {} GB, and NCCL may want {} GB for {ranks} ranks", gb(size), gb(needed)),
            "docker run --shm-size=2g; in Kubernetes an emptyDir with medium: Memory, mounted at /dev/shm",
        ),
        Some(size) => Check::pass("/dev/shm", format!("{} GB", gb(size))),
        None => Check::pass("/dev/shm", "no limit of its own"),
    })
}

/// A size as the mount's options have it: in bytes, or with k, m, g, or in percent of the memory, which is enough.
fn size_bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return None,
    };
    number.checked_shl(shift)
}

fn memlock(root: &Path) -> Option<Check> {
    const NAME: &str = "memlock";
    let limits = std::fs::read_to_string(root.join("proc/self/limits")).ok()?;
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max locked memory")?.split_whitespace().next())?;
    // "unlimited" is no number.
    Some(match soft.parse::<u64>() {
        Ok(bytes) if bytes < LOCKED_BYTES => Check::warn(
            NAME,
            format!("a process may lock {bytes} bytes; the driver and NCCL may want {LOCKED_BYTES}"),
            "docker run --ulimit memlock=-1; LimitMEMLOCK=infinity in a unit; ulimit -l",
        ),
        Ok(bytes) => Check::pass(NAME, format!("{bytes} bytes may be locked")),
        Err(_) => Check::pass(NAME, "no limit"),
    })
}

fn pids(root: &Path, needs: &Needs) -> Option<Check> {
    let threads = COORDINATOR_THREADS + needs.ranks * (needs.threads + THREADS_BESIDE);
    let most = least(root, "pids", "pids.max");
    Some(match most {
        Some(most) if most < threads as u64 => Check::fail(
            "pids",
            format!("the control group allows {most} threads, and {} ranks need up to {threads}", needs.ranks),
            "docker run --pids-limit=-1; podPidsLimit of the kubelet; TasksMax=infinity in a unit",
        ),
        Some(most) => Check::pass("pids", format!("{most} threads, of which up to {threads} are needed")),
        None => Check::pass("pids", "no limit"),
    })
}

/// On CPUs the model's own line says whether it fits.
fn memory(root: &Path, needs: &Needs) -> Option<Check> {
    let (file, name) = ("memory.max", "cgroup memory");
    let most = least(root, "memory", file).or_else(|| least(root, "memory", "memory.limit_in_bytes"));
    // Version 1 writes no limit as a very large one.
    let Some(most) = most.filter(|most| *most < 1 << 60) else { return Some(Check::pass(name, "no limit")) };
    let needed = HOST_BYTES_PER_GPU_RANK * needs.ranks as u64;
    if needs.on_gpus && most < needed {
        let found = format!(
            "the control group allows {} GB; {} ranks on GPUs take up to {} GB of the host",
            gb(most),
            needs.ranks,
            gb(needed)
        );
        return Some(Check::fail(
            name,
            found,
            "docker run --memory; resources.limits.memory of the pod; MemoryMax= in a unit",
        ));
    }
    Some(Check::pass(name, format!("{} GB", gb(most))))
}

/// The least that this process' control groups allow, of a file of a controller; `None` where none has a limit.
fn least(root: &Path, controller: &str, file: &str) -> Option<u64> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let in_group = |line: &str| {
        // NUMBER:CONTROLLERS:PATH; version 2 has no controllers.
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let mount = match controllers {
            "" => root.join("sys/fs/cgroup"),
            _ if controllers.split(',').any(|name| name == controller) => root.join("sys/fs/cgroup").join(controller),
            _ => return None,
        };
        let group = mount.join(path.trim_start_matches('/'));
        let above = group.ancestors().take_while(|group| group.starts_with(&mount));
        above.filter_map(|group| std::fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok()).min()
    };
    groups.lines().filter_map(in_group).min()
}

#[cfg(test)]
mod tests {
    use super::super::check::Verdict;
    use super::*;

    const NODE: Needs = Needs { ranks: 8, on_gpus: true, threads: 1 };

    const LITTLE: &str =
        "Limit Soft Hard Units\nMax locked memory         65536                65536                bytes\n";
    const MUCH: &str = "Max locked memory         unlimited            unlimited            bytes\n";

    /// Verdicts by name, with these files.
    fn verdicts(files: &[(&str, &str)], needs: &Needs) -> Vec<(&'static str, Verdict)> {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        let checks = look(root.path(), needs);
        assert!(checks.iter().all(|check| (check.verdict == Verdict::Pass) == check.remedy.is_none()), "{checks:?}");
        checks.into_iter().map(|check| (check.name, check.verdict)).collect()
    }

    const GROUP: (&str, &str) = ("proc/self/cgroup", "0::/a/b\n");

    #[test]
    fn a_container_as_docker_makes_it() {
        let mounts = "overlay / overlay rw 0 0\nshm /dev/shm tmpfs rw,nosuid,size=65536k,inode64 0 0\n";
        let files = [
            ("proc/self/mounts", mounts),
            ("proc/self/limits", LITTLE),
            GROUP,
            ("sys/fs/cgroup/a/pids.max", "100\n"),
            ("sys/fs/cgroup/a/b/pids.max", "max\n"),
            ("sys/fs/cgroup/memory.max", "1073741824\n"),
        ];
        let found = verdicts(&files, &NODE);
        let (warn, fail) = (Verdict::Warn, Verdict::Fail);
        assert_eq!(found, [("/dev/shm", warn), ("memlock", warn), ("pids", fail), ("cgroup memory", fail)]);
        let on_cpus = verdicts(&files, &Needs { ranks: 2, on_gpus: false, threads: 4 });
        assert_eq!(on_cpus, [("pids", fail), ("cgroup memory", Verdict::Pass)]);
    }

    #[test]
    fn a_machine_of_its_own() {
        let version_1 = "5:memory:/\n4:cpu,pids:/user\n";
        for groups in [version_1, "0::/\n"] {
            let files = [
                ("proc/self/mounts", "tmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0\n"),
                ("proc/self/cgroup", groups),
                ("proc/self/limits", MUCH),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ];
            let found = verdicts(&files, &NODE);
            assert_eq!(found.len(), 4);
            assert!(found.iter().all(|(_, verdict)| *verdict == Verdict::Pass), "{found:?}");
        }
    }

    #[test]
    fn version_1_has_folders_for_its_controllers() {
        let files = [("proc/self/cgroup", "4:cpu,pids:/user\n"), ("sys/fs/cgroup/pids/user/pids.max", "20\n")];
        let found = verdicts(&files, &Needs { ranks: 1, on_gpus: false, threads: 1 });
        assert_eq!(found[0], ("pids", Verdict::Fail));
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in
            [("65536k", Some(64 << 20)), ("2g", Some(2 << 30)), ("4096", Some(4096)), ("50%", None), ("x", None)]
        {
            assert_eq!(size_bytes(text), bytes, "{text}");
        }
    }
}
