//! What NVML tells of devices: the facts of a healthy one, and those that `CUDA_STANDIN_NVML` has in their place.

use crate::config::Model;

/// The limit of power, by default.
pub const POWER_MW: u64 = 400_000;
/// PCI Express, at most.
pub const PCIE_GENERATION: u64 = 4;
/// Lanes.
pub const PCIE_WIDTH: u64 = 16;
/// No link is down.
const NONE: u64 = 99;

/// A key, and what a healthy device tells.
type Fact = (&'static str, fn(&Model) -> u64);

/// All keys.
const HEALTHY: [Fact; 16] = [
    // 1: the device does not answer.
    ("lost", |_| 0),
    ("ecc", |_| 1),
    ("ecc_uncorrected", |_| 0),
    ("ecc_uncorrected_ever", |_| 0),
    ("remap_pending", |_| 0),
    ("remap_failed", |_| 0),
    // In MHz: what they are set to.
    ("clock", |model| u64::from(model.clock_khz / 1000)),
    ("memory_clock", |model| u64::from(model.memory_khz / 1000)),
    ("power_mw", |_| POWER_MW),
    // The bits of nvmlClocksThrottleReasons; 1: nothing runs.
    ("throttling", |_| 1),
    ("mig", |_| 0),
    ("persistence", |_| 1),
    ("pcie_generation", |_| PCIE_GENERATION),
    ("pcie_width", |_| PCIE_WIDTH),
    ("links", |model| if model.key == "A10G" { 0 } else { 12 }),
    // The number of one link.
    ("link_down", |_| NONE),
];

/// What is not as on a healthy node: (device, key, value).
#[derive(Debug, Default)]
pub struct Facts(Vec<(usize, String, u64)>);

impl Facts {
    /// As in `3.ecc_uncorrected=2,5.link_down=4`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fact = |part: &str| {
            let (place, value) = part.split_once('=')?;
            let (device, key) = place.split_once('.')?;
            HEALTHY.iter().find(|(known, _)| *known == key)?;
            Some((device.parse().ok()?, key.to_owned(), value.parse().ok()?))
        };
        let parts = text.split(',').filter(|part| !part.is_empty());
        let facts = parts.map(|part| fact(part).ok_or_else(|| part.to_owned())).collect::<Result<Vec<_>, _>>();
        facts.map(Self).map_err(|part| {
            let keys = HEALTHY.map(|(key, _)| key).join(", ");
            format!("CUDA_STANDIN_NVML: expected DEVICE.KEY=NUMBER with one of {keys}, found `{part}`")
        })
    }

    /// What is told of a device.
    pub fn of(&self, device: usize, key: &str, model: &Model) -> u64 {
        let told = self.0.iter().find(|(other, name, _)| *other == device && name == key);
        let healthy = || HEALTHY.iter().find(|(known, _)| *known == key).expect("a key of the table").1(model);
        told.map_or_else(healthy, |(.., value)| *value)
    }
}
