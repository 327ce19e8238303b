//! `libnvidia-ml.so.1`: what there is to know of the devices.

pub mod facts;

use crate::config::config;
use crate::driver::{Out, c_functions};
use std::ffi::{c_char, c_int, c_uint};

const INVALID_ARGUMENT: u32 = 2;
const NOT_SUPPORTED: u32 = 3;
const NOT_FOUND: u32 = 6;
const INSUFFICIENT_SIZE: u32 = 7;
const GPU_IS_LOST: u32 = 15;

/// `nvmlMemory_t`.
#[repr(C)]
pub(crate) struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// `nvmlFieldValue_t`.
#[repr(C)]
pub(crate) struct FieldValue {
    field: c_uint,
    scope: c_uint,
    timestamp: i64,
    latency_us: i64,
    value_type: c_uint,
    result: c_uint,
    value: u64,
}

/// `NVML_VALUE_TYPE_UNSIGNED_INT`.
const UNSIGNED_INT: c_uint = 1;

/// The handle of device 0.
const FIRST_HANDLE: usize = 0x2000;
const HANDLE_STEP: usize = 16;

fn code(call: impl FnOnce() -> Result<(), u32>) -> u32 {
    call().err().unwrap_or(0)
}

fn put<T>(out: Out<'_, T>, value: T) -> Result<(), u32> {
    out.ok_or(INVALID_ARGUMENT)?.write(value);
    Ok(())
}

fn device_of(handle: usize) -> Result<usize, u32> {
    let offset = handle.checked_sub(FIRST_HANDLE).ok_or(INVALID_ARGUMENT)?;
    Some(offset / HANDLE_STEP).filter(|device| *device < config().devices).ok_or(INVALID_ARGUMENT)
}

fn put_text(out: *mut c_char, len: c_uint, text: &str) -> Result<(), u32> {
    if out.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if text.len() >= len as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: the caller gives room for `len` bytes, which are more than the text and its zero.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), out, text.len());
        *out.add(text.len()) = 0;
    }
    Ok(())
}

/// What is told of a device.
fn fact(handle: usize, key: &str) -> Result<u64, u32> {
    Ok(config().nvml.of(device_of(handle)?, key, config().model))
}

fn put_fact(handle: usize, key: &str, out: Out<'_, c_uint>) -> Result<(), u32> {
    put(out, c_uint::try_from(fact(handle, key)?).map_err(|_| INVALID_ARGUMENT)?)
}

/// As `put_fact`, of what is so now and what will be after a reset: the same.
fn put_mode(handle: usize, key: &str, now: Out<'_, c_uint>, later: Out<'_, c_uint>) -> Result<(), u32> {
    put_fact(handle, key, now)?;
    put_fact(handle, key, later)
}

const MEMORY_CLOCK: c_uint = 2;

fn clock_key(clock: c_uint) -> &'static str {
    if clock == MEMORY_CLOCK { "memory_clock" } else { "clock" }
}

