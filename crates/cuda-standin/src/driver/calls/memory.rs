//! Memory: allocation, copies, fills.

use super::super::context::{self, current, of_device};
use super::super::memory::{self, Kind, check, is_known};
use super::super::status::{Outcome, Status};
use super::super::stream::{self, Stream};
use super::super::{Out, c_functions, capture, code, put};
use std::ffi::{c_int, c_uint, c_void};

c_functions! { code;
    fn cuMemAlloc_v2(address: Out<'_, u64>, bytes: usize) {
        capture::allow_unsafe_call()?;
        put(address, memory::allocate(Kind::Device, current()?.device, bytes)?)
    }

    fn cuMemFree_v2(address: u64) {
        if address == 0 {
            return Ok(());
        }
        capture::allow_unsafe_call()?;
        current()?.synchronize()?;
        memory::free(address, &[Kind::Device, Kind::Pool])
    }

    fn cuMemAllocAsync(address: Out<'_, u64>, bytes: usize, stream: usize) {
        let stream = stream::of_handle(stream)?;
        refuse_in_capture(&stream)?;
        // Unlike `cuMemAlloc`, the pool gives nothing for nothing.
        let at = if bytes == 0 { 0 } else { memory::allocate(Kind::Pool, stream.context.device, bytes)? };
        put(address, at)
    }

    fn cuMemFreeAsync(address: u64, stream: usize) {
        let stream = stream::of_handle(stream)?;
        refuse_in_capture(&stream)?;
        if address == 0 {
            return Ok(());
        }
        check(address, 1)?;
        stream.submit_fn(move || memory::free(address, &[Kind::Device, Kind::Pool]))
    }

    fn cuMemHostAlloc(address: Out<'_, u64>, bytes: usize, _flags: c_uint) {
        capture::allow_unsafe_call()?;
        put(address, memory::allocate(Kind::Host, current()?.device, bytes)?)
    }

    fn cuMemAllocHost_v2(address: Out<'_, u64>, bytes: usize) {
        capture::allow_unsafe_call()?;
        put(address, memory::allocate(Kind::Host, current()?.device, bytes)?)
    }

    fn cuMemFreeHost(address: u64) {
        capture::allow_unsafe_call()?;
        current()?.synchronize()?;
        memory::free(address, &[Kind::Host])
    }

    fn cuMemHostGetDevicePointer_v2(device: Out<'_, u64>, host: u64, _flags: c_uint) {
        check(host, 1)?;
        put(device, host)
    }

    fn cuMemHostRegister_v2(_host: *mut c_void, _bytes: usize, _flags: c_uint) { Err(Status::NOT_SUPPORTED) }

    fn cuMemHostUnregister(_host: *mut c_void) { Err(Status::NOT_SUPPORTED) }

    fn cuMemGetAddressRange_v2(base: Out<'_, u64>, bytes: Out<'_, usize>, address: u64) {
        let table = memory::allocations();
        let (start, allocation) = memory::find(&table, address).ok_or(Status::NOT_FOUND)?;
        base.map_or(Ok(()), |out| put(Some(out), start))?;
        bytes.map_or(Ok(()), |out| put(Some(out), allocation.bytes))
    }

    fn cuDeviceGetDefaultMemPool(pool: Out<'_, usize>, device: c_int) { put(pool, of_device(device)?.handle()) }

    fn cuDeviceGetMemPool(pool: Out<'_, usize>, device: c_int) { put(pool, of_device(device)?.handle()) }

    fn cuMemPoolSetAttribute(pool: usize, _attribute: c_uint, _value: *mut c_void) {
        context::of_handle(pool).map(drop)
    }

    fn cuMemPoolTrimTo(pool: usize, _bytes: usize) { context::of_handle(pool).map(drop) }

    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) {
        check(to, bytes)?;
        copy_now(to, from as u64, bytes)
    }

    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) {
        check(from, bytes)?;
        copy_now(to as u64, from, bytes)
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        check(to, bytes)?;
        check(from, bytes)?;
        copy_now(to, from, bytes)
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: usize) {
        let stream = stream::of_handle(stream)?;
        check(to, bytes)?;
        if is_known(from as u64, bytes) || stream.is_capturing() {
            return copy_later(&stream, to, from as u64, bytes);
        }
        // Pageable memory is read before the call returns.
        // SAFETY: the caller gives `bytes` bytes to read during the call.
        let staged = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.to_vec();
        stream.submit_fn(move || {
            check(to, bytes)?;
            // SAFETY: the destination was found in an allocation just now, and the source is the staged copy.
            unsafe { memory::copy(to, staged.as_ptr() as u64, bytes) };
            Ok(())
        })
    }

    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: usize) {
        let stream = stream::of_handle(stream)?;
        check(from, bytes)?;
        copy_later(&stream, to as u64, from, bytes)?;
        // Pageable memory is written before the call returns.
        if is_known(to as u64, bytes) || stream.is_capturing() { Ok(()) } else { stream.synchronize() }
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) {
        check(to, bytes)?;
        check(from, bytes)?;
        copy_later(&*stream::of_handle(stream)?, to, from, bytes)
    }

    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: usize) {
        copy_later(&*stream::of_handle(stream)?, to, from, bytes)
    }

    fn cuMemcpyPeerAsync(to: u64, _to_context: usize, from: u64, _from_context: usize, bytes: usize, stream: usize) {
        check(to, bytes)?;
        check(from, bytes)?;
        copy_later(&*stream::of_handle(stream)?, to, from, bytes)
    }

    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) { fill_now(to, &[value], count) }

    fn cuMemsetD16_v2(to: u64, value: u16, count: usize) { fill_now(to, &value.to_le_bytes(), count) }

    fn cuMemsetD32_v2(to: u64, value: c_uint, count: usize) { fill_now(to, &value.to_le_bytes(), count) }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: usize) { fill_later(to, &[value], count, stream) }

    fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: usize) {
        fill_later(to, &value.to_le_bytes(), count, stream)
    }

    fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: usize) {
        fill_later(to, &value.to_le_bytes(), count, stream)
    }
}

