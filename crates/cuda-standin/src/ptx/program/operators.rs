//! What an instruction does to its operands: operators by the number and the width of these.

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
