//! Which CPUs are next to a GPU, and the binding of a rank's process to them.
//!
//! Memory needs no binding of its own: Linux takes a page from the node whose CPU touches it first, and the buffers from
//! which weights and steps are copied are touched by threads that are bound.

use crate::GpuInfo;
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
use std::io;
use std::path::Path;

/// Where Linux describes the machine.
pub const SYSFS: &str = "/sys";

/// What is next to a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuLocality {
    /// The node of memory and CPUs; `None` where the machine has but one, or does not tell.
    pub numa_node: Option<u32>,
    /// Processors, ascending.
    pub cpus: Vec<usize>,
}

impl GpuLocality {
    /// What Linux says is next to a GPU; `sysfs` is [`SYSFS`], but for tests. `None` where it does not say.
    #[must_use]
    pub fn of(gpu: &GpuInfo, sysfs: &Path) -> Option<Self> {
        let device = sysfs.join("bus/pci/devices").join(gpu.pci_bus_id.to_lowercase());
        let read = |file: &str| std::fs::read_to_string(device.join(file)).ok();
        let cpus = parse_cpu_list(read("local_cpulist")?.trim())?;
        // -1: the firmware does not say.
        let numa_node = read("numa_node").and_then(|node| node.trim().parse().ok());
        Some(Self { numa_node, cpus }).filter(|locality| !locality.cpus.is_empty())
    }

    /// Binds all threads of this process, and those that they will start, to those of the CPUs on which it may run. If it
    /// may run on none of them, nothing changes. Says how many they are.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn bind_process(&self) -> io::Result<usize> {
        let allowed = sched_getaffinity(None)?;
        let mut set = CpuSet::new();
        self.cpus.iter().filter(|&&cpu| cpu < CpuSet::MAX_CPU && allowed.is_set(cpu)).for_each(|&cpu| set.set(cpu));
        if set.count() == 0 {
            return Ok(0);
        }
        for task in std::fs::read_dir("/proc/self/task")? {
            let id = task?.file_name().to_str().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
            match sched_setaffinity(id, &set) {
                // It has ended in the meantime.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(set.count() as usize)
    }
}

/// A list as Linux writes it: `0-23,48-71`. `None` where it is none.
#[must_use]
pub fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?)
    };
    let ranges: Option<Vec<_>> = text.split(',').filter(|part| !part.is_empty()).map(range).collect();
    Some(ranges?.into_iter().flatten().collect())
}

/// A list as Linux writes it.
#[must_use]
pub fn cpu_list(cpus: &[usize]) -> String {
    let runs = cpus.chunk_by(|one, next| one + 1 == *next);
    let run = |run: &[usize]| match run {
        [one] => one.to_string(),
        _ => format!("{}-{}", run[0], run[run.len() - 1]),
    };
    runs.map(run).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn gpu() -> GpuInfo {
        GpuInfo {
            ordinal: 0,
            name: "a GPU".to_owned(),
            capability: (8, 0),
            memory_bytes: 0,
            multiprocessors: 1,
            shared: crate::SharedMemory { multiprocessor_bytes: 0, block_bytes_max: 0, reserved_bytes: 0 },
            pci_bus_id: "0000:1C:00.0".to_owned(),
        }
    }

    fn machine(cpus: &str, node: &str) -> TempDir {
        let sysfs = TempDir::new().unwrap();
        let device = sysfs.path().join("bus/pci/devices/0000:1c:00.0");
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(device.join("local_cpulist"), cpus).unwrap();
        std::fs::write(device.join("numa_node"), node).unwrap();
        sysfs
    }

    #[test]
    fn neighbours_are_read() {
        let of = |cpus, node| GpuLocality::of(&gpu(), machine(cpus, node).path());
        let both = GpuLocality { numa_node: Some(1), cpus: vec![2, 3, 4, 8] };
        assert_eq!(of("2-4,8\n", "1\n"), Some(both));
        assert_eq!(of("0\n", "-1\n"), Some(GpuLocality { numa_node: None, cpus: vec![0] }));
        assert_eq!(of("\n", "0\n"), None);
        assert_eq!(of("a-b\n", "0\n"), None);
        assert_eq!(GpuLocality::of(&gpu(), Path::new("/nowhere")), None);
    }

    #[test]
    fn lists_are_written_as_they_are_read() {
        for list in ["0-23,48-71", "3", "", "1,3,5-6"] {
            assert_eq!(cpu_list(&parse_cpu_list(list).unwrap()), list);
        }
    }

    #[test]
    fn a_process_is_bound_to_what_it_may_use() {
        let allowed = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)).unwrap();
        let bind = |cpus| GpuLocality { numa_node: None, cpus }.bind_process().unwrap();
        assert_eq!(bind(vec![CpuSet::MAX_CPU + 7]), 0);
        assert_eq!(sched_getaffinity(None).unwrap(), allowed);
        assert_eq!(bind(vec![first, CpuSet::MAX_CPU + 7]), 1);
        let bound = sched_getaffinity(None).unwrap();
        assert!(bound.count() == 1 && bound.is_set(first));
        let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
        std::fs::read_dir("/proc/self/task").unwrap().for_each(|task| {
            let id = Pid::from_raw(task.unwrap().file_name().to_str().unwrap().parse().unwrap());
            // The other tests of this program go on as before.
            let _ = sched_setaffinity(id, &allowed);
        });
        assert_eq!(all.len(), allowed.count() as usize);
    }
}
