//! Moves and conversions.

use super::{Lower, Lowered, only_type, operands};
use crate::exec::address::{LOCAL_WINDOW, SHARED_WINDOW};
use crate::ptx::program::{Bin32, Bin64, Guard, Logic, Op, Round, Row, Un32, Un64};
use crate::ptx::syntax::{Instruction, Operand};
use crate::ptx::types::Ty;

impl Lower<'_> {
    pub(super) fn mov(&mut self, it: &Instruction) -> Lowered<()> {
        let ty = only_type(it)?;
        let [d, a] = operands(it)?;
        match (d, a) {
            (_, Operand::Vector(parts)) => self.pack(ty, d, parts),
            (Operand::Vector(parts), _) => self.unpack(ty, parts, a),
            (_, Operand::Name(name)) if ty == Ty::Pred => {
                let (d, a) = (self.guard(d)?.pred, Guard { pred: self.predicate(name)?, negated: false });
                self.emit(Op::PredLogic { f: Logic::And, d, a, b: a });
                Ok(())
            }
            (_, Operand::Int(bits)) if ty == Ty::Pred => {
                let d = self.guard(d)?.pred;
                self.emit(Op::PredConst { d, value: *bits != 0 });
                Ok(())
            }
            (_, Operand::Name(name)) if is_clock(name) => {
                let wide = ty.is_wide();
                let d = self.destination(d, wide)?;
                self.emit(Op::Clock { d, wide });
                Ok(())
            }
            _ if ty.is_wide() => {
                let (a, d) = (self.source(a, true)?, self.destination(d, true)?);
                self.emit(Op::Un64 { f: Un64::Mov, d, a });
                Ok(())
            }
            _ => {
                let a = if ty.bytes() == 2 { self.typed(a, Ty::U16)? } else { self.source(a, false)? };
                let d = self.destination(d, false)?;
                self.emit(Op::Un32 { f: Un32::Mov, d, a });
                Ok(())
            }
        }
    }

    fn pack(&mut self, ty: Ty, d: &Operand, operands: &[Operand]) -> Lowered<()> {
        let (count, wide) = (operands.len(), ty.is_wide());
        let bits = bits_of_part(ty, count)?;
        let mut parts = [0; 4];
        for (part, operand) in parts.iter_mut().zip(operands) {
            *part = self.source(operand, false)?;
        }
        let d = self.destination(d, wide)?;
        self.emit(match (bits, wide) {
            (16, false) => Op::Bin32 { f: Bin32::Pack16, d, a: parts[0], b: parts[1] },
            _ => Op::Pack { bits, parts, count, d, wide },
        });
        Ok(())
    }

    fn unpack(&mut self, ty: Ty, operands: &[Operand], a: &Operand) -> Lowered<()> {
        let (count, wide) = (operands.len(), ty.is_wide());
        let bits = bits_of_part(ty, count)?;
        let mut parts = [None; 4];
        for (part, operand) in parts.iter_mut().zip(operands) {
            if *operand != Operand::Name("_".to_owned()) {
                *part = Some(self.destination(operand, false)?);
            }
        }
        let a = self.source(a, wide)?;
        self.emit(Op::Unpack { bits, parts, count, a, wide });
        Ok(())
    }

    pub(super) fn convert(&mut self, it: &Instruction) -> Lowered<()> {
        let types = it.types();
        let &[to, from] = &types[..] else { return Err("two types are expected".to_owned()) };
        if let [d, a, b] = &it.operands[..] {
            let f = match (to, from) {
                (Ty::Bf16x2, Ty::F32) => Bin32::Bf16x2OfF32,
                (Ty::F16x2, Ty::F32) => Bin32::F16x2OfF32,
                _ => return Err(String::new()),
            };
            if !it.has("rn") || it.has("relu") {
                return Err("a rounding other than to the nearest".to_owned());
            }
            let (a, b, d) = (self.source(a, false)?, self.source(b, false)?, self.destination(d, false)?);
            self.emit(Op::Bin32 { f, d, a, b });
            return Ok(());
        }
        if it.has("relu") {
            return Err(String::new());
        }
        let [d, a] = operands(it)?;
        if to.is_int() && from.is_int() && !it.has("sat") {
            return self.convert_int(to, from, d, a);
        }
        let (round, saturate) = (rounding(it), it.has("sat"));
        let a = self.typed(a, from)?;
        let (d, written) = self.register(d)?;
        let result = if written.is_wide() == to.is_wide() { d } else { self.new_row(to.is_wide()) };
        let simple = if saturate { None } else { simple_conversion(to, from, round) };
        self.emit(match simple {
            Some(f) => Op::Un32 { f, d: result, a },
            None => Op::Convert { from, to, round, saturate, d: result, a },
        });
        if to == Ty::F32 && from == Ty::F32 && it.has("ftz") {
            self.emit(Op::Un32 { f: Un32::FlushF, d: result, a: result });
        }
        self.fill(to, result, d, written);
        Ok(())
    }

    /// A narrow result in a register that is wider.
    fn fill(&mut self, ty: Ty, result: Row, d: Row, written: Ty) {
        if written.is_wide() && !ty.is_wide() {
            self.emit(Op::Widen { signed: ty.is_signed(), d, a: result });
        } else if result != d {
            self.emit(Op::Narrow { d, a: result });
        }
    }

    fn convert_int(&mut self, to: Ty, from: Ty, d: &Operand, a: &Operand) -> Lowered<()> {
        let (d, written) = self.register(d)?;
        let a = self.typed(a, from)?;
        if to.is_wide() {
            if !written.is_wide() {
                return Err("the destination has another width".to_owned());
            }
            self.emit(match from.is_wide() {
                true => Op::Un64 { f: Un64::Mov, d, a },
                false => Op::Widen { signed: from.is_signed(), d, a },
            });
            return Ok(());
        }
        let narrow = if from.is_wide() {
            let row = self.new_row(false);
            self.emit(Op::Narrow { d: row, a });
            row
        } else {
            a
        };
        let f = match to {
            Ty::U8 => Un32::Zext8,
            Ty::S8 => Un32::Sext8,
            Ty::S16 if written.bytes() > 2 => Un32::Sext16,
            Ty::U16 | Ty::S16 => Un32::Zext16,
            _ => Un32::Mov,
        };
        let result = if written.is_wide() { self.new_row(false) } else { d };
        self.emit(Op::Un32 { f, d: result, a: narrow });
        if written.is_wide() {
            self.emit(Op::Widen { signed: to.is_signed(), d, a: result });
        } else if written.bytes() == 2 && to == Ty::S8 {
            self.emit(Op::Un32 { f: Un32::Zext16, d, a: d });
        }
        Ok(())
    }

    /// `cvta`: generic addresses of shared and local memory lie in windows of their own; global ones are the same.
    pub(super) fn convert_address(&mut self, it: &Instruction) -> Lowered<()> {
        let wide = only_type(it)?.is_wide();
        let [d, a] = operands(it)?;
        let window = if it.has("shared") {
            SHARED_WINDOW
        } else if it.has("local") {
            LOCAL_WINDOW
        } else if it.has("param") {
            return Err("a generic address of a parameter".to_owned());
        } else {
            0
        };
        if !wide {
            return Err("an address of 32 bits".to_owned());
        }
        let (a, d, window) = (self.source(a, true)?, self.destination(d, true)?, self.constant(window, true));
        let f = if it.has("to") { Bin64::Sub } else { Bin64::Add };
        self.emit(Op::Bin64 { f, d, a, b: window });
        Ok(())
    }
}

