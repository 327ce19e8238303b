//! Arithmetic of all lanes at once.

use super::lanes::Registers;
use crate::ptx::program::{Bin32, Bin64, Cmp, Operands, Row, Shift, Tern32, Tern64, Un32, Un64};
mod scalar;

pub(super) use scalar::*;

impl Registers {
    #[inline(always)]
    fn map(&mut self, m: u32, d: Row, a: Row, f: impl Fn(u32) -> u32) {
        let (a, mut out) = (self.row(a), [0; 32]);
        for lane in 0..32 {
            out[lane] = f(a[lane]);
        }
        self.put(d, m, &out);
    }

    #[inline(always)]
    fn map_wide(&mut self, m: u32, d: Row, a: Row, f: impl Fn(u64) -> u64) {
        let (a, mut out) = (self.wide(a), [0; 32]);
        for lane in 0..32 {
            out[lane] = f(a[lane]);
        }
        self.put_wide(d, m, &out);
    }

    #[inline(always)]
    fn zip(&mut self, m: u32, d: Row, a: Row, b: Row, f: impl Fn(u32, u32) -> u32) {
        let (a, b, mut out) = (self.row(a), self.row(b), [0; 32]);
        for lane in 0..32 {
            out[lane] = f(a[lane], b[lane]);
        }
        self.put(d, m, &out);
    }

    #[inline(always)]
    fn zip_wide(&mut self, m: u32, d: Row, a: Row, b: Row, f: impl Fn(u64, u64) -> u64) {
        let (a, b, mut out) = (self.wide(a), self.wide(b), [0; 32]);
        for lane in 0..32 {
            out[lane] = f(a[lane], b[lane]);
        }
        self.put_wide(d, m, &out);
    }

    #[inline(always)]
    fn zip3(&mut self, m: u32, d: Row, [a, b, c]: [Row; 3], f: impl Fn(u32, u32, u32) -> u32) {
        let (a, b, c, mut out) = (self.row(a), self.row(b), self.row(c), [0; 32]);
        for lane in 0..32 {
            out[lane] = f(a[lane], b[lane], c[lane]);
        }
        self.put(d, m, &out);
    }

    #[inline(always)]
    pub(super) fn un32(&mut self, m: u32, op: Un32, to: Row, a: Row) {
        match op {
            Un32::Mov => self.map(m, to, a, |a| a),
            Un32::Not => self.map(m, to, a, |a| !a),
            Un32::Neg => self.map(m, to, a, u32::wrapping_neg),
            Un32::AbsS => self.map(m, to, a, |a| (a as i32).wrapping_abs() as u32),
            Un32::Popc => self.map(m, to, a, u32::count_ones),
            Un32::Clz => self.map(m, to, a, u32::leading_zeros),
            Un32::Brev => self.map(m, to, a, u32::reverse_bits),
            Un32::FindU => self.map(m, to, a, |a| a.checked_ilog2().unwrap_or(u32::MAX)),
            Un32::Sext8 => self.map(m, to, a, |a| a as i8 as u32),
            Un32::Sext16 => self.map(m, to, a, |a| a as i16 as u32),
            Un32::Zext8 => self.map(m, to, a, |a| a & 0xff),
            Un32::Zext16 => self.map(m, to, a, |a| a & 0xffff),
            Un32::NegF => self.map(m, to, a, |a| a ^ 0x8000_0000),
            Un32::AbsF => self.map(m, to, a, |a| a & 0x7fff_ffff),
            Un32::SqrtF => self.map(m, to, a, |a| f(a).sqrt().to_bits()),
            Un32::RsqrtF => self.map(m, to, a, |a| (1.0 / f(a).sqrt()).to_bits()),
            Un32::RcpF => self.map(m, to, a, |a| (1.0 / f(a)).to_bits()),
            Un32::Ex2F => self.map(m, to, a, |a| f(a).exp2().to_bits()),
            Un32::Lg2F => self.map(m, to, a, |a| f(a).log2().to_bits()),
            Un32::SinF => self.map(m, to, a, |a| f(a).sin().to_bits()),
            Un32::CosF => self.map(m, to, a, |a| f(a).cos().to_bits()),
            Un32::TanhF => self.map(m, to, a, |a| f(a).tanh().to_bits()),
            Un32::SaturateF => self.map(m, to, a, |a| (if f(a) > 0.0 { f(a).min(1.0) } else { 0.0 }).to_bits()),
            Un32::FlushF => self.map(m, to, a, |a| if a & 0x7f80_0000 == 0 { a & 0x8000_0000 } else { a }),
            Un32::F32OfS32 => self.map(m, to, a, |a| (a as i32 as f32).to_bits()),
            Un32::F32OfU32 => self.map(m, to, a, |a| (a as f32).to_bits()),
            Un32::F32OfF16 => self.map(m, to, a, |a| of_f16(a).to_bits()),
            Un32::F32OfBf16 => self.map(m, to, a, |a| a << 16),
            Un32::F16OfF32 => self.map(m, to, a, |a| f16_of(f(a))),
            Un32::Bf16OfF32 => self.map(m, to, a, |a| bf16_of(f(a))),
            Un32::Bf16OfF32Zero => self.map(m, to, a, |a| if f(a).is_nan() { 0x7fff } else { a >> 16 }),
        }
    }

