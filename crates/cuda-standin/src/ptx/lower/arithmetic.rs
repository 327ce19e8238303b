//! Arithmetic, logic and comparisons.

use super::{Lower, Lowered, only_type, operands};
use crate::ptx::program::{
    Bin32, Bin64, Cmp, Half, HalfTy, Logic, Op, Operands, Row, Shift, Tern32, Tern64, Un32, Un64,
};
use crate::ptx::syntax::{Instruction, Operand};
use crate::ptx::types::Ty;

impl Lower<'_> {
    pub(super) fn binary(&mut self, it: &Instruction) -> Lowered<()> {
        check_rounding(it)?;
        let (ty, name) = (only_type(it)?, it.words[0].as_str());
        let [d, a, b] = operands(it)?;
        if ty == Ty::Pred {
            return self.predicate_logic(name, d, a, b);
        }
        if it.has("wide") {
            return self.multiply_wide(ty, d, a, b);
        }
        if matches!(name, "shl" | "shr") && ty.is_wide() {
            let f = match (name, ty.is_signed()) {
                ("shl", _) => Shift::Left,
                (_, false) => Shift::RightU,
                (_, true) => Shift::RightS,
            };
            let (a, b) = (self.source(a, true)?, self.source(b, false)?);
            let d = self.destination(d, true)?;
            self.emit(Op::Shift64 { f, d, a, b });
            return Ok(());
        }
        if ty.is_wide() {
            let f = bin64(name, it, ty)?;
            let (a, b) = (self.source(a, true)?, self.source(b, true)?);
            let d = self.destination(d, true)?;
            self.emit(Op::Bin64 { f, d, a, b });
            return Ok(());
        }
        let f = bin32(name, it, ty)?;
        let a = self.typed(a, ty)?;
        // A shift's count has 32 bits whatever the type.
        let b = if matches!(name, "shl" | "shr") { self.source(b, false)? } else { self.typed(b, ty)? };
        let d = self.destination(d, false)?;
        self.emit(Op::Bin32 { f, d, a, b });
        self.finish(it, ty, d);
        Ok(())
    }

    /// What a suffix or a narrow type does to a result of 32 bits.
    pub(super) fn finish(&mut self, it: &Instruction, ty: Ty, d: Row) {
        if ty.is_int() && ty.bytes() == 2 {
            self.emit(Op::Un32 { f: Un32::Zext16, d, a: d });
        }
        if ty == Ty::F32 && it.has("sat") {
            self.emit(Op::Un32 { f: Un32::SaturateF, d, a: d });
        }
        if ty == Ty::F32 && it.has("ftz") {
            self.emit(Op::Un32 { f: Un32::FlushF, d, a: d });
        }
    }

    fn multiply_wide(&mut self, ty: Ty, d: &Operand, a: &Operand, b: &Operand) -> Lowered<()> {
        let (a, b) = (self.typed(a, ty)?, self.typed(b, ty)?);
        if ty.bytes() == 2 {
            let d = self.destination(d, false)?;
            self.emit(Op::Bin32 { f: Bin32::Mul, d, a, b });
        } else if ty.bytes() == 4 {
            let d = self.destination(d, true)?;
            self.emit(Op::MulWide { signed: ty.is_signed(), d, a, b });
        } else {
            return Err("a product of 128 bits".to_owned());
        }
        Ok(())
    }

    fn predicate_logic(&mut self, name: &str, d: &Operand, a: &Operand, b: &Operand) -> Lowered<()> {
        let f = logic(name)?;
        let (a, b) = (self.guard(a)?, self.guard(b)?);
        let d = self.guard(d)?.pred;
        self.emit(Op::PredLogic { f, d, a, b });
        Ok(())
    }

    pub(super) fn unary(&mut self, it: &Instruction) -> Lowered<()> {
        let (ty, name) = (only_type(it)?, it.words[0].as_str());
        let [d, a] = operands(it)?;
        if ty == Ty::Pred {
            let (mut a, d) = (self.guard(a)?, self.guard(d)?.pred);
            a.negated ^= name == "not";
            self.emit(Op::PredLogic { f: Logic::And, d, a, b: a });
            return Ok(());
        }
        if ty.is_wide() {
            let f = un64(name, ty)?;
            let narrow_result = matches!(f, Un64::Popc | Un64::Clz);
            let a = self.source(a, true)?;
            let d = self.destination(d, !narrow_result)?;
            self.emit(Op::Un64 { f, d, a });
            return Ok(());
        }
        if matches!(ty, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2) {
            return self.half_sign(name, ty, d, a);
        }
        let f = un32(name, ty)?;
        let a = self.typed(a, ty)?;
        let d = self.destination(d, false)?;
        self.emit(Op::Un32 { f, d, a });
        self.finish(it, ty, d);
        Ok(())
    }

    /// `neg` and `abs` of halves change sign bits.
    fn half_sign(&mut self, name: &str, ty: Ty, d: &Operand, a: &Operand) -> Lowered<()> {
        let (f, bits) = match (name, ty) {
            ("neg", Ty::F16 | Ty::Bf16) => (Bin32::Xor, 0x8000),
            ("neg", _) => (Bin32::Xor, 0x8000_8000),
            ("abs", Ty::F16 | Ty::Bf16) => (Bin32::And, 0x7fff),
            ("abs", _) => (Bin32::And, 0x7fff_7fff),
            _ => return Err(String::new()),
        };
        let (a, b) = (self.source(a, false)?, self.constant(bits, false));
        let d = self.destination(d, false)?;
        self.emit(Op::Bin32 { f, d, a, b });
        Ok(())
    }

    pub(super) fn ternary(&mut self, it: &Instruction) -> Lowered<()> {
        check_rounding(it)?;
        match it.words[0].as_str() {
            "lop3" => return self.lop3(it),
            "bfi" => return self.bit_field_insert(it),
            "prmt" if it.words.len() > 2 => return Err("a mode of prmt".to_owned()),
            "mad" if !it.has("lo") && !it.has("wide") && only_type(it)?.is_int() => return self.multiply_high_add(it),
            _ => {}
        }
        let (ty, name) = (only_type(it)?, it.words[0].as_str());
        let [d, a, b, c] = operands(it)?;
        if it.has("wide") && ty.bytes() == 4 {
            let product = self.new_row(true);
            let (a, b) = (self.typed(a, ty)?, self.typed(b, ty)?);
            self.emit(Op::MulWide { signed: ty.is_signed(), d: product, a, b });
            let (c, d) = (self.source(c, true)?, self.destination(d, true)?);
            self.emit(Op::Bin64 { f: Bin64::Add, d, a: product, b: c });
            return Ok(());
        }
        if name == "bfe" && ty.is_wide() {
            let (a, start, len) = (self.source(a, true)?, self.source(b, false)?, self.source(c, false)?);
            let d = self.destination(d, true)?;
            self.emit(Op::Bfe64 { signed: ty.is_signed(), d, a, start, len });
            return Ok(());
        }
        if ty.is_wide() {
            let f = if ty == Ty::F64 { Tern64::FmaF } else { Tern64::Mad };
            let (a, b, c) = (self.source(a, true)?, self.source(b, true)?, self.source(c, true)?);
            let d = self.destination(d, true)?;
            self.emit(Op::Tern64 { f, d, a, b, c });
            return Ok(());
        }
        let f = tern32(it, name, ty)?;
        let (a, b, c) = if it.has("wide") {
            (self.typed(a, ty)?, self.typed(b, ty)?, self.source(c, false)?)
        } else if name == "bfe" {
            (self.typed(a, ty)?, self.source(b, false)?, self.source(c, false)?)
        } else {
            (self.typed(a, ty)?, self.typed(b, ty)?, self.typed(c, ty)?)
        };
        let d = self.destination(d, false)?;
        self.emit(Op::Tern32 { f, d, a, b, c });
        if !it.has("wide") {
            self.finish(it, ty, d);
        }
        Ok(())
    }

    fn multiply_high_add(&mut self, it: &Instruction) -> Lowered<()> {
        let ty = only_type(it)?;
        let [d, a, b, c] = operands(it)?;
        if !it.has("hi") || ty.bytes() != 4 {
            return Err(String::new());
        }
        let (a, b, c) = (self.source(a, false)?, self.source(b, false)?, self.source(c, false)?);
        let (high, d) = (self.new_row(false), self.destination(d, false)?);
        let f = if ty.is_signed() { Bin32::MulHiS } else { Bin32::MulHiU };
        self.emit(Op::Bin32 { f, d: high, a, b });
        self.emit(Op::Bin32 { f: Bin32::Add, d, a: high, b: c });
        Ok(())
    }

    fn lop3(&mut self, it: &Instruction) -> Lowered<()> {
        let [d, a, b, c, table] = operands(it)?;
        let Operand::Int(table) = table else { return Err("a table that is no number".to_owned()) };
        let (a, b, c) = (self.source(a, false)?, self.source(b, false)?, self.source(c, false)?);
        let d = self.destination(d, false)?;
        self.emit(Op::Tern32 { f: Tern32::Lop3(*table as u8), d, a, b, c });
        Ok(())
    }

    fn bit_field_insert(&mut self, it: &Instruction) -> Lowered<()> {
        let wide = only_type(it)?.is_wide();
        let [d, a, b, start, len] = operands(it)?;
        let (a, b) = (self.source(a, wide)?, self.source(b, wide)?);
        let (start, len) = (self.source(start, false)?, self.source(len, false)?);
        let d = self.destination(d, wide)?;
        self.emit(if wide { Op::Bfi64 { d, a, b, start, len } } else { Op::Bfi { d, a, b, start, len } });
        Ok(())
    }

    pub(super) fn compare(&mut self, it: &Instruction) -> Lowered<()> {
        match it.words[0].as_str() {
            "selp" => self.select(it),
            "setp" => self.set_predicate(it),
            _ => self.set_value(it),
        }
    }

    fn select(&mut self, it: &Instruction) -> Lowered<()> {
        let [d, a, b, p] = operands(it)?;
        let (ty, p) = (only_type(it)?, self.guard(p)?);
        let wide = ty.is_wide();
        let (a, b) = if ty.bytes() == 2 {
            (self.typed(a, Ty::U16)?, self.typed(b, Ty::U16)?)
        } else {
            (self.source(a, wide)?, self.source(b, wide)?)
        };
        let d = self.destination(d, wide)?;
        self.emit(if wide { Op::Select64 { d, a, b, p } } else { Op::Select32 { d, a, b, p } });
        Ok(())
    }

    fn set_predicate(&mut self, it: &Instruction) -> Lowered<()> {
        let (d, d_not) = match it.operands.first() {
            Some(Operand::Pair(d, d_not)) => (self.predicate_destination(d)?, self.predicate_destination(d_not)?),
            Some(Operand::Name(d)) => (self.predicate_destination(d)?, None),
            _ => return Err("a predicate is expected".to_owned()),
        };
        let (a, b) = match &it.operands[1..] {
            [a, b] | [a, b, _] => (a, b),
            _ => return Err("two operands are expected".to_owned()),
        };
        let combine = match it.operands.get(3) {
            Some(p) => Some((logic(&it.words[2])?, self.guard(p)?)),
            None => None,
        };
        let (cmp, of, a, b) = self.comparison(it, only_type(it)?, a, b)?;
        self.emit(Op::Setp { cmp, of, d, d_not, a, b, combine });
        Ok(())
    }

    fn comparison(&mut self, it: &Instruction, ty: Ty, a: &Operand, b: &Operand) -> Lowered<(Cmp, Operands, Row, Row)> {
        let cmp = comparison(&it.words[1])?;
        if let Some(half) = half_of(ty) {
            let f = if half == HalfTy::F16 { Un32::F32OfF16 } else { Un32::F32OfBf16 };
            let (a, b) = (self.source(a, false)?, self.source(b, false)?);
            return Ok((cmp, Operands::F32, self.temporary(f, a), self.temporary(f, b)));
        }
        let of = match ty {
            Ty::F32 => Operands::F32,
            Ty::F64 => Operands::F64,
            Ty::S8 | Ty::S16 | Ty::S32 => Operands::S32,
            Ty::S64 => Operands::S64,
            Ty::U64 => Operands::U64,
            Ty::U8 | Ty::U16 | Ty::U32 => Operands::U32,
            _ => return Err(String::new()),
        };
        Ok((cmp, of, self.typed(a, ty)?, self.typed(b, ty)?))
    }

    /// `set.CMP.DTYPE.STYPE`: ones, or 1.0.
    fn set_value(&mut self, it: &Instruction) -> Lowered<()> {
        let ([to, ty], [d, a, b]) = (it.types()[..].try_into().map_err(|_| String::new())?, operands(it)?);
        let ones = match to {
            Ty::U32 | Ty::S32 => u32::MAX,
            Ty::F32 => 1f32.to_bits(),
            _ => return Err(String::new()),
        };
        let (cmp, of, a, b) = self.comparison(it, ty, a, b)?;
        let pred = self.program.preds as u32;
        self.program.preds += 1;
        let d = self.destination(d, false)?;
        self.emit(Op::Setp { cmp, of, d: Some(pred), d_not: None, a, b, combine: None });
        self.emit(Op::PredValue { d, p: crate::ptx::program::Guard { pred, negated: false }, ones });
        Ok(())
    }
}

