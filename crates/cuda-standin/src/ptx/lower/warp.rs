//! Instructions of a whole warp, and barriers.

use super::arithmetic::half_of;
use super::{Lower, Lowered, only_type, operands};
use crate::ptx::program::{BarReduce, Guard, Mma, Op, Redux, Row, Shfl, ShflMode, VoteMode};
use crate::ptx::syntax::{Instruction, Operand};
use crate::ptx::types::Ty;

impl Lower<'_> {
    pub(super) fn mma(&mut self, it: &Instruction) -> Lowered<()> {
        let types = it.types();
        let k = match it.words.iter().find(|word| word.starts_with("m16n8k")).map(String::as_str) {
            Some("m16n8k16") => 16,
            Some("m16n8k8") => 8,
            _ => return Err("a shape other than m16n8k16 and m16n8k8".to_owned()),
        };
        let ty = match types[..] {
            [Ty::F32, a, b, Ty::F32] if a == b => half_of(a).ok_or("bf16 or f16 are expected")?,
            _ => return Err("an accumulator other than f32".to_owned()),
        };
        if !(it.has("row") && it.has("col")) {
            return Err("a layout other than row.col".to_owned());
        }
        let [d, a, b, c] = operands(it)?;
        let (a, b) = (self.fragment(a, k / 4, false)?, self.fragment(b, k / 8, false)?);
        let (c, d) = (self.fragment(c, 4, false)?, self.fragment(d, 4, true)?);
        self.emit(Op::Mma(Mma { ty, k, d, a, b: [b[0], b[1]], c }));
        Ok(())
    }

    fn fragment(&mut self, operand: &Operand, count: usize, written: bool) -> Lowered<[Row; 4]> {
        let Operand::Vector(list) = operand else { return Err("a vector is expected".to_owned()) };
        if list.len() != count {
            return Err(format!("{count} registers are expected, there are {}", list.len()));
        }
        let mut rows = [0; 4];
        for (row, operand) in rows.iter_mut().zip(list) {
            *row = if written { self.destination(operand, false)? } else { self.source(operand, false)? };
        }
        Ok(rows)
    }

    pub(super) fn across_lanes(&mut self, it: &Instruction) -> Lowered<()> {
        match it.words[0].as_str() {
            "shfl" => self.shuffle(it),
            "vote" => self.vote(it),
            "redux" => self.redux(it),
            "match" if it.has("any") && it.has("b32") => {
                let [d, a, members] = operands(it)?;
                let (a, members) = (self.source(a, false)?, self.source(members, false)?);
                let d = self.destination(d, false)?;
                self.emit(Op::MatchAny { d, a, members });
                Ok(())
            }
            "activemask" => {
                let [d] = operands(it)?;
                let d = self.destination(d, false)?;
                self.emit(Op::ActiveMask { d });
                Ok(())
            }
            _ => Err(String::new()),
        }
    }

    fn shuffle(&mut self, it: &Instruction) -> Lowered<()> {
        let [d, a, b, c, members] = operands(it)?;
        let mode = match it.words.get(2).map(String::as_str) {
            Some("up") => ShflMode::Up,
            Some("down") => ShflMode::Down,
            Some("bfly") => ShflMode::Bfly,
            Some("idx") => ShflMode::Idx,
            _ => return Err(String::new()),
        };
        let (d, in_range) = match d {
            Operand::Pair(d, p) => (&Operand::Name(d.clone()), self.predicate_destination(p)?),
            d => (d, None),
        };
        let (a, b) = (self.source(a, false)?, self.source(b, false)?);
        let (c, members) = (self.source(c, false)?, self.source(members, false)?);
        let d = self.destination(d, false)?;
        self.emit(Op::Shfl(Shfl { mode, d, in_range, a, b, c, members }));
        Ok(())
    }

    fn vote(&mut self, it: &Instruction) -> Lowered<()> {
        let [d, p, members] = operands(it)?;
        let (p, members) = (self.guard(p)?, self.source(members, false)?);
        if it.has("ballot") {
            let d = self.destination(d, false)?;
            self.emit(Op::Ballot { d, p, members });
            return Ok(());
        }
        let mode = if it.has("all") {
            VoteMode::All
        } else if it.has("any") {
            VoteMode::Any
        } else if it.has("uni") {
            VoteMode::Uni
        } else {
            return Err(String::new());
        };
        let d = self.guard(d)?.pred;
        self.emit(Op::Vote { mode, d, p, members });
        Ok(())
    }

    fn redux(&mut self, it: &Instruction) -> Lowered<()> {
        let ty = only_type(it)?;
        let [d, a, members] = operands(it)?;
        let f = match (it.words.get(2).map(String::as_str), ty.is_signed()) {
            (Some("add"), _) => Redux::Add,
            (Some("min"), false) => Redux::MinU,
            (Some("min"), true) => Redux::MinS,
            (Some("max"), false) => Redux::MaxU,
            (Some("max"), true) => Redux::MaxS,
            (Some("and"), _) => Redux::And,
            (Some("or"), _) => Redux::Or,
            (Some("xor"), _) => Redux::Xor,
            _ => return Err(String::new()),
        };
        let (a, members) = (self.source(a, false)?, self.source(members, false)?);
        let d = self.destination(d, false)?;
        self.emit(Op::Redux { f, d, a, members });
        Ok(())
    }

    pub(super) fn barrier(&mut self, it: &Instruction) -> Lowered<()> {
        let zero = Operand::Int(0);
        if it.has("warp") {
            let [members] = operands(it)?;
            let members = self.source(members, false)?;
            self.emit(Op::WarpSync { members });
        } else if it.has("red") {
            return self.barrier_with_reduction(it);
        } else if it.has("sync") {
            let id = self.source(it.operands.first().unwrap_or(&zero), false)?;
            let count = it.operands.get(1).map(|count| self.source(count, false)).transpose()?;
            self.emit(Op::BarSync { id, count });
        } else if it.has("arrive") {
            let [id, count] = operands(it)?;
            let (id, count) = (self.source(id, false)?, self.source(count, false)?);
            self.emit(Op::BarArrive { id, count });
        } else {
            return Err(String::new());
        }
        Ok(())
    }

    /// `bar.red.OP d, id{, count}, p`
    fn barrier_with_reduction(&mut self, it: &Instruction) -> Lowered<()> {
        let [d, id, p] = operands(it)?;
        let (id, p): (_, Guard) = (self.source(id, false)?, self.guard(p)?);
        let f = if it.has("popc") {
            BarReduce::Popc(self.destination(d, false)?)
        } else if it.has("and") {
            BarReduce::And(self.guard(d)?.pred)
        } else {
            BarReduce::Or(self.guard(d)?.pred)
        };
        self.emit(Op::BarReduce { f, id, p });
        Ok(())
    }
}
