//! Loads, stores, atomics and asynchronous copies.

use super::arithmetic::half_of;
use super::symbols::Symbol;
use super::{Lower, Lowered, only_type, operands};
use crate::ptx::program::{Address, Atomic, CopyAsync, Elements, Extend, MemSpace, Op, Rmw, Row, Un64};
use crate::ptx::syntax::{Instruction, Operand};
use crate::ptx::types::Ty;

impl Lower<'_> {
    /// An address operand. A name of a variable decides the space where the instruction leaves it open.
    pub(super) fn address(&mut self, operand: &Operand, space: MemSpace) -> Lowered<Address> {
        let Operand::Address { base, offset } = operand else { return Err("an address is expected".to_owned()) };
        let constant = |this: &mut Self, space, bits: u64| Address {
            space,
            base: this.constant(bits, true),
            wide: true,
            offset: *offset,
        };
        Ok(match &**base {
            Operand::Int(bits) => constant(self, space, *bits),
            base => match self.symbol_of(base)? {
                Symbol::Register { row, ty } => Address { space, base: row, wide: ty.is_wide(), offset: *offset },
                Symbol::Shared(at) => constant(self, MemSpace::Shared, at as u64),
                Symbol::Local(at) => constant(self, MemSpace::Local, at as u64),
                Symbol::Param(at) => constant(self, MemSpace::Param, at as u64),
                Symbol::Global(at) => constant(self, MemSpace::Global, at),
                Symbol::Predicate(_) => return Err("a predicate as an address".to_owned()),
            },
        })
    }

    pub(super) fn load(&mut self, it: &Instruction) -> Lowered<()> {
        let ty = only_type(it)?;
        let [d, address, ..] = &it.operands[..] else { return Err("two operands are expected".to_owned()) };
        let address = self.address(address, space(it))?;
        let list = vector(d);
        let mut to = elements(it, ty, list.len())?;
        for (row, operand) in to.rows.iter_mut().zip(list) {
            if matches!(operand, Operand::Name(name) if name == "_") {
                *row = self.new_row(ty.is_wide());
                to.wide = ty.is_wide();
                continue;
            }
            let (register, written) = self.register(operand)?;
            *row = register;
            to.wide = written.is_wide();
            if ty.is_signed() && written.bytes() > ty.bytes() {
                to.extend = Extend::Sign { to: 8 * written.bytes() as u32 };
            }
        }
        if ty.is_wide() && !to.wide {
            return Err("the destination is narrower than what is loaded".to_owned());
        }
        self.emit(Op::Load { address, to });
        Ok(())
    }

    pub(super) fn store(&mut self, it: &Instruction) -> Lowered<()> {
        let ty = only_type(it)?;
        let [address, value, ..] = &it.operands[..] else { return Err("two operands are expected".to_owned()) };
        let address = self.address(address, space(it))?;
        let list = vector(value);
        let mut from = elements(it, ty, list.len())?;
        from.wide = ty.is_wide();
        for (row, operand) in from.rows.iter_mut().zip(list) {
            *row = self.source(operand, from.wide)?;
        }
        self.emit(Op::Store { address, from });
        Ok(())
    }

    pub(super) fn atomic(&mut self, it: &Instruction) -> Lowered<()> {
        let ty = only_type(it)?;
        let returns = it.words[0] == "atom";
        let mut list = it.operands.iter();
        let d = if returns { list.next() } else { None };
        let address = list.next().ok_or("an address is expected")?;
        let address = self.address(address, space(it))?;
        let wide = ty.is_wide();
        let b = self.source(list.next().ok_or("a value is expected")?, wide)?;
        let f = rmw(it, ty)?;
        let c = if f == Rmw::Cas { self.source(list.next().ok_or("a new value is expected")?, wide)? } else { b };
        let d = d.map(|d| self.destination(d, wide)).transpose()?;
        self.emit(Op::Atomic(Atomic { f, bytes: ty.bytes(), address, d, b, c }));
        Ok(())
    }

    pub(super) fn copy_async(&mut self, it: &Instruction) -> Lowered<()> {
        if it.words.get(1).is_none_or(|word| word != "async") || it.has("bulk") || it.has("mbarrier") {
            return Err(String::new());
        }
        if it.has("commit_group") {
            self.emit(Op::CopyCommit);
            return Ok(());
        }
        if it.has("wait_all") {
            // It also waits for copies that were never committed.
            self.emit(Op::CopyCommit);
            self.emit(Op::CopyWait { keep: 0 });
            return Ok(());
        }
        if it.has("wait_group") {
            let [Operand::Int(keep)] = &it.operands[..] else { return Err("a number is expected".to_owned()) };
            self.emit(Op::CopyWait { keep: *keep as usize });
            return Ok(());
        }
        let [shared, global, bytes, rest @ ..] = &it.operands[..] else { return Err("too few operands".to_owned()) };
        let &Operand::Int(bytes) = bytes else { return Err("a size that is no number".to_owned()) };
        if !matches!((bytes, it.has("cg")), (16, _) | (4 | 8, false)) {
            return Err("a size of 4, 8 or 16 bytes is expected, of 16 with .cg".to_owned());
        }
        let rest = if it.has("L2::cache_hint") { &rest[..rest.len().saturating_sub(1)] } else { rest };
        let shared = self.address(shared, MemSpace::Shared)?;
        let global = self.address(global, MemSpace::Global)?;
        let source_bytes = match rest {
            [] => None,
            [size] => Some(self.source(size, false)?),
            _ => return Err("too many operands".to_owned()),
        };
        self.emit(Op::CopyAsync(CopyAsync { shared, global, bytes: bytes as usize, source_bytes }));
        Ok(())
    }

    /// A cache policy is a number that nobody looks at.
    pub(super) fn policy(&mut self, it: &Instruction) -> Lowered<()> {
        let d = it.operands.first().ok_or("a destination is expected")?;
        let (d, a) = (self.destination(d, true)?, self.constant(0, true));
        self.emit(Op::Un64 { f: Un64::Mov, d, a });
        Ok(())
    }

    pub(super) fn load_matrix(&mut self, it: &Instruction) -> Lowered<()> {
        let [d, address] = operands(it)?;
        let list = vector(d);
        let count = ["x1", "x2", "x4"].iter().position(|count| it.has(count)).map(|log| 1 << log);
        if count != Some(list.len()) || !it.has("m8n8") || !it.has("b16") {
            return Err(String::new());
        }
        let mut rows: [Row; 4] = [0; 4];
        for (row, operand) in rows.iter_mut().zip(list) {
            *row = self.destination(operand, false)?;
        }
        let address = self.address(address, space(it))?;
        self.emit(Op::LdMatrix { address, d: rows, count: list.len(), transposed: it.has("trans") });
        Ok(())
    }
}

