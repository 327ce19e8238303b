//! Collectives between processes.

use crate::support::{Device, command, on_standin, role, status};
use cudarc::driver::sys;
use cudarc::nccl::{result, sys as nccl};
use std::process::Child;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

const RANKS: i32 = 4;
const ID: &str = "CUDA_STANDIN_TEST_ID";

/// Starts a process for each rank, with switches for one of them.
fn ranks(test: &str, count: i32) -> Vec<Child> {
    let id = result::get_uniqueid().unwrap();
    let text: String = id.internal.iter().map(|byte| format!("{:02x}", *byte as u8)).collect();
    (0..count).map(|rank| command(test, &rank.to_string()).env(ID, &text).spawn().unwrap()).collect()
}

/// This process's rank; none if it is to start them.
fn rank() -> Option<i32> {
    role()?.parse().ok()
}

/// This rank's device and communicator.
fn join(rank: i32, count: i32) -> (Device, nccl::ncclComm_t) {
    let text = std::env::var(ID).unwrap();
    let byte = |nth: usize| u8::from_str_radix(&text[2 * nth..2 * nth + 2], 16).unwrap() as _;
    let id = nccl::ncclUniqueId { internal: std::array::from_fn(byte) };
    let device = Device::new(rank);
    let mut comm = null_mut();
    // SAFETY: the pointer is valid, and the id is another process's.
    unsafe { result::comm_init_rank(&mut comm, count, id, rank) }.unwrap();
    (device, comm)
}

fn all_reduce(device: &Device, comm: nccl::ncclComm_t, at: u64, count: usize) {
    let (ty, op) = (nccl::ncclDataType_t::ncclFloat32, nccl::ncclRedOp_t::ncclSum);
    // SAFETY: the memory has `count` floats.
    unsafe { result::all_reduce(at as _, at as _, count, ty, op, comm, device.stream.cast()) }.unwrap();
}

#[test]
fn sums_and_gathers_are_the_same_everywhere() {
    const TEST: &str = "ranks::sums_and_gathers_are_the_same_everywhere";
    on_standin(TEST, &[], || {
        let Some(rank) = rank() else {
            return ranks(TEST, RANKS).iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
        };
        let (device, comm) = join(rank, RANKS);
        // More than is moved at a time.
        let count = 700_001;
        let values: Vec<f32> = (0..count).map(|nth| (nth % 100) as f32 + rank as f32).collect();
        let at = device.floats(&values);
        all_reduce(&device, comm, at, count);
        let expected = |nth: usize| (RANKS * (nth % 100) as i32 + (0..RANKS).sum::<i32>()) as f32;
        assert!(device.read(at, count).iter().enumerate().all(|(nth, value)| *value == expected(nth)));
        let (mine, all) = (device.floats(&[rank as f32; 3]), device.floats(&[0.0; 3 * RANKS as usize]));
        // SAFETY: the memory is as large as the collective needs.
        unsafe {
            let ty = nccl::ncclDataType_t::ncclFloat32;
            result::all_gather(mine as _, all as _, 3, ty, comm, device.stream.cast()).unwrap();
        }
        let gathered = device.read(all, 3 * RANKS as usize);
        assert!(gathered.iter().enumerate().all(|(nth, value)| *value == (nth / 3) as f32));
        // SAFETY: nothing uses it any more.
        unsafe { result::comm_destroy(comm) }.unwrap();
    });
}

#[test]
fn a_graph_holds_a_collective() {
    const TEST: &str = "ranks::a_graph_holds_a_collective";
    on_standin(TEST, &[], || {
        let Some(rank) = rank() else {
            return ranks(TEST, RANKS).iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
        };
        let (device, comm) = join(rank, RANKS);
        let at = device.floats(&[1.0; 100]);
        device.synchronize().unwrap();
        let (mut graph, mut executable) = (null_mut(), null_mut());
        // SAFETY: stream, graph and pointers are valid.
        unsafe {
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            status(sys::cuStreamBeginCapture_v2(device.stream, mode)).unwrap();
            device.scale(at, 0.5, 100);
            all_reduce(&device, comm, at, 100);
            status(sys::cuStreamEndCapture(device.stream, &mut graph)).unwrap();
            status(sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0)).unwrap();
            for _ in 0..5 {
                status(sys::cuGraphLaunch(executable, device.stream)).unwrap();
            }
        }
        // Each time, half of it from four ranks.
        assert_eq!(device.read(at, 100), [32.0; 100]);
    });
}

#[test]
fn a_hanging_collective_is_aborted() {
    const TEST: &str = "ranks::a_hanging_collective_is_aborted";
    on_standin(TEST, &[("CUDA_STANDIN_HANG", "1:2")], || {
        let Some(rank) = rank() else {
            return ranks(TEST, 2).iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
        };
        let (device, comm) = join(rank, 2);
        let at = device.floats(&[1.0]);
        all_reduce(&device, comm, at, 1);
        assert_eq!(device.read(at, 1), [2.0]);
        all_reduce(&device, comm, at, 1);
        let start = Instant::now();
        // SAFETY: the stream is ours.
        let query = || unsafe { sys::cuStreamQuery(device.stream) };
        while start.elapsed() < Duration::from_millis(300) {
            assert_eq!(query(), sys::CUresult::CUDA_ERROR_NOT_READY);
            std::thread::sleep(Duration::from_millis(10));
        }
        // SAFETY: the communicator is not used after it.
        unsafe { result::comm_abort(comm) }.unwrap();
        device.synchronize().unwrap();
    });
}

#[test]
fn two_ranks_need_two_devices() {
    const TEST: &str = "ranks::two_ranks_need_two_devices";
    on_standin(TEST, &[], || {
        let Some(rank) = rank() else {
            return ranks(TEST, 2).iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
        };
        let text = std::env::var(ID).unwrap();
        let byte = |nth: usize| u8::from_str_radix(&text[2 * nth..2 * nth + 2], 16).unwrap() as _;
        let id = nccl::ncclUniqueId { internal: std::array::from_fn(byte) };
        let _device = Device::new(0);
        let mut comm = null_mut();
        // SAFETY: the pointer is valid.
        assert!(unsafe { result::comm_init_rank(&mut comm, 2, id, rank) }.is_err());
    });
}
