//! The switches, which are environment variables, and the devices that can be stood in for.
//!
//! [`SWITCHES`] is the table of all of them; every one is read once, when it is first asked for.

use crate::exec::launch::CopyMode;
use crate::nvml::facts::Facts;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A switch: its variable, its default, and what it does.
pub struct Switch {
    /// The environment variable.
    pub name: &'static str,
    /// What holds if it is not set.
    pub default: &'static str,
    /// What it does.
    pub doc: &'static str,
}

const fn switch(name: &'static str, default: &'static str, doc: &'static str) -> Switch {
    Switch { name, default, doc }
}

/// All switches.
pub const SWITCHES: &[Switch] = &[
    switch("CUDA_STANDIN_DEVICES", "8", "how many devices there are"),
    switch("CUDA_STANDIN_MODEL", "A100", "what they are: A100, A10G or H100"),
    switch("CUDA_STANDIN_MEMORY_MB", "4096", "memory of each device in MiB; 0: what the model has"),
    switch("CUDA_STANDIN_DRIVER", "12020", "the driver's CUDA version, as cuDriverGetVersion gives it"),
    switch("CUDA_STANDIN_THREADS", "0", "OS threads that run a kernel's blocks; 0: one for each CPU"),
    switch("CUDA_STANDIN_SEED", "0", "not 0: warps run in random order, a few instructions at a time"),
    switch("CUDA_STANDIN_COPIES", "late", "late: cp.async copies when it is waited for; early: when it is issued"),
    switch("CUDA_STANDIN_LIMIT_MS", "0", "a kernel that runs for longer fails; 0: there is no limit"),
    switch("CUDA_STANDIN_NO_PEER", "", "pairs of devices without peer access, as in 0-1,2-3; or all"),
    switch("CUDA_STANDIN_DIE", "", "DEVICE:N, the process ends at the N-th kernel launch on the device, from 1"),
    switch(
        "CUDA_STANDIN_DIE_CAPTURE",
        "",
        "DEVICE:N, the process ends in its N-th stream capture on the device, from 1",
    ),
    switch("CUDA_STANDIN_ECC", "", "DEVICE:N, the N-th kernel launch on the device is an uncorrectable ECC error"),
    switch("CUDA_STANDIN_HANG", "", "RANK:N, the rank never comes to the N-th collective of its communicator, from 1"),
    switch(
        "CUDA_STANDIN_NVML",
        "",
        "what NVML tells that is not as on a healthy node, as in 3.ecc_uncorrected=2,5.link_down=4; see `nvml::facts`",
    ),
    switch("CUDA_STANDIN_ONCE", "", "a file that must not exist: with it, of all processes one fault happens, once"),
    switch("CUDA_STANDIN_NCCL_TIMEOUT_MS", "600000", "how long a collective or a communicator's set-up waits"),
    switch("CUDA_STANDIN_PTX", "", "a file with PTX that runs in place of each module that has the same kernels"),
    switch("CUDA_STANDIN_REPORT", "", "counts what kernels do to memory, and writes it to this path, with .PID added"),
    switch("CUDA_STANDIN_TRACE", "0", "1: a line on standard error for each launch"),
];

/// What a kernel and its caller can see of a device.
#[derive(Debug)]
pub struct Model {
    /// As `CUDA_STANDIN_MODEL` has it.
    pub key: &'static str,
    /// As the driver gives it.
    pub name: &'static str,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Multiprocessors.
    pub sms: u32,
    /// Shared memory that a block may have if it asks for it.
    pub shared_optin_bytes: usize,
    /// Shared memory of a multiprocessor.
    pub shared_sm_bytes: usize,
    /// Threads of a multiprocessor.
    pub threads_per_sm: u32,
    /// Blocks of a multiprocessor.
    pub blocks_per_sm: u32,
    /// Device memory.
    pub memory_bytes: u64,
    /// Level 2 cache.
    pub l2_bytes: u32,
    /// Width of the memory bus.
    pub bus_bits: u32,
    /// Clock of the memory.
    pub memory_khz: u32,
    /// Clock of the multiprocessors.
    pub clock_khz: u32,
}

/// Shared memory that a block may have without asking.
pub const SHARED_DEFAULT_BYTES: usize = 48 << 10;
/// Shared memory of a block that the system takes.
pub const SHARED_RESERVED_BYTES: usize = 1 << 10;