/// Directed rounding of floating-point arithmetic is not there.
fn check_rounding(it: &Instruction) -> Lowered<()> {
    if only_type(it)?.is_float() && ["rz", "rm", "rp"].iter().any(|round| it.has(round)) {
        return Err("a rounding other than to the nearest".to_owned());
    }
    if it.has("cc") || it.has("sat") && only_type(it)?.is_int() {
        return Err(String::new());
    }
    Ok(())
}

fn logic(name: &str) -> Lowered<Logic> {
    Ok(match name {
        "and" => Logic::And,
        "or" => Logic::Or,
        "xor" => Logic::Xor,
        _ => return Err(String::new()),
    })
}

fn comparison(name: &str) -> Lowered<Cmp> {
    Ok(match name {
        "eq" => Cmp::Eq,
        "ne" => Cmp::Ne,
        "lt" | "lo" => Cmp::Lt,
        "le" | "ls" => Cmp::Le,
        "gt" | "hi" => Cmp::Gt,
        "ge" | "hs" => Cmp::Ge,
        "equ" => Cmp::EqU,
        "neu" => Cmp::NeU,
        "ltu" => Cmp::LtU,
        "leu" => Cmp::LeU,
        "gtu" => Cmp::GtU,
        "geu" => Cmp::GeU,
        "num" => Cmp::Num,
        "nan" => Cmp::Nan,
        _ => return Err(String::new()),
    })
}

