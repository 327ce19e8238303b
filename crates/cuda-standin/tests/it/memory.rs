//! Allocations, copies, peers, and memory of other processes.

use crate::support::{Device, command, on_standin, role, status};
use cudarc::driver::{result, sys};
use std::io::{Read, Write};
use std::process::Stdio;
use sys::CUresult::*;

#[test]
fn copies_and_kernels_follow_the_stream() {
    on_standin("memory::copies_and_kernels_follow_the_stream", &[], || {
        let device = Device::new(0);
        let values: Vec<f32> = (0..1000).map(|n| n as f32).collect();
        let at = device.floats(&values);
        for _ in 0..3 {
            device.scale(at, 2.0, 1000);
        }
        assert!(device.read(at, 1000).iter().zip(&values).all(|(out, value)| *out == 8.0 * value));
    });
}

#[test]
fn memory_is_nan_until_it_is_written() {
    on_standin("memory::memory_is_nan_until_it_is_written", &[], || {
        let device = Device::new(0);
        // SAFETY: only reads what is allocated.
        let (small, large) = unsafe { (result::malloc_sync(400).unwrap(), result::malloc_sync(300 << 20).unwrap()) };
        assert!(device.read(small, 100).iter().all(|value| value.is_nan()));
        assert!(device.read(large + (299 << 20), 100).iter().all(|value| value.is_nan()));
        // SAFETY: within the allocation.
        unsafe { result::memset_d8_async(large, 0, 300 << 20, device.stream).unwrap() };
        assert!(device.read(large + (299 << 20), 100).iter().all(|value| *value == 0.0));
    });
}

#[test]
fn allocations_are_limited_and_accounted() {
    on_standin("memory::allocations_are_limited_and_accounted", &[("CUDA_STANDIN_MEMORY_MB", "16")], || {
        let _device = Device::new(0);
        let free = || result::mem_get_info().unwrap().0;
        let before = free();
        // SAFETY: the memory is freed once.
        unsafe {
            let at = result::malloc_sync(10 << 20).unwrap();
            assert_eq!(before - free(), 10 << 20);
            assert_eq!(result::malloc_sync(10 << 20).unwrap_err().0, CUDA_ERROR_OUT_OF_MEMORY);
            result::free_sync(at).unwrap();
            assert_eq!(result::free_sync(at).unwrap_err().0, CUDA_ERROR_INVALID_VALUE);
        }
        assert_eq!(free(), before);
    });
}

#[test]
fn copies_past_the_end_are_refused() {
    on_standin("memory::copies_past_the_end_are_refused", &[], || {
        let device = Device::new(0);
        let at = device.floats(&[0.0; 10]);
        let mut values = [0f32; 11];
        // SAFETY: the driver refuses it.
        let copied = unsafe { result::memcpy_dtoh_async(&mut values, at, device.stream) };
        assert_eq!(copied.unwrap_err().0, CUDA_ERROR_INVALID_VALUE);
    });
}

#[test]
fn peers_need_access() {
    on_standin("memory::peers_need_access", &[("CUDA_STANDIN_NO_PEER", "0-2")], || {
        let (far, other) = (Device::new(2), Device::new(1));
        let at = other.floats(&[1.0]);
        let device = Device::new(0);
        let mut can = -1;
        // SAFETY: plain calls with valid pointers.
        unsafe {
            status(sys::cuDeviceCanAccessPeer(&mut can, 0, 1)).unwrap();
            assert_eq!(can, 1);
            status(sys::cuDeviceCanAccessPeer(&mut can, 0, 2)).unwrap();
            assert_eq!(can, 0);
            let refused = sys::cuCtxEnablePeerAccess(far.context, 0);
            assert_eq!(refused, CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
            status(sys::cuCtxEnablePeerAccess(other.context, 0)).unwrap();
        }
        device.store(at, 2f32.to_bits()).unwrap();
        device.synchronize().unwrap();
        assert_eq!(device.read(at, 1), [2.0]);
        // SAFETY: as above.
        unsafe { status(sys::cuCtxDisablePeerAccess(other.context)).unwrap() };
        device.store(at, 0).unwrap();
        assert_eq!(device.synchronize().unwrap_err(), CUDA_ERROR_ILLEGAL_ADDRESS);
    });
}

#[test]
fn memory_is_shared_between_processes() {
    const TEST: &str = "memory::memory_is_shared_between_processes";
    on_standin(TEST, &[], || {
        let is_child = role().as_deref() == Some("child");
        let device = Device::new(i32::from(is_child));
        // SAFETY: all bits are a valid handle, which the driver checks.
        let mut handle = unsafe { std::mem::zeroed::<sys::CUipcMemHandle>() };
        let bytes = std::ptr::from_mut(&mut handle).cast::<u8>();
        // SAFETY: the handle is 64 bytes, for which any are valid.
        let bytes = unsafe { std::slice::from_raw_parts_mut(bytes, 64) };
        if is_child {
            std::io::stdin().read_exact(bytes).unwrap();
            let mut at = 0;
            // SAFETY: the pointers are valid.
            unsafe { status(sys::cuIpcOpenMemHandle_v2(&mut at, handle, 1)).unwrap() };
            assert_eq!(device.read(at, 2), [1.0, 2.0]);
            device.scale(at, 10.0, 2);
            device.synchronize().unwrap();
            // SAFETY: nothing uses it any more.
            unsafe { status(sys::cuIpcCloseMemHandle(at)).unwrap() };
            return;
        }
        let at = device.floats(&[1.0, 2.0]);
        device.synchronize().unwrap();
        let mut own = 0;
        // SAFETY: the pointers are valid.
        unsafe {
            status(sys::cuIpcGetMemHandle(&mut handle, at)).unwrap();
            assert_ne!(sys::cuIpcOpenMemHandle_v2(&mut own, handle, 1), CUDA_SUCCESS);
        }
        let mut child = command(TEST, "child").stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(device.read(at, 2), [10.0, 20.0]);
    });
}