c_functions! { code;
    fn nvmlInit_v2() { Ok(()) }

    fn nvmlShutdown() { Ok(()) }

    fn nvmlSystemGetDriverVersion(version: *mut c_char, len: c_uint) {
        // The branch that brought the CUDA version.
        let branch = match config().driver {
            ..12000 => 520,
            12000..12020 => 525,
            12020..12040 => 535,
            12040..12060 => 550,
            12060..12080 => 560,
            _ => 570,
        };
        put_text(version, len, &format!("{branch}.0.0"))
    }

    fn nvmlSystemGetCudaDriverVersion_v2(version: Out<'_, c_int>) { put(version, config().driver) }

    fn nvmlDeviceGetCount_v2(count: Out<'_, c_uint>) { put(count, config().devices as c_uint) }

    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, handle: Out<'_, usize>) {
        if index as usize >= config().devices {
            return Err(NOT_FOUND);
        }
        if config().nvml.of(index as usize, "lost", config().model) != 0 {
            return Err(GPU_IS_LOST);
        }
        put(handle, FIRST_HANDLE + HANDLE_STEP * index as usize)
    }

    fn nvmlDeviceGetName(device: usize, name: *mut c_char, len: c_uint) {
        device_of(device)?;
        put_text(name, len, config().model.name)
    }

    fn nvmlDeviceGetMemoryInfo(device: usize, memory: Out<'_, Memory>) {
        let used = crate::driver::memory::used_bytes(device_of(device)?);
        let total = config().memory_bytes;
        put(memory, Memory { total, free: total.saturating_sub(used), used })
    }

    fn nvmlDeviceGetP2PStatus(device: usize, peer: usize, _capability: c_uint, status: Out<'_, c_uint>) {
        // OK, or not supported.
        let peers = config().peers(device_of(device)?, device_of(peer)?);
        put(status, if peers { 0 } else { 1 })
    }

    fn nvmlDeviceGetNvLinkState(device: usize, link: c_uint, active: Out<'_, c_uint>) {
        let down = fact(device, "link_down")?;
        if u64::from(link) >= fact(device, "links")? {
            return Err(NOT_SUPPORTED);
        }
        put(active, c_uint::from(u64::from(link) != down))
    }

    fn nvmlDeviceGetEccMode(device: usize, now: Out<'_, c_uint>, later: Out<'_, c_uint>) {
        put_mode(device, "ecc", now, later)
    }

    fn nvmlDeviceGetTotalEccErrors(device: usize, kind: c_uint, counter: c_uint, count: Out<'_, u64>) {
        let key = if counter == 0 { "ecc_uncorrected" } else { "ecc_uncorrected_ever" };
        // Corrected ones are of kind 0.
        put(count, if kind == 0 { 0 } else { fact(device, key)? })
    }

    fn nvmlDeviceGetFieldValues(device: usize, count: c_int, values: *mut FieldValue) {
        device_of(device)?;
        let count = usize::try_from(count).map_err(|_| INVALID_ARGUMENT)?;
        if values.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: the caller gives so many, all of them filled.
        let values = unsafe { std::slice::from_raw_parts_mut(values, count) };
        for value in values {
            let key = match value.field {
                144 => "remap_pending",
                145 => "remap_failed",
                _ => {
                    value.result = NOT_SUPPORTED;
                    continue;
                }
            };
            (value.value, value.value_type, value.result) = (fact(device, key)?, UNSIGNED_INT, 0);
        }
        Ok(())
    }

    /// Rows are remapped since Ampere, and no pages retired.
    fn nvmlDeviceGetRetiredPagesPendingStatus(device: usize, _pending: Out<'_, c_uint>) {
        device_of(device)?;
        Err(NOT_SUPPORTED)
    }

    fn nvmlDeviceGetClock(device: usize, clock: c_uint, _id: c_uint, mhz: Out<'_, c_uint>) {
        put_fact(device, clock_key(clock), mhz)
    }

    fn nvmlDeviceGetMaxClockInfo(device: usize, clock: c_uint, mhz: Out<'_, c_uint>) {
        device_of(device)?;
        let model = config().model;
        put(mhz, if clock == MEMORY_CLOCK { model.memory_khz } else { model.clock_khz } / 1000)
    }

    fn nvmlDeviceGetPowerManagementLimit(device: usize, milliwatts: Out<'_, c_uint>) {
        put_fact(device, "power_mw", milliwatts)
    }

    fn nvmlDeviceGetPowerManagementDefaultLimit(device: usize, milliwatts: Out<'_, c_uint>) {
        device_of(device)?;
        put(milliwatts, facts::POWER_MW as c_uint)
    }

    fn nvmlDeviceGetCurrentClocksThrottleReasons(device: usize, reasons: Out<'_, u64>) {
        put(reasons, fact(device, "throttling")?)
    }

    fn nvmlDeviceGetMigMode(device: usize, now: Out<'_, c_uint>, later: Out<'_, c_uint>) {
        put_mode(device, "mig", now, later)
    }

    fn nvmlDeviceGetPersistenceMode(device: usize, mode: Out<'_, c_uint>) { put_fact(device, "persistence", mode) }

    fn nvmlDeviceGetCurrPcieLinkGeneration(device: usize, generation: Out<'_, c_uint>) {
        put_fact(device, "pcie_generation", generation)
    }

    fn nvmlDeviceGetMaxPcieLinkGeneration(device: usize, generation: Out<'_, c_uint>) {
        device_of(device)?;
        put(generation, facts::PCIE_GENERATION as c_uint)
    }

    fn nvmlDeviceGetCurrPcieLinkWidth(device: usize, width: Out<'_, c_uint>) { put_fact(device, "pcie_width", width) }

    fn nvmlDeviceGetMaxPcieLinkWidth(device: usize, width: Out<'_, c_uint>) {
        device_of(device)?;
        put(width, facts::PCIE_WIDTH as c_uint)
    }
}

/// What a return code means.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface has it so")]
pub extern "C" fn nvmlErrorString(result: c_uint) -> *const c_char {
    if result == 0 { c"Success" } else { c"Error" }.as_ptr()
}
