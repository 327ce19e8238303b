//! The executor: runs a [`Program`](crate::ptx::Program) over a grid, on the CPU.
//!
//! [`launch`] gives blocks to OS threads and lets blocks that wait for one another take turns; [`block`] does the same with
//! the warps of a block; [`warp`] steps 32 lanes at a time. Lanes have program counters of their own: the ones that are
//! behind run first, so that lanes meet again where their paths do, and lanes that poll give way to the others.
//!
//! Every access is held to the bounds of what it accesses, and to its alignment. Shared memory starts as NaN and belongs
//! to one block, which runs on one thread at a time; global memory is accessed through relaxed atomics at the least, since
//! blocks, ranks and the host race for it as they do on a device.

pub mod address;
mod alu;
mod block;
mod convert;
pub mod counters;
mod lanes;
pub mod launch;
mod memory;
mod mma;
mod shuffle;
mod warp;

#[cfg(test)]
mod tests;

/// What went wrong in a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// An access outside of what may be accessed.
    Address,
    /// An access that is not aligned to its size.
    Misaligned,
    /// Lanes, warps or barriers that wait for one another in vain, or that do what PTX leaves undefined.
    Synchronization,
    /// `trap`.
    Trap,
}

/// A kernel's end by error.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{kernel}: block {block:?} thread {thread:?}: {why}: `{text}`")]
pub struct Fault {
    /// What went wrong.
    pub kind: FaultKind,
    /// The entry.
    pub kernel: String,
    /// Which block.
    pub block: [u32; 3],
    /// Which thread; of several, the first.
    pub thread: [u32; 3],
    /// The fault, for people.
    pub why: String,
    /// The instruction.
    pub text: String,
}

/// A fault, before it is known where it happened.
#[derive(Debug)]
pub(crate) struct LaneFault {
    kind: FaultKind,
    lane: usize,
    why: String,
}

/// Boxed, as faults are rare and results are returned often.
type Faulted<T> = Result<T, Box<LaneFault>>;

/// The lanes of a mask, in order.
#[inline(always)]
fn lanes_of(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane)
    })
}