    #[inline(always)]
    pub(super) fn un64(&mut self, m: u32, op: Un64, to: Row, a: Row) {
        match op {
            Un64::Mov => self.map_wide(m, to, a, |a| a),
            Un64::Not => self.map_wide(m, to, a, |a| !a),
            Un64::Neg => self.map_wide(m, to, a, u64::wrapping_neg),
            Un64::AbsS => self.map_wide(m, to, a, |a| (a as i64).wrapping_abs() as u64),
            Un64::NegF => self.map_wide(m, to, a, |a| a ^ 1 << 63),
            Un64::AbsF => self.map_wide(m, to, a, |a| a & !(1 << 63)),
            Un64::SqrtF => self.map_wide(m, to, a, |a| d(a).sqrt().to_bits()),
            Un64::RcpF => self.map_wide(m, to, a, |a| (1.0 / d(a)).to_bits()),
            Un64::Brev => self.map_wide(m, to, a, u64::reverse_bits),
            Un64::Popc | Un64::Clz => {
                let count = if op == Un64::Popc { u64::count_ones } else { u64::leading_zeros };
                let out = self.wide(a).map(count);
                self.put(to, m, &out);
            }
        }
    }

    #[inline(always)]
    pub(super) fn bin32(&mut self, m: u32, op: Bin32, to: Row, a: Row, b: Row) {
        match op {
            Bin32::Add => self.zip(m, to, a, b, u32::wrapping_add),
            Bin32::Sub => self.zip(m, to, a, b, u32::wrapping_sub),
            Bin32::Mul => self.zip(m, to, a, b, u32::wrapping_mul),
            Bin32::MulHiU => self.zip(m, to, a, b, |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
            Bin32::MulHiS => {
                self.zip(m, to, a, b, |a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32);
            }
            // Division by zero gives all ones, as devices do.
            Bin32::DivU => self.zip(m, to, a, b, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
            Bin32::DivS => self.zip(m, to, a, b, |a, b| match b {
                0 => u32::MAX,
                b => (a as i32).wrapping_div(b as i32) as u32,
            }),
            Bin32::RemU => self.zip(m, to, a, b, |a, b| a.checked_rem(b).unwrap_or(a)),
            Bin32::RemS => self.zip(m, to, a, b, |a, b| match b {
                0 => a,
                b => (a as i32).wrapping_rem(b as i32) as u32,
            }),
            Bin32::MinU => self.zip(m, to, a, b, |a, b| a.min(b)),
            Bin32::MinS => self.zip(m, to, a, b, |a, b| (a as i32).min(b as i32) as u32),
            Bin32::MaxU => self.zip(m, to, a, b, |a, b| a.max(b)),
            Bin32::MaxS => self.zip(m, to, a, b, |a, b| (a as i32).max(b as i32) as u32),
            Bin32::And => self.zip(m, to, a, b, |a, b| a & b),
            Bin32::Or => self.zip(m, to, a, b, |a, b| a | b),
            Bin32::Xor => self.zip(m, to, a, b, |a, b| a ^ b),
            Bin32::Shl => self.zip(m, to, a, b, |a, b| if b > 31 { 0 } else { a << (b & 31) }),
            Bin32::ShrU => self.zip(m, to, a, b, |a, b| if b > 31 { 0 } else { a >> (b & 31) }),
            Bin32::ShrS => self.zip(m, to, a, b, |a, b| ((a as i32) >> b.min(31)) as u32),
            Bin32::AddF => self.zip(m, to, a, b, |a, b| (f(a) + f(b)).to_bits()),
            Bin32::SubF => self.zip(m, to, a, b, |a, b| (f(a) - f(b)).to_bits()),
            Bin32::MulF => self.zip(m, to, a, b, |a, b| (f(a) * f(b)).to_bits()),
            Bin32::DivF => self.zip(m, to, a, b, |a, b| (f(a) / f(b)).to_bits()),
            Bin32::MinF => self.zip(m, to, a, b, |a, b| f(a).min(f(b)).to_bits()),
            Bin32::MaxF => self.zip(m, to, a, b, |a, b| f(a).max(f(b)).to_bits()),
            Bin32::MinNanF => self.zip(m, to, a, b, |a, b| nan_or(a, b, f(a).min(f(b)))),
            Bin32::MaxNanF => self.zip(m, to, a, b, |a, b| nan_or(a, b, f(a).max(f(b)))),
            Bin32::Bf16x2OfF32 => self.zip(m, to, a, b, |a, b| bf16_of(f(a)) << 16 | bf16_of(f(b))),
            Bin32::F16x2OfF32 => self.zip(m, to, a, b, |a, b| f16_of(f(a)) << 16 | f16_of(f(b))),
            Bin32::Pack16 => self.zip(m, to, a, b, |a, b| a & 0xffff | b << 16),
            Bin32::Half(op, ty) => self.zip(m, to, a, b, |a, b| halves(ty, [a, b, 0], |[a, b, _]| half(op, a, b))),
        }
    }

    #[inline(always)]
    pub(super) fn bin64(&mut self, m: u32, op: Bin64, to: Row, a: Row, b: Row) {
        match op {
            Bin64::Add => self.zip_wide(m, to, a, b, u64::wrapping_add),
            Bin64::Sub => self.zip_wide(m, to, a, b, u64::wrapping_sub),
            Bin64::Mul => self.zip_wide(m, to, a, b, u64::wrapping_mul),
            Bin64::MulHiU => self.zip_wide(m, to, a, b, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
            Bin64::MulHiS => {
                self.zip_wide(m, to, a, b, |a, b| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64);
            }
            Bin64::DivU => self.zip_wide(m, to, a, b, |a, b| a.checked_div(b).unwrap_or(u64::MAX)),
            Bin64::DivS => self.zip_wide(m, to, a, b, |a, b| match b {
                0 => u64::MAX,
                b => (a as i64).wrapping_div(b as i64) as u64,
            }),
            Bin64::RemU => self.zip_wide(m, to, a, b, |a, b| a.checked_rem(b).unwrap_or(a)),
            Bin64::RemS => self.zip_wide(m, to, a, b, |a, b| match b {
                0 => a,
                b => (a as i64).wrapping_rem(b as i64) as u64,
            }),
            Bin64::MinU => self.zip_wide(m, to, a, b, |a, b| a.min(b)),
            Bin64::MinS => self.zip_wide(m, to, a, b, |a, b| (a as i64).min(b as i64) as u64),
            Bin64::MaxU => self.zip_wide(m, to, a, b, |a, b| a.max(b)),
            Bin64::MaxS => self.zip_wide(m, to, a, b, |a, b| (a as i64).max(b as i64) as u64),
            Bin64::And => self.zip_wide(m, to, a, b, |a, b| a & b),
            Bin64::Or => self.zip_wide(m, to, a, b, |a, b| a | b),
            Bin64::Xor => self.zip_wide(m, to, a, b, |a, b| a ^ b),
            Bin64::AddF => self.zip_wide(m, to, a, b, |a, b| (d(a) + d(b)).to_bits()),
            Bin64::SubF => self.zip_wide(m, to, a, b, |a, b| (d(a) - d(b)).to_bits()),
            Bin64::MulF => self.zip_wide(m, to, a, b, |a, b| (d(a) * d(b)).to_bits()),
            Bin64::DivF => self.zip_wide(m, to, a, b, |a, b| (d(a) / d(b)).to_bits()),
            Bin64::MinF => self.zip_wide(m, to, a, b, |a, b| d(a).min(d(b)).to_bits()),
            Bin64::MaxF => self.zip_wide(m, to, a, b, |a, b| d(a).max(d(b)).to_bits()),
        }
    }

    #[inline(always)]
    pub(super) fn shift64(&mut self, m: u32, op: Shift, to: Row, a: Row, b: Row) {
        let (a, b, mut out) = (self.wide(a), self.row(b), [0; 32]);
        for lane in 0..32 {
            let (a, count) = (a[lane], b[lane].min(64));
            out[lane] = match op {
                Shift::Left => a.checked_shl(count).unwrap_or(0),
                Shift::RightU => a.checked_shr(count).unwrap_or(0),
                Shift::RightS => ((a as i64) >> count.min(63)) as u64,
            };
        }
        self.put_wide(to, m, &out);
    }

    #[inline(always)]
    pub(super) fn multiply_wide(&mut self, m: u32, signed: bool, to: Row, a: Row, b: Row) {
        let (a, b, mut out) = (self.row(a), self.row(b), [0; 32]);
        for lane in 0..32 {
            out[lane] = if signed {
                (i64::from(a[lane] as i32) * i64::from(b[lane] as i32)) as u64
            } else {
                u64::from(a[lane]) * u64::from(b[lane])
            };
        }
        self.put_wide(to, m, &out);
    }

    #[inline(always)]
    pub(super) fn widen(&mut self, m: u32, signed: bool, to: Row, a: Row) {
        let (a, mut out) = (self.row(a), [0; 32]);
        for lane in 0..32 {
            out[lane] = if signed { a[lane] as i32 as u64 } else { u64::from(a[lane]) };
        }
        self.put_wide(to, m, &out);
    }

    #[inline(always)]
    pub(super) fn narrow(&mut self, m: u32, to: Row, a: Row) {
        let out = self.wide(a).map(|a| a as u32);
        self.put(to, m, &out);
    }

    #[inline(always)]
    pub(super) fn tern32(&mut self, m: u32, op: Tern32, to: Row, sources: [Row; 3]) {
        let funnel = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        match op {
            Tern32::FmaF => self.zip3(m, to, sources, |a, b, c| f(a).mul_add(f(b), f(c)).to_bits()),
            Tern32::Mad => self.zip3(m, to, sources, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            Tern32::Lop3(table) => self.zip3(m, to, sources, |a, b, c| lop3(table, a, b, c)),
            Tern32::BfeU => {
                self.zip3(m, to, sources, |a, start, len| bit_field(u64::from(a), start, len, false) as u32);
            }
            Tern32::BfeS => {
                self.zip3(m, to, sources, |a, start, len| bit_field(a as i32 as u64, start, len, true) as u32);
            }
            Tern32::Prmt => self.zip3(m, to, sources, permute),
            Tern32::ShfLeftWrap => self.zip3(m, to, sources, |a, b, c| ((funnel(a, b) << (c & 31)) >> 32) as u32),
            Tern32::ShfLeftClamp => self.zip3(m, to, sources, |a, b, c| ((funnel(a, b) << c.min(32)) >> 32) as u32),
            Tern32::ShfRightWrap => self.zip3(m, to, sources, |a, b, c| (funnel(a, b) >> (c & 31)) as u32),
            Tern32::ShfRightClamp => self.zip3(m, to, sources, |a, b, c| (funnel(a, b) >> c.min(32)) as u32),
            Tern32::FmaHalf(ty) => {
                self.zip3(m, to, sources, |a, b, c| halves(ty, [a, b, c], |[a, b, c]| a * b + c));
            }
        }
    }

    #[inline(always)]
    pub(super) fn tern64(&mut self, m: u32, op: Tern64, to: Row, [a, b, c]: [Row; 3]) {
        let (a, b, c, mut out) = (self.wide(a), self.wide(b), self.wide(c), [0; 32]);
        for lane in 0..32 {
            let (a, b, c) = (a[lane], b[lane], c[lane]);
            out[lane] = match op {
                Tern64::FmaF => d(a).mul_add(d(b), d(c)).to_bits(),
                Tern64::Mad => a.wrapping_mul(b).wrapping_add(c),
            };
        }
        self.put_wide(to, m, &out);
    }

    pub(super) fn bit_field_insert(&mut self, m: u32, to: Row, [a, b, start, len]: [Row; 4], wide: bool) {
        let (start, len) = (*self.row(start), *self.row(len));
        let mask = |lane: usize, bits: u32| {
            let len = (len[lane] & 0xff).min(bits);
            let ones = 1u64.checked_shl(len).map_or(u64::MAX, |power| power - 1);
            ones.checked_shl(start[lane] & 0xff).unwrap_or(0)
        };
        let insert =
            |lane: usize, a: u64, b: u64, mask: u64| a.checked_shl(start[lane] & 0xff).unwrap_or(0) & mask | b & !mask;
        if wide {
            let (a, b) = (self.wide(a), self.wide(b));
            let out = std::array::from_fn(|lane| insert(lane, a[lane], b[lane], mask(lane, 64)));
            self.put_wide(to, m, &out);
        } else {
            let (a, b) = (self.row(a), self.row(b));
            let out = std::array::from_fn(|lane| insert(lane, a[lane].into(), b[lane].into(), mask(lane, 32)) as u32);
            self.put(to, m, &out);
        }
    }

    pub(super) fn bit_field_extract64(&mut self, m: u32, signed: bool, to: Row, [a, start, len]: [Row; 3]) {
        let (a, start, len) = (self.wide(a), self.row(start), self.row(len));
        let out = std::array::from_fn(|lane| bit_field(a[lane], start[lane], len[lane], signed));
        self.put_wide(to, m, &out);
    }

    #[inline(always)]
    pub(super) fn compare(&self, cmp: Cmp, of: Operands, a: Row, b: Row) -> u32 {
        match of {
            Operands::U32 => compare(cmp, self.row(a), self.row(b), |bits| bits),
            Operands::S32 => compare(cmp, self.row(a), self.row(b), |bits| bits as i32),
            Operands::F32 => compare(cmp, self.row(a), self.row(b), f),
            Operands::U64 => compare(cmp, self.wide(a), self.wide(b), |bits| bits),
            Operands::S64 => compare(cmp, self.wide(a), self.wide(b), |bits| bits as i64),
            Operands::F64 => compare(cmp, self.wide(a), self.wide(b), d),
        }
    }

    #[inline(always)]
    pub(super) fn select(&mut self, m: u32, holds: u32, to: Row, a: Row, b: Row) {
        let (a, b, mut out) = (self.row(a), self.row(b), [0; 32]);
        for lane in 0..32 {
            out[lane] = if holds >> lane & 1 == 1 { a[lane] } else { b[lane] };
        }
        self.put(to, m, &out);
    }

    #[inline(always)]
    pub(super) fn select_wide(&mut self, m: u32, holds: u32, to: Row, a: Row, b: Row) {
        let (a, b, mut out) = (self.wide(a), self.wide(b), [0; 32]);
        for lane in 0..32 {
            out[lane] = if holds >> lane & 1 == 1 { a[lane] } else { b[lane] };
        }
        self.put_wide(to, m, &out);
    }

    pub(super) fn pack(&mut self, m: u32, bits: u32, parts: &[Row], to: Row, wide: bool) {
        let mut out = [0u64; 32];
        for (nth, part) in parts.iter().enumerate() {
            let part = self.row(*part);
            for lane in 0..32 {
                let value = u64::from(part[lane]) & ((1 << bits) - 1);
                out[lane] |= value << (nth as u32 * bits);
            }
        }
        if wide {
            self.put_wide(to, m, &out);
        } else {
            self.put(to, m, &out.map(|bits| bits as u32));
        }
    }

    pub(super) fn unpack(&mut self, m: u32, bits: u32, parts: &[Option<Row>], a: Row, wide: bool) {
        let source = if wide { *self.wide(a) } else { self.row(a).map(u64::from) };
        for (nth, part) in parts.iter().enumerate() {
            if let Some(part) = part {
                let out = source.map(|value| (value >> (nth as u32 * bits) & ((1 << bits) - 1)) as u32);
                self.put(*part, m, &out);
            }
        }
    }
}