const MODELS: &[Model] = &[
    Model {
        key: "A100",
        name: "Stand-in A100-SXM4-80GB",
        capability: (8, 0),
        sms: 108,
        shared_optin_bytes: 163 << 10,
        shared_sm_bytes: 164 << 10,
        threads_per_sm: 2048,
        blocks_per_sm: 32,
        memory_bytes: 80 << 30,
        l2_bytes: 40 << 20,
        bus_bits: 5120,
        memory_khz: 1_593_000,
        clock_khz: 1_410_000,
    },
    Model {
        key: "A10G",
        name: "Stand-in A10G",
        capability: (8, 6),
        sms: 80,
        shared_optin_bytes: 99 << 10,
        shared_sm_bytes: 100 << 10,
        threads_per_sm: 1536,
        blocks_per_sm: 16,
        memory_bytes: 22 << 30,
        l2_bytes: 6 << 20,
        bus_bits: 384,
        memory_khz: 6_251_000,
        clock_khz: 1_710_000,
    },
    Model {
        key: "H100",
        name: "Stand-in H100-SXM5-80GB",
        capability: (9, 0),
        sms: 132,
        shared_optin_bytes: 227 << 10,
        shared_sm_bytes: 228 << 10,
        threads_per_sm: 2048,
        blocks_per_sm: 32,
        memory_bytes: 80 << 30,
        l2_bytes: 50 << 20,
        bus_bits: 5120,
        memory_khz: 2_619_000,
        clock_khz: 1_980_000,
    },
];

impl Model {
    /// Blocks that the device holds at a time.
    pub fn resident(&self, threads: u32, shared_bytes: usize) -> usize {
        self.blocks_held(threads, shared_bytes) * self.sms as usize
    }

    /// Blocks that one multiprocessor holds at a time, registers not considered.
    pub fn blocks_held(&self, threads: u32, shared_bytes: usize) -> usize {
        let by_threads = self.threads_per_sm / threads.next_multiple_of(32).max(32);
        let by_shared = self.shared_sm_bytes / (shared_bytes + SHARED_RESERVED_BYTES);
        (by_threads.min(self.blocks_per_sm) as usize).min(by_shared)
    }
}

/// The N-th time that something happens to a device or rank.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nth {
    /// The device or rank.
    pub who: usize,
    /// From one.
    pub nth: u64,
}

/// All switches, read.
#[derive(Debug)]
pub struct Config {
    pub devices: usize,
    pub model: &'static Model,
    pub memory_bytes: u64,
    pub driver: i32,
    pub threads: usize,
    pub seed: u64,
    pub copies: CopyMode,
    pub time_limit: Option<Duration>,
    /// Pairs without peer access; none means all.
    no_peer: Option<Vec<(usize, usize)>>,
    pub die: Option<Nth>,
    pub die_capture: Option<Nth>,
    pub ecc: Option<Nth>,
    /// Facts of devices that NVML tells, in place of a healthy one's.
    pub nvml: Facts,
    pub hang: Option<Nth>,
    once: Option<String>,
    pub nccl_timeout: Duration,
    pub ptx: Option<String>,
    pub report: Option<String>,
    pub trace: bool,
}

/// The switches of this process. One that cannot be read ends it: a test that does not test what it says is worse.
pub fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| {
        Config::read(|name| std::env::var(name).ok()).unwrap_or_else(|error| {
            eprintln!("cuda-standin: {error}\nThe switches are:");
            for Switch { name, default, doc } in SWITCHES {
                eprintln!("  {name} (`{default}`): {doc}");
            }
            std::process::exit(2);
        })
    })
}

impl Config {
    /// Reads all switches from what `variable` gives.
    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let text = |name: &str| {
            let switch = SWITCHES.iter().find(|switch| switch.name == name).expect("it is in the table");
            variable(name).unwrap_or_else(|| switch.default.to_owned())
        };
        let number = |name: &str| {
            let text = text(name);
            text.parse::<u64>().map_err(|_| format!("{name}: expected a number, found `{text}`"))
        };
        let nth = |name: &str| parse_nth(name, &text(name));
        let path = |name: &str| Some(text(name)).filter(|path| !path.is_empty());
        let key = text("CUDA_STANDIN_MODEL");
        let model = MODELS.iter().find(|model| model.key.eq_ignore_ascii_case(&key));
        let model = model.ok_or_else(|| format!("CUDA_STANDIN_MODEL: expected A100, A10G or H100, found `{key}`"))?;
        let memory_bytes = match number("CUDA_STANDIN_MEMORY_MB")? {
            0 => model.memory_bytes,
            mebibytes => mebibytes << 20,
        };
        let threads = match number("CUDA_STANDIN_THREADS")? {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads as usize,
        };
        let copies = match text("CUDA_STANDIN_COPIES").as_str() {
            "late" => CopyMode::Late,
            "early" => CopyMode::Early,
            other => return Err(format!("CUDA_STANDIN_COPIES: expected late or early, found `{other}`")),
        };
        let limit_ms = number("CUDA_STANDIN_LIMIT_MS")?;
        Ok(Self {
            devices: number("CUDA_STANDIN_DEVICES")? as usize,
            model,
            memory_bytes,
            driver: number("CUDA_STANDIN_DRIVER")? as i32,
            threads,
            seed: number("CUDA_STANDIN_SEED")?,
            copies,
            time_limit: (limit_ms > 0).then(|| Duration::from_millis(limit_ms)),
            no_peer: parse_pairs(&text("CUDA_STANDIN_NO_PEER"))?,
            die: nth("CUDA_STANDIN_DIE")?,
            die_capture: nth("CUDA_STANDIN_DIE_CAPTURE")?,
            ecc: nth("CUDA_STANDIN_ECC")?,
            nvml: Facts::parse(&text("CUDA_STANDIN_NVML"))?,
            hang: nth("CUDA_STANDIN_HANG")?,
            once: path("CUDA_STANDIN_ONCE"),
            nccl_timeout: Duration::from_millis(number("CUDA_STANDIN_NCCL_TIMEOUT_MS")?),
            ptx: path("CUDA_STANDIN_PTX"),
            report: path("CUDA_STANDIN_REPORT"),
            trace: number("CUDA_STANDIN_TRACE")? != 0,
        })
    }

    /// Whether two devices can access each other's memory.
    pub fn peers(&self, a: usize, b: usize) -> bool {
        let lost = |pairs: &Vec<(usize, usize)>| pairs.contains(&(a, b)) || pairs.contains(&(b, a));
        a == b || self.no_peer.as_ref().is_some_and(|pairs| !lost(pairs))
    }

    /// Whether a fault happens now: it is the `count`-th time for `who`, and no process has had its one fault yet.
    pub fn strikes(&self, fault: Option<Nth>, who: usize, count: u64) -> bool {
        if fault != Some(Nth { who, nth: count }) {
            return false;
        }
        match &self.once {
            Some(path) => std::fs::File::create_new(path).is_ok(),
            None => true,
        }
    }
}

