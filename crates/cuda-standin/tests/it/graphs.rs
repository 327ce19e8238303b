//! Captures and graphs, and what a capture forbids.

use crate::support::{Device, on_standin, status};
use cudarc::driver::{result, sys};
use std::ptr::null_mut;
use sys::CUresult::*;
use sys::CUstreamCaptureMode::*;

fn begin(device: &Device) {
    // SAFETY: the stream is ours.
    unsafe { result::stream::begin_capture(device.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) }.unwrap();
}

fn end(device: &Device) -> Result<sys::CUgraph, sys::CUresult> {
    let mut graph = null_mut();
    // SAFETY: the stream is ours, and the pointer is valid.
    status(unsafe { sys::cuStreamEndCapture(device.stream, &mut graph) })?;
    Ok(graph)
}

fn instantiate(graph: sys::CUgraph) -> sys::CUgraphExec {
    let mut executable = null_mut();
    // SAFETY: the graph is valid, and so is the pointer.
    status(unsafe { sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0) }).unwrap();
    executable
}

#[test]
fn a_graph_is_replayed() {
    on_standin("graphs::a_graph_is_replayed", &[], || {
        let device = Device::new(0);
        let at = device.floats(&[1.0; 100]);
        begin(&device);
        device.scale(at, 2.0, 100);
        device.scale(at, 0.75, 100);
        let executable = instantiate(end(&device).unwrap());
        assert_eq!(device.read(at, 1), [1.0], "a capture runs nothing");
        for _ in 0..3 {
            // SAFETY: both are valid.
            unsafe { status(sys::cuGraphLaunch(executable, device.stream)).unwrap() };
        }
        assert_eq!(device.read(at, 100), [3.375; 100]);
    });
}

#[test]
fn waiting_ends_a_capture() {
    on_standin("graphs::waiting_ends_a_capture", &[], || {
        let device = Device::new(0);
        begin(&device);
        assert_eq!(device.synchronize().unwrap_err(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        assert_eq!(end(&device).unwrap_err(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        begin(&device);
        // SAFETY: plain calls.
        let allocated = unsafe { result::malloc_sync(100) };
        assert_eq!(allocated.unwrap_err().0, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        assert_eq!(end(&device).unwrap_err(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        // SAFETY: the default stream.
        let default = unsafe { result::stream::begin_capture(null_mut(), CU_STREAM_CAPTURE_MODE_RELAXED) };
        assert_eq!(default.unwrap_err().0, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        begin(&device);
        assert!(end(&device).is_ok());
    });
}

#[test]
fn forks_must_be_joined() {
    on_standin("graphs::forks_must_be_joined", &[], || {
        let device = Device::new(0);
        let at = device.floats(&[1.0]);
        device.synchronize().unwrap();
        let side = Device::new(0);
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
        let (fork, join) = (event(), event());
        for joined in [true, false] {
            begin(&device);
            // SAFETY: streams and events are ours.
            unsafe {
                result::event::record(fork, device.stream).unwrap();
                let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
                result::stream::wait_event(side.stream, fork, flags).unwrap();
                side.scale(at, 3.0, 1);
                if joined {
                    result::event::record(join, side.stream).unwrap();
                    result::stream::wait_event(device.stream, join, flags).unwrap();
                }
            }
            match end(&device) {
                Ok(graph) => {
                    assert!(joined);
                    // SAFETY: both are valid.
                    unsafe { status(sys::cuGraphLaunch(instantiate(graph), device.stream)).unwrap() };
                }
                Err(error) => assert!(!joined && error == CUDA_ERROR_STREAM_CAPTURE_UNJOINED),
            }
        }
        assert_eq!(device.read(at, 1), [3.0]);
    });
}

#[test]
fn events_of_outside_are_not_waited_for() {
    on_standin("graphs::events_of_outside_are_not_waited_for", &[], || {
        let device = Device::new(0);
        let side = Device::new(0);
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).unwrap();
        // SAFETY: streams and events are ours.
        unsafe {
            result::event::record(event, side.stream).unwrap();
            begin(&device);
            let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            let waited = result::stream::wait_event(device.stream, event, flags);
            assert_eq!(waited.unwrap_err().0, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        }
        assert_eq!(end(&device).unwrap_err(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    });
}

#[test]
fn events_keep_time() {
    on_standin("graphs::events_keep_time", &[], || {
        let device = Device::new(0);
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).unwrap();
        let (from, to, at) = (event(), event(), device.floats(&[1.0; 4096]));
        // SAFETY: stream and events are ours.
        unsafe {
            result::event::record(from, device.stream).unwrap();
            device.scale(at, 2.0, 4096);
            result::event::record(to, device.stream).unwrap();
            result::event::synchronize(to).unwrap();
            assert!(result::event::elapsed(from, to).unwrap() > 0.0);
        }
    });
}
