//! `libnvidia-ml.so.1`: what there is to know of the devices.

use crate::config::config;
use crate::driver::{Out, c_functions};
use std::ffi::{c_char, c_int, c_uint};

const INVALID_ARGUMENT: u32 = 2;
const NOT_FOUND: u32 = 6;
const INSUFFICIENT_SIZE: u32 = 7;

/// `nvmlMemory_t`.
#[repr(C)]
pub(crate) struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

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
        device_of(device)?;
        put(active, c_uint::from(link < 12 && config().model.key != "A10G"))
    }
}

/// What a return code means.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface has it so")]
pub extern "C" fn nvmlErrorString(result: c_uint) -> *const c_char {
    if result == 0 { c"Success" } else { c"Error" }.as_ptr()
}
