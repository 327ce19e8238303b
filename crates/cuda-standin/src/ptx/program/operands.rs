//! What instructions of memory and of several lanes take: addresses, elements, modes.

use super::{HalfTy, Pred, Row};

/// Where memory is accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemSpace {
    Generic,
    Global,
    Shared,
    Local,
    Param,
}

/// The address of an access.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    pub space: MemSpace,
    pub base: Row,
    /// Whether `base` has 64 bits.
    pub wide: bool,
    pub offset: i64,
}

/// How a loaded value fills its register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extend {
    Zero,
    /// From 8 or 16 bits to the register's width in bits.
    Sign {
        to: u32,
    },
}

/// The elements of a load or store: `count` of `bytes` each, in registers that start at `rows`.
#[derive(Clone, Copy, Debug)]
pub struct Elements {
    pub bytes: usize,
    pub count: usize,
    pub rows: [Row; 4],
    /// Whether the registers have 64 bits.
    pub wide: bool,
    pub extend: Extend,
    /// Volatile, relaxed, acquire or release: another thread may wait for it, or be waited for.
    pub strong: bool,
}

/// What an atomic operation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rmw {
    AddInt,
    AddF32,
    AddF64,
    AddHalf2(HalfTy),
    AddHalf(HalfTy),
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    /// `(old >= b) ? 0 : old + 1`
    Inc,
    /// `(old == 0 || old > b) ? b : old - 1`
    Dec,
}

/// An atomic operation.
#[derive(Clone, Copy, Debug)]
pub struct Atomic {
    pub f: Rmw,
    pub bytes: usize,
    pub address: Address,
    /// None for `red`.
    pub d: Option<Row>,
    pub b: Row,
    pub c: Row,
}

/// An asynchronous copy to shared memory.
#[derive(Clone, Copy, Debug)]
pub struct CopyAsync {
    pub shared: Address,
    pub global: Address,
    pub bytes: usize,
    /// How many bytes are read; the rest are zeros.
    pub source_bytes: Option<Row>,
}

/// A matrix product of a warp, m16n8k16 or m16n8k8, with f32 accumulators.
#[derive(Clone, Copy, Debug)]
pub struct Mma {
    pub ty: HalfTy,
    pub k: usize,
    pub d: [Row; 4],
    pub a: [Row; 4],
    pub b: [Row; 2],
    pub c: [Row; 4],
}

/// Which lane a shuffle reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

/// A shuffle.
#[derive(Clone, Copy, Debug)]
pub struct Shfl {
    pub mode: ShflMode,
    pub d: Row,
    pub in_range: Option<Pred>,
    pub a: Row,
    pub b: Row,
    pub c: Row,
    pub members: Row,
}

/// A vote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VoteMode {
    All,
    Any,
    Uni,
}

/// A reduction over lanes (`redux`), or over the threads at a barrier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Redux {
    Add,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
}

/// What a barrier with a reduction computes of its predicate.
#[derive(Clone, Copy, Debug)]
pub enum BarReduce {
    Popc(Row),
    And(Pred),
    Or(Pred),
}