fn vector(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(list) => list,
        single => std::slice::from_ref(single),
    }
}

fn elements(it: &Instruction, ty: Ty, count: usize) -> Lowered<Elements> {
    let expected = if it.has("v2") {
        2
    } else if it.has("v4") {
        4
    } else {
        1
    };
    if count != expected || ty == Ty::Pred {
        return Err(format!("{expected} registers are expected, there are {count}"));
    }
    let strong = ["volatile", "relaxed", "acquire", "release", "mmio"].iter().any(|order| it.has(order));
    Ok(Elements { bytes: ty.bytes(), count, rows: [0; 4], wide: false, extend: Extend::Zero, strong })
}

pub(super) fn space(it: &Instruction) -> MemSpace {
    let is = |name: &str| it.words[1..].iter().any(|word| word.split("::").next() == Some(name));
    if is("global") || is("const") {
        MemSpace::Global
    } else if is("shared") {
        MemSpace::Shared
    } else if is("local") {
        MemSpace::Local
    } else if is("param") {
        MemSpace::Param
    } else {
        MemSpace::Generic
    }
}

fn rmw(it: &Instruction, ty: Ty) -> Lowered<Rmw> {
    let signed = ty.is_signed();
    let has = |name: &str| it.has(name);
    Ok(if has("add") {
        match (ty, half_of(ty)) {
            (Ty::F32, _) => Rmw::AddF32,
            (Ty::F64, _) => Rmw::AddF64,
            (Ty::F16x2 | Ty::Bf16x2, Some(half)) => Rmw::AddHalf2(half),
            (_, Some(half)) => Rmw::AddHalf(half),
            _ => Rmw::AddInt,
        }
    } else if ty.is_float() {
        return Err(String::new());
    } else if has("min") {
        if signed { Rmw::MinS } else { Rmw::MinU }
    } else if has("max") {
        if signed { Rmw::MaxS } else { Rmw::MaxU }
    } else if has("and") {
        Rmw::And
    } else if has("or") {
        Rmw::Or
    } else if has("xor") {
        Rmw::Xor
    } else if has("exch") {
        Rmw::Exch
    } else if has("cas") {
        Rmw::Cas
    } else if has("inc") {
        Rmw::Inc
    } else if has("dec") {
        Rmw::Dec
    } else {
        return Err(String::new());
    })
}
