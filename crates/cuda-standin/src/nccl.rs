//! `libnccl.so.2`: collectives between processes and threads, in stream order.
//!
//! A communicator's ranks meet in a memory file of the process that made its unique id; the id says where the others find
//! it, so no name is left anywhere. A collective is work of its stream, so a graph holds it like a kernel. Sums are in f32
//! in the order of ranks, rounded once: every rank has the same bits.

mod calls;
mod collective;
mod comm;
mod shared;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// An `ncclResult_t` that is no success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure(u32);

impl Failure {
    const UNHANDLED_CUDA: Self = Self(1);
    const SYSTEM: Self = Self(2);
    const INTERNAL: Self = Self(3);
    const INVALID_ARGUMENT: Self = Self(4);
    const INVALID_USAGE: Self = Self(5);
    const REMOTE: Self = Self(6);
}

type Outcome<T = ()> = Result<T, Failure>;

/// The result of a call as a code.
fn code(call: impl FnOnce() -> Outcome) -> u32 {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => 0,
        Ok(Err(failure)) => failure.0,
        Err(_) => Failure::INTERNAL.0,
    }
}