/// Memory of the pool would be a node of the graph, with an address of the graph's own.
fn refuse_in_capture(stream: &Stream) -> Outcome {
    match stream.capturing() {
        Some((capture, _)) => Err(capture.invalidate(Status::STREAM_CAPTURE_UNSUPPORTED)),
        None => Ok(()),
    }
}

/// Copies after what was submitted to the default stream.
fn copy_now(to: u64, from: u64, bytes: usize) -> Outcome {
    capture::allow_unsafe_call()?;
    current()?.default_stream()?.synchronize()?;
    // SAFETY: the caller of the driver gives `bytes` bytes on the host's side, and the device's side was found in an
    // allocation just now.
    unsafe { memory::copy(to, from, bytes) };
    Ok(())
}

fn copy_later(stream: &Stream, to: u64, from: u64, bytes: usize) -> Outcome {
    let known = [to, from].map(|side| is_known(side, bytes));
    stream.submit_fn(move || {
        // What was the driver's memory when it was submitted still is.
        for (side, known) in [to, from].into_iter().zip(known) {
            if known {
                check(side, bytes)?;
            }
        }
        // SAFETY: the caller of the driver keeps host memory until the copy is done, and device memory was found in an
        // allocation just now.
        unsafe { memory::copy(to, from, bytes) };
        Ok(())
    })
}

fn fill(to: u64, pattern: &[u8], count: usize) -> Outcome {
    check(to, pattern.len() * count)?;
    if let [value] = pattern {
        // SAFETY: the range was found in an allocation just now.
        unsafe { memory::fill(to, *value, count) };
        return Ok(());
    }
    for nth in 0..count {
        let at = to + (nth * pattern.len()) as u64;
        // SAFETY: the range was found in an allocation just now, and the pattern is ours.
        unsafe { memory::copy(at, pattern.as_ptr() as u64, pattern.len()) };
    }
    Ok(())
}

fn check_fill(to: u64, pattern: &[u8], count: usize) -> Outcome {
    if !to.is_multiple_of(pattern.len() as u64) {
        return Err(Status::INVALID_VALUE);
    }
    check(to, pattern.len() * count)
}

fn fill_now(to: u64, pattern: &[u8], count: usize) -> Outcome {
    capture::allow_unsafe_call()?;
    check_fill(to, pattern, count)?;
    current()?.default_stream()?.synchronize()?;
    fill(to, pattern, count)
}

fn fill_later(to: u64, pattern: &[u8], count: usize, stream: usize) -> Outcome {
    let stream = stream::of_handle(stream)?;
    check_fill(to, pattern, count)?;
    let pattern = pattern.to_vec();
    stream.submit_fn(move || fill(to, &pattern, count))
}
