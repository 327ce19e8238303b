//! What the executor runs: instructions over rows of a register file.
//!
//! A row holds 32 bits for each of the 32 lanes of a warp; a 64-bit register takes two rows in sequence, which hold 32
//! 64-bit values. Narrower values are zero-extended. Immediates and special registers are rows too, set once for a warp
//! ([`Program::constants`], [`Program::specials`]), so that every operand of an instruction is a row.

mod operands;
mod operators;

pub use operands::*;
pub use operators::*;

/// The first row of a register.
pub type Row = u32;
/// The number of a predicate.
pub type Pred = u32;

/// An entry, ready to run.
#[derive(Debug)]
pub struct Program {
    pub name: String,
    pub params: Vec<Param>,
    pub code: Vec<Inst>,
    /// The text of each instruction of `code`.
    pub texts: Vec<String>,
    pub rows: usize,
    pub preds: usize,
    pub constants: Vec<Constant>,
    pub specials: Vec<(Row, Special)>,
    /// Bytes of shared memory before the dynamic part.
    pub shared_bytes: usize,
    /// Bytes of local memory for each thread.
    pub local_bytes: usize,
    /// Of `.maxntid`; zero if there is none.
    pub threads_max: u32,
}

/// Where a kernel's argument lies in its parameter block.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    pub offset: usize,
    pub bytes: usize,
}

/// A row, or two, with the same value in all lanes.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    pub row: Row,
    pub bits: u64,
    pub wide: bool,
}

/// Special registers that do not change while a warp runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    LaneId,
    WarpId,
    NwarpId,
    SmId,
    NsmId,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    DynamicSharedBytes,
}

/// A predicate as it is read.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    pub pred: Pred,
    pub negated: bool,
}

/// An instruction with its guard.
#[derive(Debug)]
pub struct Inst {
    pub guard: Option<Guard>,
    pub op: Op,
}

/// An operation.
#[derive(Debug)]
pub enum Op {
    Nop,
    Un32 {
        f: Un32,
        d: Row,
        a: Row,
    },
    Un64 {
        f: Un64,
        d: Row,
        a: Row,
    },
    Bin32 {
        f: Bin32,
        d: Row,
        a: Row,
        b: Row,
    },
    Bin64 {
        f: Bin64,
        d: Row,
        a: Row,
        b: Row,
    },
    Shift64 {
        f: Shift,
        d: Row,
        a: Row,
        b: Row,
    },
    MulWide {
        signed: bool,
        d: Row,
        a: Row,
        b: Row,
    },
    Tern32 {
        f: Tern32,
        d: Row,
        a: Row,
        b: Row,
        c: Row,
    },
    Tern64 {
        f: Tern64,
        d: Row,
        a: Row,
        b: Row,
        c: Row,
    },
    Bfi {
        d: Row,
        a: Row,
        b: Row,
        start: Row,
        len: Row,
    },
    Bfe64 {
        signed: bool,
        d: Row,
        a: Row,
        start: Row,
        len: Row,
    },
    Bfi64 {
        d: Row,
        a: Row,
        b: Row,
        start: Row,
        len: Row,
    },
    /// 32 to 64 bits.
    Widen {
        signed: bool,
        d: Row,
        a: Row,
    },
    /// 64 to 32 bits.
    Narrow {
        d: Row,
        a: Row,
    },
    /// Any other conversion, lane by lane.
    Convert {
        from: super::types::Ty,
        to: super::types::Ty,
        round: Option<Round>,
        saturate: bool,
        d: Row,
        a: Row,
    },
    /// Several narrow registers into a wider one, the first lowest.
    Pack {
        bits: u32,
        parts: [Row; 4],
        count: usize,
        d: Row,
        wide: bool,
    },
    /// The reverse; a part that nobody wants is none.
    Unpack {
        bits: u32,
        parts: [Option<Row>; 4],
        count: usize,
        a: Row,
        wide: bool,
    },
    Select32 {
        d: Row,
        a: Row,
        b: Row,
        p: Guard,
    },
    Select64 {
        d: Row,
        a: Row,
        b: Row,
        p: Guard,
    },
    Setp {
        cmp: Cmp,
        of: Operands,
        d: Option<Pred>,
        d_not: Option<Pred>,
        a: Row,
        b: Row,
        combine: Option<(Logic, Guard)>,
    },
    PredLogic {
        f: Logic,
        d: Pred,
        a: Guard,
        b: Guard,
    },
    /// A predicate as 32 bits: one or zero.
    PredValue {
        d: Row,
        p: Guard,
        ones: u32,
    },
    PredConst {
        d: Pred,
        value: bool,
    },
    Clock {
        d: Row,
        wide: bool,
    },
    Load {
        address: Address,
        to: Elements,
    },
    Store {
        address: Address,
        from: Elements,
    },
    Atomic(Atomic),
    CopyAsync(CopyAsync),
    CopyCommit,
    CopyWait {
        keep: usize,
    },
    LdMatrix {
        address: Address,
        d: [Row; 4],
        count: usize,
        transposed: bool,
    },
    Mma(Mma),
    Shfl(Shfl),
    Vote {
        mode: VoteMode,
        d: Pred,
        p: Guard,
        members: Row,
    },
    Ballot {
        d: Row,
        p: Guard,
        members: Row,
    },
    MatchAny {
        d: Row,
        a: Row,
        members: Row,
    },
    Redux {
        f: Redux,
        d: Row,
        a: Row,
        members: Row,
    },
    ActiveMask {
        d: Row,
    },
    WarpSync {
        members: Row,
    },
    /// Waits for `count` threads at barrier `id`, or for all of the block.
    BarSync {
        id: Row,
        count: Option<Row>,
    },
    BarArrive {
        id: Row,
        count: Row,
    },
    BarReduce {
        f: BarReduce,
        id: Row,
        p: Guard,
    },
    Fence,
    Sleep,
    Branch {
        target: u32,
    },
    BranchIndexed {
        index: Row,
        targets: Vec<u32>,
    },
    Exit,
    Trap {
        why: &'static str,
    },
}
