//! Stream capture and graphs.

use super::super::capture::{EXECUTABLES, GRAPHS, Graph, Mode};
use super::super::context::current;
use super::super::launch;
use super::super::status::{Outcome, Status};
use super::super::stream;
use super::super::{Out, c_functions, code, put};
use std::ffi::{c_uint, c_ulonglong};
use std::sync::Arc;

c_functions! { code;
    fn cuStreamBeginCapture_v2(handle: usize, mode: c_uint) {
        if stream::is_default(handle) {
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        let mode = match mode {
            0 => Mode::Global,
            1 => Mode::ThreadLocal,
            2 => Mode::Relaxed,
            _ => return Err(Status::INVALID_VALUE),
        };
        stream::of_handle(handle)?.begin_capture(mode)
    }

    fn cuStreamEndCapture(handle: usize, graph: Out<'_, usize>) {
        let graph = graph.ok_or(Status::INVALID_VALUE)?;
        graph.write(0);
        let stream = stream::of_handle(handle)?;
        launch::strike_capture(&stream.context);
        let nodes = stream.end_capture()?;
        graph.write(GRAPHS.add(Arc::new(Graph { nodes })));
        Ok(())
    }

    fn cuStreamIsCapturing(handle: usize, status: Out<'_, c_uint>) {
        let capturing = !stream::is_default(handle) && stream::of_handle(handle)?.is_capturing();
        put(status, c_uint::from(capturing))
    }

    fn cuThreadExchangeStreamCaptureMode(_mode: Option<&mut c_uint>) { Err(Status::NOT_SUPPORTED) }

    fn cuGraphInstantiateWithFlags(executable: Out<'_, usize>, graph: usize, _flags: c_ulonglong) {
        put(executable, instantiate(graph)?)
    }

    fn cuGraphGetNodes(graph: usize, nodes: Out<'_, usize>, count: Option<&mut usize>) {
        let graph = GRAPHS.get(graph).ok_or(Status::INVALID_HANDLE)?;
        if nodes.is_some() {
            return Err(Status::NOT_SUPPORTED);
        }
        *count.ok_or(Status::INVALID_VALUE)? = graph.nodes.len();
        Ok(())
    }

    fn cuGraphUpload(executable: usize, handle: usize) {
        stream::of_handle(handle)?;
        EXECUTABLES.get(executable).map(drop).ok_or(Status::INVALID_HANDLE)
    }

    fn cuGraphLaunch(executable: usize, handle: usize) {
        let graph = EXECUTABLES.get(executable).ok_or(Status::INVALID_HANDLE)?;
        stream::of_handle(handle)?.submit_fn(move || graph.nodes.iter().try_for_each(|node| node()))
    }

    fn cuGraphDestroy(graph: usize) { GRAPHS.remove(graph).map(drop).ok_or(Status::INVALID_HANDLE) }

    fn cuGraphExecDestroy(executable: usize) {
        EXECUTABLES.remove(executable).map(drop).ok_or(Status::INVALID_HANDLE)
    }
}

fn instantiate(graph: usize) -> Outcome<usize> {
    current()?;
    let graph = GRAPHS.get(graph).ok_or(Status::INVALID_HANDLE)?;
    Ok(EXECUTABLES.add(Arc::new(Graph { nodes: graph.nodes.clone() })))
}
