//! `libcuda.so.1`: the driver interface over host memory and the executor.
//!
//! A stream is a thread that runs what is submitted to it in order; events, captures and graphs are built on that. A
//! failure of a kernel sticks to its context: all later calls give it again, as on a device.

mod calls;
pub mod capture;
pub mod context;
pub mod event;
pub mod launch;
pub mod memory;
pub mod module;
pub mod status;
pub mod stream;

use status::{Outcome, Status};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Where a C function puts a result: a pointer that may be null, to memory that need not be initialized.
pub(crate) type Out<'a, T> = Option<&'a mut MaybeUninit<T>>;

/// Puts a result.
pub(crate) fn put<T>(out: Out<'_, T>, value: T) -> Outcome {
    out.ok_or(Status::INVALID_VALUE)?.write(value);
    Ok(())
}

/// The result of a call as a code. A panic must not leave a C function.
pub(crate) fn code(call: impl FnOnce() -> Outcome) -> u32 {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => 0,
        Ok(Err(status)) => status.0,
        Err(_) => Status::UNKNOWN.0,
    }
}

/// Says on standard error why something failed, as a status code cannot.
pub(crate) fn complain(what: &dyn std::fmt::Display) {
    eprintln!("cuda-standin: {what}");
}

/// Declares functions of a C interface. Their names are the interface's, and so are their contracts: pointers are null or
/// valid for what the interface says is read or written there.
macro_rules! c_functions {
    ($result:expr; $($(#[$doc:meta])* fn $name:ident($($argument:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, reason = "the interface has it so")]
        pub extern "C" fn $name($($argument: $ty),*) -> u32 {
            $result(|| $body)
        }
    )*};
}
pub(crate) use c_functions;
