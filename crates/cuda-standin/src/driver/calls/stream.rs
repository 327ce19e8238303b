//! Streams, events and host functions.

use super::super::context::current;
use super::super::event::{self, EVENTS, Event};
use super::super::status::Status;
use super::super::stream;
use super::super::{Out, c_functions, code, put};
use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

/// Events with this flag keep no time.
const DISABLE_TIMING: c_uint = 2;

/// A function of the caller's that a stream calls.
type HostFunction = extern "C" fn(*mut c_void);

c_functions! { code;
    fn cuStreamCreate(handle: Out<'_, usize>, _flags: c_uint) { put(handle, stream::create()?) }

    fn cuStreamCreateWithPriority(handle: Out<'_, usize>, _flags: c_uint, _priority: c_int) {
        put(handle, stream::create()?)
    }

    fn cuStreamDestroy_v2(handle: usize) { stream::destroy(handle) }

    fn cuStreamSynchronize(handle: usize) { stream::of_handle(handle)?.synchronize() }

    fn cuStreamQuery(handle: usize) { stream::of_handle(handle)?.query() }

    fn cuStreamGetPriority(handle: usize, priority: Out<'_, c_int>) {
        stream::of_handle(handle)?;
        put(priority, 0)
    }

    fn cuStreamGetFlags(handle: usize, flags: Out<'_, c_uint>) {
        put(flags, c_uint::from(!stream::is_default(handle)))
    }

    fn cuStreamGetCtx(handle: usize, context: Out<'_, usize>) {
        put(context, stream::of_handle(handle)?.context.handle())
    }

    fn cuStreamWaitEvent(handle: usize, event: usize, _flags: c_uint) {
        event::of_handle(event)?.make_wait(&stream::of_handle(handle)?)
    }

    fn cuLaunchHostFunc(handle: usize, function: Option<HostFunction>, data: *mut c_void) {
        let function = function.ok_or(Status::INVALID_VALUE)?;
        let data = data as usize;
        stream::of_handle(handle)?.submit_fn(move || {
            function(data as *mut c_void);
            Ok(())
        })
    }

    fn cuEventCreate(handle: Out<'_, usize>, flags: c_uint) {
        current()?;
        put(handle, EVENTS.add(Arc::new(Event::new(flags & DISABLE_TIMING == 0))))
    }

    fn cuEventDestroy_v2(event: usize) { EVENTS.remove(event).map(drop).ok_or(Status::INVALID_HANDLE) }

    fn cuEventRecord(event: usize, handle: usize) { event::of_handle(event)?.record(&*stream::of_handle(handle)?) }

    fn cuEventSynchronize(event: usize) {
        event::of_handle(event)?.synchronize()?;
        current().map(drop)
    }

    fn cuEventQuery(event: usize) {
        current()?;
        event::of_handle(event)?.query()
    }

    fn cuEventElapsedTime(ms: Out<'_, f32>, from: usize, to: usize) {
        put(ms, event::of_handle(from)?.elapsed_ms(&*event::of_handle(to)?)?)
    }

    fn cuEventElapsedTime_v2(ms: Out<'_, f32>, from: usize, to: usize) {
        put(ms, event::of_handle(from)?.elapsed_ms(&*event::of_handle(to)?)?)
    }
}
