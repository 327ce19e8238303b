//! What the executor runs: instructions over rows of a register file.
//!
//! A row holds 32 bits for each of the 32 lanes of a warp; a 64-bit register takes two rows in sequence, which hold 32
//! 64-bit values. Narrower values are zero-extended. Immediates and special registers are rows too, set once for a warp
//! ([`Program::constants`], [`Program::specials`]), so that every operand of an instruction is a row.

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

/// Rounding of a conversion or an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Round {
    Nearest,
    Zero,
    Down,
    Up,
}

/// One operand in 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Un32 {
    Mov,
    Not,
    Neg,
    AbsS,
    Popc,
    Clz,
    Brev,
    FindU,
    Sext8,
    Sext16,
    Zext8,
    Zext16,
    NegF,
    AbsF,
    SqrtF,
    RsqrtF,
    RcpF,
    Ex2F,
    Lg2F,
    SinF,
    CosF,
    TanhF,
    SaturateF,
    FlushF,
    F32OfS32,
    F32OfU32,
    F32OfF16,
    F32OfBf16,
    F16OfF32,
    Bf16OfF32,
    Bf16OfF32Zero,
}

/// One operand in 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Un64 {
    Mov,
    Not,
    Neg,
    AbsS,
    NegF,
    AbsF,
    SqrtF,
    RcpF,
    /// To 32 bits.
    Popc,
    /// To 32 bits.
    Clz,
    Brev,
}

/// Two operands in 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bin32 {
    Add,
    Sub,
    Mul,
    MulHiU,
    MulHiS,
    DivU,
    DivS,
    RemU,
    RemS,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
    Shl,
    ShrU,
    ShrS,
    AddF,
    SubF,
    MulF,
    DivF,
    MinF,
    MaxF,
    MinNanF,
    MaxNanF,
    /// `cvt.bf16x2.f32`: the first operand becomes the upper half.
    Bf16x2OfF32,
    F16x2OfF32,
    /// Two bf16 with `f` of each half; see [`Half`].
    Half(Half, HalfTy),
    /// Lower 16 bits of both operands, the first lower.
    Pack16,
}

/// Arithmetic on both 16-bit halves of a register. A single f16 or bf16 is a pair with an upper half that is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    Add,
    Sub,
    Mul,
    Min,
    Max,
}

/// The type of a 16-bit half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HalfTy {
    F16,
    Bf16,
}

/// Two operands in 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bin64 {
    Add,
    Sub,
    Mul,
    MulHiU,
    MulHiS,
    DivU,
    DivS,
    RemU,
    RemS,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
    AddF,
    SubF,
    MulF,
    DivF,
    MinF,
    MaxF,
}

/// Shifts of 64 bits; the count has 32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shift {
    Left,
    RightU,
    RightS,
}

/// Three operands in 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tern32 {
    FmaF,
    Mad,
    Lop3(u8),
    BfeU,
    BfeS,
    Prmt,
    ShfLeftWrap,
    ShfLeftClamp,
    ShfRightWrap,
    ShfRightClamp,
    FmaHalf(HalfTy),
}

/// Three operands in 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tern64 {
    FmaF,
    Mad,
}

/// How the operands of a comparison are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operands {
    U32,
    S32,
    F32,
    U64,
    S64,
    F64,
}

/// A comparison. `Unordered` ones also hold if an operand is NaN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    EqU,
    NeU,
    LtU,
    LeU,
    GtU,
    GeU,
    Num,
    Nan,
}

/// Logic on predicates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Logic {
    And,
    Or,
    Xor,
}

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