fn parse_nth(name: &str, text: &str) -> Result<Option<Nth>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed =
        text.split_once(':').and_then(|(who, nth)| Some(Nth { who: who.parse().ok()?, nth: nth.parse().ok()? }));
    parsed.map(Some).ok_or_else(|| format!("{name}: expected two numbers as in 1:100, found `{text}`"))
}

fn parse_pairs(text: &str) -> Result<Option<Vec<(usize, usize)>>, String> {
    if text == "all" {
        return Ok(None);
    }
    let pair = |pair: &str| pair.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let pairs: Option<Vec<_>> = text.split(',').filter(|part| !part.is_empty()).map(pair).collect();
    pairs.map(Some).ok_or_else(|| format!("CUDA_STANDIN_NO_PEER: expected pairs as in 0-1,2-3 or all, found `{text}`"))
}

/// Counts from one.
#[derive(Default, Debug)]
pub struct Count(AtomicU64);

impl Count {
    /// The next number.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, String> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name);
        Config::read(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_defaults_are_read() {
        let config = read(&[]).unwrap();
        assert_eq!((config.devices, config.model.sms, config.driver, config.seed), (8, 108, 12020, 0));
        assert!(config.peers(0, 7) && !config.strikes(config.die, 0, 1));
    }

    #[test]
    fn switches_are_read() {
        let config = read(&[
            ("CUDA_STANDIN_MODEL", "a10g"),
            ("CUDA_STANDIN_MEMORY_MB", "0"),
            ("CUDA_STANDIN_NO_PEER", "0-1,3-2"),
            ("CUDA_STANDIN_DIE", "2:30"),
        ])
        .unwrap();
        assert_eq!((config.model.shared_optin_bytes, config.memory_bytes), (101_376, 22 << 30));
        assert!(!config.peers(1, 0) && !config.peers(2, 3) && config.peers(0, 2) && config.peers(1, 1));
        assert!(config.strikes(config.die, 2, 30) && !config.strikes(config.die, 2, 31));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for (name, value) in [
            ("CUDA_STANDIN_MODEL", "V100"),
            ("CUDA_STANDIN_DEVICES", "many"),
            ("CUDA_STANDIN_COPIES", "never"),
            ("CUDA_STANDIN_NO_PEER", "0,1"),
            ("CUDA_STANDIN_HANG", "3"),
            ("CUDA_STANDIN_NVML", "3.beauty=1"),
            ("CUDA_STANDIN_NVML", "mig=1"),
        ] {
            assert!(read(&[(name, value)]).unwrap_err().starts_with(name));
        }
    }

    #[test]
    fn a_fault_happens_once() {
        let path = std::env::temp_dir().join(format!("cuda-standin-once-{}", std::process::id()));
        let config = read(&[("CUDA_STANDIN_ECC", "0:1"), ("CUDA_STANDIN_ONCE", path.to_str().unwrap())]).unwrap();
        assert!(config.strikes(config.ecc, 0, 1) && !config.strikes(config.ecc, 0, 1));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn blocks_are_held_as_far_as_they_fit() {
        let a100 = &MODELS[0];
        assert_eq!(a100.blocks_held(128, 0), 16);
        assert_eq!(a100.blocks_held(32, 0), 32);
        assert_eq!(a100.blocks_held(128, 100 << 10), 1);
        assert_eq!(a100.resident(1024, 0), 216);
    }
}
