//! Failures, by mistake and by switch.

use crate::support::{Device, on_standin, role, start};
use cudarc::driver::{result, sys};
use std::os::unix::process::ExitStatusExt;
use sys::CUresult::*;

#[test]
fn a_failure_sticks() {
    on_standin("faults::a_failure_sticks", &[], || {
        let device = Device::new(0);
        let at = device.floats(&[1.0]);
        device.store(at + 4, 0).unwrap();
        assert_eq!(device.synchronize(), Err(CUDA_ERROR_ILLEGAL_ADDRESS));
        assert_eq!(device.synchronize(), Err(CUDA_ERROR_ILLEGAL_ADDRESS));
        // SAFETY: plain calls.
        unsafe {
            assert_eq!(result::malloc_sync(4).unwrap_err().0, CUDA_ERROR_ILLEGAL_ADDRESS);
        }
        // The other devices go on.
        let other = Device::new(1);
        let at = other.floats(&[1.0]);
        assert_eq!(other.read(at, 1), [1.0]);
        other.store(at + 2, 0).unwrap();
        assert_eq!(other.synchronize(), Err(CUDA_ERROR_MISALIGNED_ADDRESS));
    });
}

#[test]
fn an_ecc_error() {
    on_standin("faults::an_ecc_error", &[("CUDA_STANDIN_ECC", "1:2")], || {
        let (fine, device) = (Device::new(0), Device::new(1));
        let at = device.floats(&[1.0]);
        device.store(at, 0).unwrap();
        assert_eq!(device.synchronize(), Ok(()));
        device.store(at, 0).unwrap();
        assert_eq!(device.synchronize(), Err(CUDA_ERROR_ECC_UNCORRECTABLE));
        assert_eq!(fine.synchronize(), Ok(()));
    });
}

#[test]
fn a_process_that_dies() {
    const TEST: &str = "faults::a_process_that_dies";
    if role().is_none() {
        let output = start(TEST, &[("CUDA_STANDIN_DIE", "0:3")]);
        assert_eq!(output.status.signal(), Some(9), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let device = Device::new(0);
    let at = device.floats(&[1.0]);
    for _ in 0..3 {
        device.store(at, 0).unwrap();
    }
    device.synchronize().unwrap();
}

#[test]
fn a_kernel_that_runs_for_too_long() {
    on_standin("faults::a_kernel_that_runs_for_too_long", &[("CUDA_STANDIN_LIMIT_MS", "100")], || {
        let device = Device::new(0);
        device.launch("spin", 1, 0, &mut []).unwrap();
        assert_eq!(device.synchronize(), Err(CUDA_ERROR_LAUNCH_TIMEOUT));
    });
}

#[test]
fn what_kernels_do_is_reported() {
    const TEST: &str = "faults::what_kernels_do_is_reported";
    let body = || {
        let device = Device::new(0);
        let at = device.floats(&[1.0; 64]);
        device.scale(at, 2.0, 64);
        device.synchronize().unwrap();
    };
    if role().is_some() {
        return body();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report");
    assert!(start(TEST, &[("CUDA_STANDIN_REPORT", path.to_str().unwrap())]).status.success());
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let report = std::fs::read_to_string(file).unwrap();
    let line = report.lines().find(|line| line.starts_with("scale ")).unwrap();
    let numbers: Vec<&str> = line.split(' ').collect();
    assert_eq!((numbers[1], &numbers[3..7]), ("1", &["256", "256", "256", "256"][..]), "{report}");
}
