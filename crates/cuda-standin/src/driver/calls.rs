//! The functions of the C interface, by subject.

mod device;
mod graph;
mod ipc;
mod memory;
mod module;
mod stream;

use super::status::{Outcome, Status};
use std::ffi::{CStr, c_char};

/// A name that a caller gives.
fn text<'a>(name: *const c_char) -> Outcome<&'a str> {
    if name.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: the caller gives a string that ends with zero and outlives the call, in which the result is used.
    unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| Status::INVALID_VALUE)
}

/// Puts a string, cut to `len` bytes with its zero.
fn put_text(out: *mut c_char, len: i32, text: &str) -> Outcome {
    let room = usize::try_from(len).ok().filter(|room| *room > 0).ok_or(Status::INVALID_VALUE)?;
    if out.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    let used = text.len().min(room - 1);
    // SAFETY: the caller gives room for `len` bytes, and at most that many are written.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), out, used);
        *out.add(used) = 0;
    }
    Ok(())
}
