//! Initialization, devices, contexts, peers and errors.

use super::super::context::{self, contexts, current, current_or_none, of_device};
use super::super::launch::{BLOCK_MAX, BLOCK_THREADS_MAX, GRID_MAX};
use super::super::status::{Outcome, Status};
use super::super::{Out, c_functions, capture, code, memory, put};
use super::put_text;
use crate::config::{SHARED_DEFAULT_BYTES, SHARED_RESERVED_BYTES, config};
use std::ffi::{c_char, c_int, c_uint};
use std::sync::atomic::{AtomicUsize, Ordering};

c_functions! { code;
    fn cuInit(_flags: c_uint) { context::initialize() }

    fn cuDriverGetVersion(version: Out<'_, c_int>) { put(version, config().driver) }

    fn cuDeviceGet(device: Out<'_, c_int>, ordinal: c_int) {
        of_device(ordinal)?;
        put(device, ordinal)
    }

    fn cuDeviceGetCount(count: Out<'_, c_int>) { put(count, contexts().len() as c_int) }

    fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) {
        of_device(device)?;
        put_text(name, len, config().model.name)
    }

    fn cuDeviceGetUuid(uuid: Out<'_, [u8; 16]>, device: c_int) { put_uuid(uuid, device) }

    fn cuDeviceGetUuid_v2(uuid: Out<'_, [u8; 16]>, device: c_int) { put_uuid(uuid, device) }

    fn cuDeviceGetPCIBusId(id: *mut c_char, len: c_int, device: c_int) {
        of_device(device)?;
        put_text(id, len, &format!("0000:{:02X}:00.0", device + 1))
    }

    fn cuDeviceGetAttribute(value: Out<'_, c_int>, attribute: c_int, device: c_int) {
        of_device(device)?;
        put(value, self::attribute(attribute, device))
    }

    fn cuDeviceTotalMem_v2(bytes: Out<'_, usize>, device: c_int) {
        of_device(device)?;
        put(bytes, config().memory_bytes as usize)
    }

    fn cuDevicePrimaryCtxRetain(context: Out<'_, usize>, device: c_int) {
        put(context, of_device(device)?.handle())
    }

    fn cuDevicePrimaryCtxRelease_v2(device: c_int) { of_device(device).map(drop) }

    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, _flags: c_uint) { of_device(device).map(drop) }

    fn cuDevicePrimaryCtxGetState(device: c_int, flags: Out<'_, c_uint>, active: Out<'_, c_int>) {
        of_device(device)?;
        put(flags, 0)?;
        put(active, 1)
    }

    fn cuCtxGetCurrent(context: Out<'_, usize>) {
        put(context, current_or_none().map_or(0, |context| context.handle()))
    }

    fn cuCtxSetCurrent(context: usize) {
        let context = if context == 0 { None } else { Some(&**context::of_handle(context)?) };
        context::set_current(context);
        Ok(())
    }

    fn cuCtxPushCurrent_v2(context: usize) {
        context::set_current(Some(context::of_handle(context)?));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<'_, usize>) {
        let popped = current_or_none().ok_or(Status::INVALID_CONTEXT)?.handle();
        context::set_current(None);
        context.map_or(Ok(()), |out| put(Some(out), popped))
    }

    fn cuCtxGetDevice(device: Out<'_, c_int>) { put(device, current()?.device as c_int) }

    fn cuCtxSynchronize() {
        capture::allow_unsafe_call()?;
        current()?.synchronize()
    }

    fn cuCtxSetFlags(_flags: c_uint) { current().map(drop) }

    fn cuCtxGetFlags(flags: Out<'_, c_uint>) {
        current()?;
        put(flags, 0)
    }

    fn cuCtxGetStreamPriorityRange(least: Out<'_, c_int>, greatest: Out<'_, c_int>) {
        current()?;
        put(least, 0)?;
        put(greatest, -5)
    }

    fn cuCtxGetLimit(value: Out<'_, usize>, limit: c_uint) { put(value, limit_of(limit)?.load(Ordering::Relaxed)) }

    fn cuCtxSetLimit(limit: c_uint, value: usize) {
        limit_of(limit)?.store(value, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: Out<'_, c_uint>) { put(config, 0) }

    fn cuCtxSetCacheConfig(_config: c_uint) { current().map(drop) }

    fn cuDeviceCanAccessPeer(can: Out<'_, c_int>, device: c_int, peer: c_int) {
        let (device, peer) = (of_device(device)?.device, of_device(peer)?.device);
        put(can, c_int::from(device != peer && config().peers(device, peer)))
    }

    fn cuDeviceGetP2PAttribute(value: Out<'_, c_int>, attribute: c_uint, device: c_int, peer: c_int) {
        let (device, peer) = (of_device(device)?.device, of_device(peer)?.device);
        if device == peer {
            return Err(Status::INVALID_DEVICE);
        }
        // Performance rank; access; native atomics; access to arrays.
        put(value, match attribute {
            1 => 0,
            2..=4 => c_int::from(config().peers(device, peer)),
            _ => return Err(Status::INVALID_VALUE),
        })
    }

    fn cuCtxEnablePeerAccess(peer: usize, flags: c_uint) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        current()?.enable_peer(context::of_handle(peer)?.device)
    }

    fn cuCtxDisablePeerAccess(peer: usize) { current()?.disable_peer(context::of_handle(peer)?.device) }

    fn cuMemGetInfo_v2(free: Out<'_, usize>, total: Out<'_, usize>) {
        let bytes = config().memory_bytes;
        put(free, bytes.saturating_sub(memory::used_bytes(current()?.device)) as usize)?;
        put(total, bytes as usize)
    }

    fn cuGetErrorName(error: c_uint, name: Out<'_, *const c_char>) { put(name, Status(error).name().as_ptr()) }

    fn cuGetErrorString(error: c_uint, text: Out<'_, *const c_char>) { put(text, Status(error).text().as_ptr()) }

    fn cuProfilerStart() { Ok(()) }

    fn cuProfilerStop() { Ok(()) }
}

fn put_uuid(uuid: Out<'_, [u8; 16]>, device: c_int) -> Outcome {
    of_device(device)?;
    let mut bytes = *b"cuda-standin\0\0\0\0";
    bytes[12..].copy_from_slice(&device.to_be_bytes());
    put(uuid, bytes)
}

/// Limits are remembered, and limit nothing.
fn limit_of(limit: c_uint) -> Outcome<&'static AtomicUsize> {
    static LIMITS: [AtomicUsize; 8] = [
        AtomicUsize::new(1024),
        AtomicUsize::new(1 << 20),
        AtomicUsize::new(8 << 20),
        AtomicUsize::new(2),
        AtomicUsize::new(2048),
        AtomicUsize::new(128),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    ];
    current()?;
    LIMITS.get(limit as usize).ok_or(Status::INVALID_VALUE)
}

/// `CUdevice_attribute`, as far as somebody asks for it; zero for the others.
fn attribute(attribute: c_int, device: c_int) -> c_int {
    let model = config().model;
    let axis = |max: [u32; 3], nth: c_int| max[nth as usize] as c_int;
    match attribute {
        1 => BLOCK_THREADS_MAX as c_int,
        2..=4 => axis(BLOCK_MAX, attribute - 2),
        5..=7 => axis(GRID_MAX, attribute - 5),
        8 => SHARED_DEFAULT_BYTES as c_int,
        // Constant memory; warp size.
        9 => 65536,
        10 => 32,
        // Registers of a block, and of a multiprocessor.
        12 | 82 => 65536,
        13 => model.clock_khz as c_int,
        // Texture and surface alignment, copies beside kernels.
        14 => 512,
        15 => 1,
        16 => model.sms as c_int,
        // Mapped host memory; unified addressing; managed memory; concurrent kernels; compute preemption.
        19 | 31 | 41 | 83 | 90 => 1,
        // ECC.
        32 => 1,
        33 => device + 1,
        36 => model.memory_khz as c_int,
        37 => model.bus_bits as c_int,
        38 => model.l2_bytes as c_int,
        39 => model.threads_per_sm as c_int,
        // Asynchronous copy engines.
        40 => 3,
        75 => model.capability.0,
        76 => model.capability.1,
        // Stream priorities; global and local L1 caches.
        78..=80 => 1,
        81 => model.shared_sm_bytes as c_int,
        // Cooperative launches.
        95 => 1,
        97 => model.shared_optin_bytes as c_int,
        106 => model.blocks_per_sm as c_int,
        108 => (model.l2_bytes / 2) as c_int,
        111 => SHARED_RESERVED_BYTES as c_int,
        // Memory pools.
        115 => 1,
        _ => 0,
    }
}