/// The type of one half, of a pair or of a single one.
pub(super) fn half_of(ty: Ty) -> Option<HalfTy> {
    match ty {
        Ty::F16 | Ty::F16x2 => Some(HalfTy::F16),
        Ty::Bf16 | Ty::Bf16x2 => Some(HalfTy::Bf16),
        _ => None,
    }
}

fn bin32(name: &str, it: &Instruction, ty: Ty) -> Lowered<Bin32> {
    if let Some(half) = half_of(ty) {
        return half_binary(name, it).map(|f| Bin32::Half(f, half));
    }
    let (high, nan) = (it.has("hi") && ty.bytes() == 4, it.has("NaN"));
    Ok(match (name, class(ty)) {
        ("add", Class::Float) => Bin32::AddF,
        ("sub", Class::Float) => Bin32::SubF,
        ("mul", Class::Float) => Bin32::MulF,
        ("div", Class::Float) => Bin32::DivF,
        ("min", Class::Float) if nan => Bin32::MinNanF,
        ("max", Class::Float) if nan => Bin32::MaxNanF,
        ("min", Class::Float) => Bin32::MinF,
        ("max", Class::Float) => Bin32::MaxF,
        (_, Class::Float) => return Err(String::new()),
        ("add", _) => Bin32::Add,
        ("sub", _) => Bin32::Sub,
        ("mul", _) if it.has("lo") => Bin32::Mul,
        ("mul", Class::Signed) if high => Bin32::MulHiS,
        ("mul", Class::Unsigned) if high => Bin32::MulHiU,
        ("div", Class::Signed) => Bin32::DivS,
        ("div", Class::Unsigned) => Bin32::DivU,
        ("rem", Class::Signed) => Bin32::RemS,
        ("rem", Class::Unsigned) => Bin32::RemU,
        ("min", Class::Signed) => Bin32::MinS,
        ("min", Class::Unsigned) => Bin32::MinU,
        ("max", Class::Signed) => Bin32::MaxS,
        ("max", Class::Unsigned) => Bin32::MaxU,
        ("and", _) => Bin32::And,
        ("or", _) => Bin32::Or,
        ("xor", _) => Bin32::Xor,
        ("shl", _) => Bin32::Shl,
        ("shr", Class::Signed) => Bin32::ShrS,
        ("shr", Class::Unsigned) => Bin32::ShrU,
        _ => return Err(String::new()),
    })
}