fn is_clock(name: &str) -> bool {
    matches!(name, "%clock" | "%clock64" | "%globaltimer" | "%globaltimer_lo")
}

fn bits_of_part(ty: Ty, count: usize) -> Lowered<u32> {
    if !matches!(count, 2 | 4) {
        return Err("a vector of two or four is expected".to_owned());
    }
    Ok((ty.bytes() * 8 / count) as u32)
}

fn rounding(it: &Instruction) -> Option<Round> {
    [
        ("rn", Round::Nearest),
        ("rni", Round::Nearest),
        ("rz", Round::Zero),
        ("rzi", Round::Zero),
        ("rm", Round::Down),
        ("rmi", Round::Down),
        ("rp", Round::Up),
        ("rpi", Round::Up),
        ("rna", Round::Nearest),
    ]
    .iter()
    .find(|(suffix, _)| it.has(suffix))
    .map(|(_, round)| *round)
}

/// The conversions that kernels spend time in.
fn simple_conversion(to: Ty, from: Ty, round: Option<Round>) -> Option<Un32> {
    Some(match (to, from, round) {
        (Ty::F32, Ty::S32, Some(Round::Nearest)) => Un32::F32OfS32,
        (Ty::F32, Ty::U32, Some(Round::Nearest)) => Un32::F32OfU32,
        (Ty::F32, Ty::F16, _) => Un32::F32OfF16,
        (Ty::F32, Ty::Bf16, _) => Un32::F32OfBf16,
        (Ty::F16, Ty::F32, Some(Round::Nearest)) => Un32::F16OfF32,
        (Ty::Bf16, Ty::F32, Some(Round::Nearest)) => Un32::Bf16OfF32,
        (Ty::Bf16, Ty::F32, Some(Round::Zero)) => Un32::Bf16OfF32Zero,
        _ => return None,
    })
}
