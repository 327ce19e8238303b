//! The conversions that kernels rarely make, lane by lane.

use super::alu::{bf16_of, f16_of, of_bf16, of_f16};
use super::lanes::Registers;
use crate::ptx::program::{Round, Row};
use crate::ptx::types::Ty;

impl Registers {
    /// `cvt` from one type to another, where one of them is a floating-point number.
    pub(super) fn convert(
        &mut self,
        m: u32,
        [from, to]: [Ty; 2],
        round: Option<Round>,
        saturate: bool,
        d: Row,
        a: Row,
    ) {
        let source = if from.is_wide() { *self.wide(a) } else { self.row(a).map(u64::from) };
        let out = source.map(|bits| convert(from, to, round, saturate, bits));
        if to.is_wide() {
            self.put_wide(d, m, &out);
        } else {
            self.put(d, m, &out.map(|bits| bits as u32));
        }
    }
}

fn convert(from: Ty, to: Ty, round: Option<Round>, saturate: bool, bits: u64) -> u64 {
    if from.is_int() {
        let value = match from.is_signed() {
            true if from.is_wide() => i128::from(bits as i64),
            true => i128::from(bits as u32 as i32),
            false => i128::from(bits),
        };
        return if to.is_int() { int_of(to, value) } else { float_of_int(to, value, round) };
    }
    let value = match from {
        Ty::F16 => f64::from(of_f16(bits as u32)),
        Ty::Bf16 => f64::from(of_bf16(bits as u32)),
        Ty::F32 => f64::from(f32::from_bits(bits as u32)),
        _ => f64::from_bits(bits),
    };
    if to.is_int() {
        return if value.is_nan() { 0 } else { int_of(to, rounded(value, round) as i128) };
    }
    let value = if from == to && round.is_some() { rounded(value, round) } else { value };
    let value = if saturate { if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) } } else { value };
    float_of(to, value, round.filter(|_| from != to))
}

/// Clamped to what the type can hold; a narrow one keeps its zero-extended form.
fn int_of(to: Ty, value: i128) -> u64 {
    let bits = 8 * to.bytes() as u32;
    let (min, max) = if to.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
    let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    value.clamp(min, max) as u64 & mask
}

fn rounded(value: f64, round: Option<Round>) -> f64 {
    match round {
        Some(Round::Nearest) => value.round_ties_even(),
        Some(Round::Down) => value.floor(),
        Some(Round::Up) => value.ceil(),
        Some(Round::Zero) | None => value.trunc(),
    }
}

fn float_of_int(to: Ty, value: i128, round: Option<Round>) -> u64 {
    match to {
        Ty::F32 if matches!(round, Some(Round::Nearest) | None) => u64::from((value as f32).to_bits()),
        _ => float_of(to, value as f64, round),
    }
}

fn float_of(to: Ty, value: f64, round: Option<Round>) -> u64 {
    let single = |value: f64| {
        let nearest = value as f32;
        let back = f64::from(nearest);
        match round {
            Some(Round::Zero) if back.abs() > value.abs() => toward_zero(nearest),
            Some(Round::Down) if back > value => nearest.next_down(),
            Some(Round::Up) if back < value => nearest.next_up(),
            _ => nearest,
        }
    };
    match to {
        Ty::F64 => value.to_bits(),
        Ty::F32 => u64::from(single(value).to_bits()),
        Ty::F16 => u64::from(f16_of(single(value))),
        _ => u64::from(bf16_of(single(value))),
    }
}

fn toward_zero(value: f32) -> f32 {
    if value > 0.0 { value.next_down() } else { value.next_up() }
}
