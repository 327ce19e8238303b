//! What NVIDIA's management library (NVML) knows of the GPUs: errors of their memory, clocks, power, heat and links. It comes with the driver, and is
//! opened at run time.

use super::check::Check;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, ClockId, EccCounter, MemoryError, P2pCapabilitiesIndex, P2pStatus};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::{NVML_FI_DEV_REMAPPED_FAILURE, NVML_FI_DEV_REMAPPED_PENDING};
use nvml_wrapper::{Device, Nvml};

/// More than any GPU has.
const LINKS_MAX: u32 = 18;

/// What is known of a GPU; `None` where it has no such thing, or does not tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    ordinal: u32,
    ecc: Option<bool>,
    /// Errors that were not corrected, since the driver was loaded, and ever.
    uncorrected: [Option<u64>; 2],
    /// Memory that is known to be broken waits for a reset, to be replaced by spare memory.
    pending: Option<bool>,
    /// There was no spare memory left.
    remap_failed: Option<bool>,
    /// Clocks of multiprocessors and memory in MHz: what they are set to, and the most.
    clocks: [Option<(u32, u32)>; 2],
    /// Limit of the power in mW, and its default.
    power: Option<(u32, u32)>,
    throttling: Option<ThrottleReasons>,
    mig: Option<bool>,
    persistence: Option<bool>,
    /// Generation and width of PCI Express: now, and the most.
    pcie: Option<[(u32, u32); 2]>,
    /// Which NVLinks are up.
    links: Vec<bool>,
}

/// A pair of GPUs that does not reach each other over NVLink.
type BrokenPair = (u32, u32, P2pStatus);

const REPLACE: &str = "stop and start the instance, so that it comes up on another host, or have the GPU replaced";

/// Looks at all GPUs. `strict`: pairs that do not reach each other fail; they only make sums slower.
pub(super) fn look(strict: bool) -> Vec<Check> {
    match Nvml::init() {
        Ok(nvml) => look_by(&nvml, strict),
        Err(error) => {
            let remedy =
                "install the driver's libnvidia-ml.so.1; in a container, NVIDIA_DRIVER_CAPABILITIES=compute,utility";
            vec![Check::warn("NVML", format!("nothing is known of the GPUs' health: {error}"), remedy)]
        }
    }
}

fn look_by(nvml: &Nvml, strict: bool) -> Vec<Check> {
    let (mut checks, mut all, mut devices) = (Vec::new(), Vec::new(), Vec::new());
    for ordinal in 0..nvml.device_count().unwrap_or(0) {
        match nvml.device_by_index(ordinal) {
            Ok(device) => {
                all.push(health(ordinal, &device));
                devices.push((ordinal, device));
            }
            Err(error) => {
                let remedy = format!("reboot (dmesg | grep Xid says more); if it comes again, {REPLACE}");
                checks.push(Check::fail("GPU lost", format!("GPU {ordinal} does not answer: {error}"), remedy));
            }
        }
    }
    checks.extend(judge(&all));
    if all.iter().any(|gpu| !gpu.links.is_empty()) && devices.len() > 1 {
        checks.push(judge_pairs(devices.len(), &broken_pairs(&devices), strict));
    }
    checks
}

fn health(ordinal: u32, device: &Device<'_>) -> Health {
    let clock = |clock: Clock| {
        // Where nobody has set one, it is the default, which is below the most.
        let target = device.clock(clock, ClockId::TargetAppClock).ok()?;
        Some((target, device.max_clock_info(clock).ok()?))
    };
    let uncorrected = |counter| device.total_ecc_errors(MemoryError::Uncorrected, counter).ok();
    let field = |id| {
        let values = device.field_values_for(&[FieldId(id)]).ok()?;
        match values.into_iter().next()?.ok()?.value.ok()? {
            SampleValue::U32(value) => Some(value != 0),
            SampleValue::U64(value) => Some(value != 0),
            _ => None,
        }
    };
    let pcie = || {
        let now = (device.current_pcie_link_gen().ok()?, device.current_pcie_link_width().ok()?);
        Some([now, (device.max_pcie_link_gen().ok()?, device.max_pcie_link_width().ok()?)])
    };
    Health {
        ordinal,
        ecc: device.is_ecc_enabled().ok().map(|mode| mode.currently_enabled),
        uncorrected: [uncorrected(EccCounter::Volatile), uncorrected(EccCounter::Aggregate)],
        // Pages are retired by GPUs before Ampere, rows remapped by those since.
        pending: field(NVML_FI_DEV_REMAPPED_PENDING).or_else(|| device.are_pages_pending_retired().ok()),
        remap_failed: field(NVML_FI_DEV_REMAPPED_FAILURE),
        clocks: [clock(Clock::Graphics), clock(Clock::Memory)],
        power: device.power_management_limit().ok().zip(device.power_management_limit_default().ok()),
        throttling: device.current_throttle_reasons().ok(),
        mig: device.mig_mode().ok().map(|mode| mode.current != 0),
        persistence: device.is_in_persistent_mode().ok(),
        pcie: pcie(),
        links: (0..LINKS_MAX).map_while(|link| device.link_wrapper_for(link).is_active().ok()).collect(),
    }
}