fn half_binary(name: &str, it: &Instruction) -> Lowered<Half> {
    if it.has("sat") || it.has("NaN") {
        return Err(String::new());
    }
    Ok(match name {
        "add" => Half::Add,
        "sub" => Half::Sub,
        "mul" => Half::Mul,
        "min" => Half::Min,
        "max" => Half::Max,
        _ => return Err(String::new()),
    })
}

fn bin64(name: &str, it: &Instruction, ty: Ty) -> Lowered<Bin64> {
    Ok(match (name, class(ty)) {
        ("add", Class::Float) => Bin64::AddF,
        ("sub", Class::Float) => Bin64::SubF,
        ("mul", Class::Float) => Bin64::MulF,
        ("div", Class::Float) => Bin64::DivF,
        ("min", Class::Float) => Bin64::MinF,
        ("max", Class::Float) => Bin64::MaxF,
        (_, Class::Float) => return Err(String::new()),
        ("add", _) => Bin64::Add,
        ("sub", _) => Bin64::Sub,
        ("mul", _) if it.has("lo") => Bin64::Mul,
        ("mul", Class::Signed) if it.has("hi") => Bin64::MulHiS,
        ("mul", Class::Unsigned) if it.has("hi") => Bin64::MulHiU,
        ("div", Class::Signed) => Bin64::DivS,
        ("div", Class::Unsigned) => Bin64::DivU,
        ("rem", Class::Signed) => Bin64::RemS,
        ("rem", Class::Unsigned) => Bin64::RemU,
        ("min", Class::Signed) => Bin64::MinS,
        ("min", Class::Unsigned) => Bin64::MinU,
        ("max", Class::Signed) => Bin64::MaxS,
        ("max", Class::Unsigned) => Bin64::MaxU,
        ("and", _) => Bin64::And,
        ("or", _) => Bin64::Or,
        ("xor", _) => Bin64::Xor,
        _ => return Err(String::new()),
    })
}

