//! Operations on the values of one lane, and comparisons of all lanes.

use crate::ptx::program::{Cmp, Half, HalfTy, Logic};
use half::{bf16, f16};

#[inline(always)]
pub(in crate::exec) fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

#[inline(always)]
pub(in crate::exec) fn d(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// bf16 to the nearest, ties to even.
#[inline(always)]
pub(in crate::exec) fn bf16_of(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { 0x7fff } else { rounded }
}

#[inline(always)]
pub(in crate::exec) fn of_bf16(bits: u32) -> f32 {
    f(bits << 16)
}

pub(in crate::exec) fn f16_of(value: f32) -> u32 {
    u32::from(f16::from_f32(value).to_bits())
}

pub(in crate::exec) fn of_f16(bits: u32) -> f32 {
    f16::from_bits(bits as u16).to_f32()
}

#[inline(always)]
pub(in crate::exec) fn combine(op: Logic, a: u32, b: u32) -> u32 {
    match op {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

#[inline(always)]
pub(in crate::exec) fn compare<B: Copy, V: PartialOrd>(
    cmp: Cmp,
    a: &[B; 32],
    b: &[B; 32],
    value: impl Fn(B) -> V,
) -> u32 {
    let over = |holds: &dyn Fn(&V, &V) -> bool| {
        (0..32).fold(0, |mask, lane| mask | u32::from(holds(&value(a[lane]), &value(b[lane]))) << lane)
    };
    macro_rules! each {
        ($holds:expr) => {{
            let mut mask = 0;
            for lane in 0..32 {
                mask |= u32::from($holds(&value(a[lane]), &value(b[lane]))) << lane;
            }
            mask
        }};
    }
    match cmp {
        Cmp::Eq => each!(|a: &V, b: &V| a == b),
        Cmp::Ne => each!(|a: &V, b: &V| a != b && a.partial_cmp(b).is_some()),
        Cmp::Lt => each!(|a: &V, b: &V| a < b),
        Cmp::Le => each!(|a: &V, b: &V| a <= b),
        Cmp::Gt => each!(|a: &V, b: &V| a > b),
        Cmp::Ge => each!(|a: &V, b: &V| a >= b),
        Cmp::EqU => over(&|a, b| a == b || a.partial_cmp(b).is_none()),
        Cmp::NeU => over(&|a, b| a != b),
        Cmp::LtU => over(&|a, b| a < b || a.partial_cmp(b).is_none()),
        Cmp::LeU => over(&|a, b| a <= b || a.partial_cmp(b).is_none()),
        Cmp::GtU => over(&|a, b| a > b || a.partial_cmp(b).is_none()),
        Cmp::GeU => over(&|a, b| a >= b || a.partial_cmp(b).is_none()),
        Cmp::Num => over(&|a, b| a.partial_cmp(b).is_some()),
        Cmp::Nan => over(&|a, b| a.partial_cmp(b).is_none()),
    }
}

#[inline(always)]
pub(in crate::exec) fn nan_or(a: u32, b: u32, otherwise: f32) -> u32 {
    if f(a).is_nan() || f(b).is_nan() { 0x7fff_ffff } else { otherwise.to_bits() }
}

#[inline(always)]
pub(in crate::exec) fn lop3(table: u8, a: u32, b: u32, c: u32) -> u32 {
    let mut out = 0;
    for (bit, a, b, c) in [
        (0, !a, !b, !c),
        (1, !a, !b, c),
        (2, !a, b, !c),
        (3, !a, b, c),
        (4, a, !b, !c),
        (5, a, !b, c),
        (6, a, b, !c),
        (7, a, b, c),
    ] {
        out |= if table >> bit & 1 == 1 { a & b & c } else { 0 };
    }
    out
}

/// Bits `start..start + len`, extended from the highest if signed. `value` is extended to 64 bits that way too.
#[inline(always)]
pub(in crate::exec) fn bit_field(value: u64, start: u32, len: u32, signed: bool) -> u64 {
    let (start, len) = (start & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    let shifted = if signed { ((value as i64) >> start.min(63)) as u64 } else { value.checked_shr(start).unwrap_or(0) };
    if len >= 64 {
        shifted
    } else if signed {
        (((shifted << (64 - len)) as i64) >> (64 - len)) as u64
    } else {
        shifted & ((1 << len) - 1)
    }
}

/// `prmt` in its default mode.
#[inline(always)]
pub(in crate::exec) fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let mut out = 0;
    for nth in 0..4 {
        let select = selector >> (4 * nth) & 15;
        let byte = (bytes >> (8 * (select & 7))) as u8;
        let byte = if select & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
        out |= u32::from(byte) << (8 * nth);
    }
    out
}

#[inline(always)]
pub(in crate::exec) fn half(op: Half, a: f64, b: f64) -> f64 {
    match op {
        Half::Add => a + b,
        Half::Sub => a - b,
        Half::Mul => a * b,
        Half::Min => a.min(b),
        Half::Max => a.max(b),
    }
}

/// `f` of each half, computed in f64 (which is exact for one operation on halves) and rounded once.
#[inline(always)]
pub(in crate::exec) fn halves(ty: HalfTy, bits: [u32; 3], f: impl Fn([f64; 3]) -> f64) -> u32 {
    let one = |shift: u32| {
        let value = f(bits.map(|bits| match ty {
            HalfTy::F16 => f16::from_bits((bits >> shift) as u16).to_f64(),
            HalfTy::Bf16 => bf16::from_bits((bits >> shift) as u16).to_f64(),
        }));
        u32::from(match ty {
            HalfTy::F16 => f16::from_f64(value).to_bits(),
            HalfTy::Bf16 => bf16::from_f64(value).to_bits(),
        })
    };
    one(0) | one(16) << 16
}