fn broken_pairs(devices: &[(u32, Device<'_>)]) -> Vec<BrokenPair> {
    let pairs = devices.iter().flat_map(|one| devices.iter().map(move |other| (one, other)));
    let asked = pairs.filter(|(one, other)| one.0 < other.0).filter_map(|((a, one), (b, other))| {
        let status: Result<_, NvmlError> = one.p2p_status(other, P2pCapabilitiesIndex::NvLink);
        Some((*a, *b, status.ok()?))
    });
    asked.filter(|(.., status)| *status != P2pStatus::Ok).collect()
}

fn judge_pairs(gpus: usize, broken: &[BrokenPair], strict: bool) -> Check {
    const NAME: &str = "NVLink pairs";
    if broken.is_empty() {
        return Check::pass(NAME, format!("all {} pairs reach each other over NVLink", gpus * (gpus - 1) / 2));
    }
    let told = broken.iter().map(|(a, b, status)| format!("{a}-{b} ({status:?})")).collect::<Vec<_>>().join(", ");
    let remedy = "systemctl restart nvidia-fabricmanager, whose version must be the driver's; nvidia-smi topo -p2p n";
    let verdict = if strict { Check::fail } else { Check::warn };
    verdict(NAME, format!("GPUs do not reach each other over NVLink: {told}"), remedy)
}

/// What one aspect of a GPU comes to; nothing where all is well or unknown.
type Judge = fn(&Health) -> Option<Check>;

/// Its name, what is said where all is well, whether a GPU tells of it, and what is wrong with one.
type Aspect = (&'static str, &'static str, fn(&Health) -> bool, Judge);

const ASPECTS: [Aspect; 9] = [
    ("ECC", "no uncorrected errors", |gpu| gpu.ecc.is_some(), ecc),
    ("memory repair", "none waits or has failed", |gpu| gpu.pending.is_some(), repair),
    ("clocks", "set to the most", |gpu| gpu.clocks[0].is_some(), clocks),
    ("power limit", "the default or more", |gpu| gpu.power.is_some(), power),
    ("throttling", "none", |gpu| gpu.throttling.is_some(), throttling),
    ("MIG", "off", |gpu| gpu.mig.is_some(), mig),
    ("persistence", "on", |gpu| gpu.persistence.is_some(), persistence),
    ("PCIe", "as wide and fast as it can be", |gpu| gpu.pcie.is_some(), pcie),
    ("NVLink", "all links are up", |gpu| !gpu.links.is_empty(), nvlink),
];

/// A line for each aspect that is well on all GPUs, and one for each GPU on which it is not.
pub(super) fn judge(all: &[Health]) -> Vec<Check> {
    let lines = ASPECTS.into_iter().flat_map(|(name, well, tells, judge)| {
        let telling = all.iter().filter(|gpu| tells(gpu)).count();
        let wrong: Vec<Check> = all.iter().filter_map(judge).collect();
        let all_well = || Check::pass(name, format!("{telling} GPUs: {well}"));
        if wrong.is_empty() { (telling > 0).then(all_well).into_iter().collect() } else { wrong }
    });
    lines.collect()
}

fn ecc(gpu: &Health) -> Option<Check> {
    let Health { ordinal, .. } = gpu;
    let wrong = match (gpu.uncorrected, gpu.ecc) {
        ([Some(now @ 1..), _], _) => Check::fail(
            "ECC",
            format!("GPU {ordinal} has {now} uncorrected errors of its memory since the driver was loaded"),
            format!("nvidia-smi -i {ordinal} -r, or reboot; if they come again, {REPLACE}"),
        ),
        (_, Some(false)) => Check::warn(
            "ECC",
            format!("GPU {ordinal} has ECC off: an error of its memory would change answers unseen"),
            format!("nvidia-smi -i {ordinal} -e 1, then nvidia-smi -i {ordinal} -r"),
        ),
        ([_, Some(ever @ 1..)], _) => Check::warn(
            "ECC",
            format!("GPU {ordinal} has had {ever} uncorrected errors of its memory, none since the driver was loaded"),
            format!("watch it: nvidia-smi -i {ordinal} -q -d ECC,ROW_REMAPPER; if they grow, {REPLACE}"),
        ),
        _ => return None,
    };
    Some(wrong)
}

fn repair(gpu: &Health) -> Option<Check> {
    let Health { ordinal, .. } = gpu;
    if gpu.remap_failed == Some(true) {
        let found = format!("GPU {ordinal} has broken memory and no spare rows left");
        return Some(Check::fail("memory repair", found, REPLACE));
    }
    let found = format!("GPU {ordinal} has broken memory that is replaced at its next reset");
    let remedy = format!("end what uses it, then nvidia-smi -i {ordinal} -r, or reboot");
    (gpu.pending == Some(true)).then(|| Check::fail("memory repair", found, remedy))
}

fn clocks(gpu: &Health) -> Option<Check> {
    let [Some((sm, sm_most)), Some((memory, memory_most))] = gpu.clocks else { return None };
    let found = format!("GPU {} is set to {sm} of {sm_most} MHz, its memory to {memory} of {memory_most}", gpu.ordinal);
    let remedy = format!("as root: nvidia-smi -i {} -ac {memory_most},{sm_most}", gpu.ordinal);
    (sm < sm_most || memory < memory_most).then(|| Check::warn("clocks", found, remedy))
}

fn power(gpu: &Health) -> Option<Check> {
    let (limit, usual) = gpu.power?;
    let found = format!("GPU {} may take {} W, by default {} W", gpu.ordinal, limit / 1000, usual / 1000);
    let remedy = format!("as root: nvidia-smi -i {} -pl {}", gpu.ordinal, usual / 1000);
    (limit < usual).then(|| Check::warn("power limit", found, remedy))
}

fn throttling(gpu: &Health) -> Option<Check> {
    let (name, ordinal) = ("throttling", gpu.ordinal);
    let reasons = gpu.throttling?;
    let hardware = [
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "the power supply asks for it"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "it is too hot"),
        (ThrottleReasons::HW_SLOWDOWN, "heat or power"),
    ];
    if let Some((_, why)) = hardware.into_iter().find(|(reason, _)| reasons.contains(*reason)) {
        let found = format!("GPU {ordinal} is slowed to half its clock or less by its hardware: {why}");
        let remedy =
            format!("nvidia-smi -i {ordinal} -q -d TEMPERATURE,POWER; see to cooling and power; in a cloud, {REPLACE}");
        return Some(Check::fail(name, found, remedy));
    }
    let software = [
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "it is near its limit of heat"),
        (ThrottleReasons::SW_POWER_CAP, "it is at its limit of power"),
    ];
    let (_, why) = software.into_iter().find(|(reason, _)| reasons.contains(*reason))?;
    let remedy = "see what runs on it (nvidia-smi), and to cooling and power limit";
    Some(Check::warn(name, format!("GPU {ordinal} is slowed by the driver: {why}"), remedy))
}

