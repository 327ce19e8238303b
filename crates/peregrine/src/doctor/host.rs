//! CPUs, memory, and the system's limits.

use backend_cpu::Isa;
use rustix::process::{Resource, Rlimit, getrlimit};
use serde::Serialize;
use std::fmt;

/// What was found of the host.
pub(super) struct Found {
    pub(super) cpu: Cpu,
    pub(super) huge_pages: HugePages,
    pub(super) limits: Limits,
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// The CPUs.
#[derive(Debug, Serialize)]
pub(super) struct Cpu {
    /// Cores that this process may use.
    cores: usize,
    /// The best that there is, which the cpu backend takes.
    instruction_set: String,
    /// All that there are.
    instruction_sets: Vec<String>,
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others: Vec<&str> = self.instruction_sets.iter().map(String::as_str).collect();
        write!(f, "{} cores, {} (of {})", self.cores, self.instruction_set, others.join(", "))
    }
}

/// Whether memory comes in pages of 2 MiB.
#[derive(Debug, Serialize)]
pub(super) struct HugePages {
    /// `always`, `madvise` or `never`; `None` where the system does not say.
    transparent: Option<String>,
}

impl fmt::Display for HugePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "transparent huge pages: {}", self.transparent.as_deref().unwrap_or("the system does not say"))
    }
}

/// Limits of a process.
#[derive(Debug, Serialize)]
pub(super) struct Limits {
    open_files: Limit,
    /// In bytes.
    locked_memory: Limit,
}

/// `None` is no limit.
#[derive(Debug, Serialize)]
struct Limit {
    soft: Option<u64>,
    hard: Option<u64>,
}

impl From<Rlimit> for Limit {
    fn from(limit: Rlimit) -> Self {
        Self { soft: limit.current, hard: limit.maximum }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
        write!(f, "{} (up to {})", limit(self.soft), limit(self.hard))
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} open files, {} bytes of locked memory", self.open_files, self.locked_memory)
    }
}

/// Each connection takes a descriptor, and so do files of a model, workers and the system's libraries.
const OPEN_FILES_LEAST: u64 = 256;
/// As many connections as requests that may be under way, with some to spare.
const OPEN_FILES_ENOUGH: u64 = 2048;

const TRANSPARENT_HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Looks at the host.
pub(super) fn look() -> Found {
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let best = Isa::detect();
    let cpu = Cpu {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        instruction_set: best.to_string(),
        instruction_sets: Isa::ALL.into_iter().filter(|isa| isa.supported()).map(|isa| isa.to_string()).collect(),
    };
    if best == Isa::Plain {
        warnings.push("the CPUs have neither AVX-512 nor AVX2: plain code is many times slower".to_owned());
    }
    let enabled = std::fs::read_to_string(TRANSPARENT_HUGE_PAGES).ok();
    let huge_pages = HugePages { transparent: enabled.as_deref().and_then(chosen).map(str::to_owned) };
    if huge_pages.transparent.as_deref() == Some("never") {
        let fix = format!("echo madvise > {TRANSPARENT_HUGE_PAGES}");
        warnings.push(format!("transparent huge pages are off: reading weights is slower on CPUs; as root: {fix}"));
    }
    let limits =
        Limits { open_files: getrlimit(Resource::Nofile).into(), locked_memory: getrlimit(Resource::Memlock).into() };
    if let Some(most) = limits.open_files.hard {
        let told = format!("a process may have {most} open files, and each connection takes one: raise `ulimit -Hn`");
        match most {
            _ if most < OPEN_FILES_LEAST => problems.push(told),
            _ if most < OPEN_FILES_ENOUGH => warnings.push(told),
            _ => {}
        }
    }
    Found { cpu, huge_pages, limits, problems, warnings }
}

/// The word in brackets, as in `always [madvise] never`.
fn chosen(enabled: &str) -> Option<&str> {
    enabled.split_once('[')?.1.split_once(']').map(|(chosen, _)| chosen)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_chosen_word_is_in_brackets() {
        assert_eq!(super::chosen("always [madvise] never\n"), Some("madvise"));
        assert_eq!(super::chosen("always"), None);
    }
}
