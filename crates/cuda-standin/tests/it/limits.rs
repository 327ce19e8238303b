//! What the devices can do, and what they refuse.

use crate::support::{Device, load, on_standin, pointer, start};
use cudarc::driver::{result, sys};
use sys::CUdevice_attribute::*;
use sys::CUresult::*;

#[test]
fn models_differ() {
    for (model, capability, sms, shared) in
        [("A100", (8, 0), 108, 163 << 10), ("A10G", (8, 6), 80, 99 << 10), ("H100", (9, 0), 132, 227 << 10)]
    {
        let switches =
            [("CUDA_STANDIN_MODEL", model), ("CUDA_STANDIN_DEVICES", "3"), ("EXPECTED_SMS", &sms.to_string())];
        on_standin("limits::models_differ", &switches, || {
            let device = Device::new(2);
            if std::env::var("EXPECTED_SMS").unwrap() != sms.to_string() {
                return;
            }
            assert_eq!(result::device::get_count().unwrap(), 3);
            // SAFETY: the device exists.
            let attribute = |which| unsafe { result::device::get_attribute(2, which) }.unwrap();
            assert_eq!(attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR), capability.0);
            assert_eq!(attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR), capability.1);
            assert_eq!(attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), sms);
            assert_eq!(attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), shared);
            let allow = |bytes: i32| {
                let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                // SAFETY: the kernel is valid.
                unsafe { result::function::set_function_attribute(device.kernel("spin"), which, bytes) }
            };
            assert_eq!(allow(shared + 1).unwrap_err().0, CUDA_ERROR_INVALID_VALUE);
            allow(shared).unwrap();
        });
    }
}

#[test]
fn launches_are_held_to_their_limits() {
    on_standin("limits::launches_are_held_to_their_limits", &[], || {
        let device = Device::new(0);
        let (mut at, mut value) = (device.floats(&[0.0]), 1u32);
        let arguments = &mut [pointer(&mut at), pointer(&mut value)];
        assert_eq!(device.launch("store", 1, 48 << 10, arguments), Ok(()));
        assert_eq!(device.launch("store", 1, (48 << 10) + 1, arguments), Err(CUDA_ERROR_INVALID_VALUE));
        assert_eq!(device.launch("store", 0, 0, arguments), Err(CUDA_ERROR_INVALID_VALUE));
        assert_eq!(device.synchronize(), Ok(()));
    });
}

#[test]
fn modules_are_checked_when_they_are_loaded() {
    const TEST: &str = "limits::modules_are_checked_when_they_are_loaded";
    let module = |version: &str, target: &str, body: &str| {
        format!(".version {version}\n.target {target}\n.address_size 64\n.visible .entry k() {{ {body} ret; }}")
    };
    let body = || {
        let _device = Device::new(0);
        assert!(load(&module("8.2", "sm_80", "")).is_ok());
        assert_eq!(load(&module("8.2", "sm_80", "wgmma.fence.sync.aligned;")), Err(CUDA_ERROR_INVALID_PTX));
        assert_eq!(load(&module("8.3", "sm_80", "")), Err(CUDA_ERROR_UNSUPPORTED_PTX_VERSION));
        assert_eq!(load(&module("8.2", "sm_90", "")), Err(CUDA_ERROR_NO_BINARY_FOR_GPU));
    };
    on_standin(TEST, &[], body);
    if crate::support::role().is_none() {
        let said = String::from_utf8(start(TEST, &[]).stderr).unwrap();
        assert!(said.contains("in `k`: not supported by the stand-in: `wgmma.fence.sync.aligned`"), "{said}");
    }
}

#[test]
fn an_old_driver_refuses_new_ptx() {
    on_standin("limits::an_old_driver_refuses_new_ptx", &[("CUDA_STANDIN_DRIVER", "11080")], || {
        result::init().unwrap();
        let mut version = 0;
        // SAFETY: the pointer is valid.
        unsafe { crate::support::status(sys::cuDriverGetVersion(&mut version)).unwrap() };
        assert_eq!(version, 11080);
        // SAFETY: the device exists.
        unsafe { result::ctx::set_current(result::primary_ctx::retain(0).unwrap()).unwrap() };
        assert_eq!(load(crate::support::PTX), Err(CUDA_ERROR_UNSUPPORTED_PTX_VERSION));
    });
}

#[test]
fn there_may_be_no_device() {
    on_standin("limits::there_may_be_no_device", &[("CUDA_STANDIN_DEVICES", "0")], || {
        assert_eq!(result::init().unwrap_err().0, CUDA_ERROR_NO_DEVICE);
    });
}