fn mig(gpu: &Health) -> Option<Check> {
    let found = format!("GPU {} is partitioned: its parts do not reach other GPUs", gpu.ordinal);
    let remedy = format!("as root: nvidia-smi -i {} -mig 0", gpu.ordinal);
    (gpu.mig == Some(true)).then(|| Check::fail("MIG", found, remedy))
}

fn persistence(gpu: &Health) -> Option<Check> {
    let found =
        format!("GPU {} is set up anew for each first process, which takes seconds and forgets clocks", gpu.ordinal);
    let remedy = format!("as root: nvidia-smi -i {} -pm 1, or run nvidia-persistenced", gpu.ordinal);
    (gpu.persistence == Some(false)).then(|| Check::warn("persistence", found, remedy))
}

fn pcie(gpu: &Health) -> Option<Check> {
    let [(generation, width), (generation_most, width_most)] = gpu.pcie?;
    // A link slows down while nothing runs.
    let is_idle = gpu.throttling.is_some_and(|reasons| reasons.contains(ThrottleReasons::GPU_IDLE));
    let is_slow = width < width_most || (generation < generation_most && !is_idle);
    let found = format!(
        "GPU {} is linked by PCIe {generation} x{width}, of {generation_most} x{width_most}: weights load more slowly",
        gpu.ordinal
    );
    is_slow.then(|| Check::warn("PCIe", found, format!("reseat the card, or {REPLACE}")))
}

fn nvlink(gpu: &Health) -> Option<Check> {
    let down: Vec<String> = (0..).zip(&gpu.links).filter(|(_, up)| !**up).map(|(link, _)| link.to_string()).collect();
    let found =
        format!("GPU {} has {} of {} links down: {}", gpu.ordinal, down.len(), gpu.links.len(), down.join(", "));
    let remedy =
        format!("nvidia-smi nvlink -s -i {}; systemctl restart nvidia-fabricmanager; else {REPLACE}", gpu.ordinal);
    (!down.is_empty()).then(|| Check::fail("NVLink", found, remedy))
}