/// Which arithmetic a type has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Float,
    Signed,
    Unsigned,
}

fn class(ty: Ty) -> Class {
    if ty.is_float() {
        Class::Float
    } else if ty.is_signed() {
        Class::Signed
    } else {
        Class::Unsigned
    }
}

fn un32(name: &str, ty: Ty) -> Lowered<Un32> {
    Ok(match (name, ty) {
        ("neg", Ty::F32) => Un32::NegF,
        ("abs", Ty::F32) => Un32::AbsF,
        ("sqrt", Ty::F32) => Un32::SqrtF,
        ("rsqrt", Ty::F32) => Un32::RsqrtF,
        ("rcp", Ty::F32) => Un32::RcpF,
        ("ex2", Ty::F32) => Un32::Ex2F,
        ("lg2", Ty::F32) => Un32::Lg2F,
        ("sin", Ty::F32) => Un32::SinF,
        ("cos", Ty::F32) => Un32::CosF,
        ("tanh", Ty::F32) => Un32::TanhF,
        ("neg", Ty::S16 | Ty::S32) => Un32::Neg,
        ("abs", Ty::S16 | Ty::S32) => Un32::AbsS,
        ("not", Ty::U16 | Ty::U32) => Un32::Not,
        ("popc", Ty::U32) => Un32::Popc,
        ("clz", Ty::U32) => Un32::Clz,
        ("brev", Ty::U32) => Un32::Brev,
        ("bfind", Ty::U32) => Un32::FindU,
        _ => return Err(String::new()),
    })
}

fn un64(name: &str, ty: Ty) -> Lowered<Un64> {
    Ok(match (name, ty) {
        ("neg", Ty::F64) => Un64::NegF,
        ("abs", Ty::F64) => Un64::AbsF,
        ("sqrt", Ty::F64) => Un64::SqrtF,
        ("rcp", Ty::F64) => Un64::RcpF,
        ("neg", Ty::S64) => Un64::Neg,
        ("abs", Ty::S64) => Un64::AbsS,
        ("not", Ty::U64) => Un64::Not,
        ("popc", Ty::U64) => Un64::Popc,
        ("clz", Ty::U64) => Un64::Clz,
        ("brev", Ty::U64) => Un64::Brev,
        _ => return Err(String::new()),
    })
}

fn tern32(it: &Instruction, name: &str, ty: Ty) -> Lowered<Tern32> {
    if let (Some(half), "fma") = (half_of(ty), name) {
        return if it.has("sat") || it.has("relu") { Err(String::new()) } else { Ok(Tern32::FmaHalf(half)) };
    }
    Ok(match (name, ty) {
        ("fma" | "mad", Ty::F32) => Tern32::FmaF,
        ("mad", _) if ty.is_int() => Tern32::Mad,
        ("bfe", Ty::U32) => Tern32::BfeU,
        ("bfe", Ty::S32) => Tern32::BfeS,
        ("prmt", Ty::U32) => Tern32::Prmt,
        ("shf", Ty::U32) => match (it.has("l"), it.has("wrap")) {
            (true, true) => Tern32::ShfLeftWrap,
            (true, false) => Tern32::ShfLeftClamp,
            (false, true) => Tern32::ShfRightWrap,
            (false, false) => Tern32::ShfRightClamp,
        },
        _ => return Err(String::new()),
    })
}
