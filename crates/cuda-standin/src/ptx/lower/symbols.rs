//! Names, and operands as rows.

use super::{Lower, Lowered};
use crate::ptx::program::{Constant, Guard, Op, Pred, Row, Special, Un32};
use crate::ptx::syntax::{Instruction, Operand};
use crate::ptx::types::Ty;
use std::collections::HashMap;

/// Where the inlined body of a function ends. No PTX label looks like that.
pub(super) const RETURN_LABEL: &str = "the end of the function";

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Symbol {
    Register {
        row: Row,
        ty: Ty,
    },
    Predicate(Pred),
    /// Byte offset in shared memory.
    Shared(usize),
    /// Byte offset in a thread's local memory.
    Local(usize),
    /// Byte offset in the kernel's parameters.
    Param(usize),
    /// Address in global memory.
    Global(u64),
}

/// The names of one pair of braces.
pub(super) struct Scope {
    pub(super) id: usize,
    /// Whether it is the body of an inlined function: names outside of it are not seen.
    pub(super) is_call: bool,
    names: HashMap<String, Symbol>,
}

impl Scope {
    pub(super) fn bind(&mut self, name: &str, symbol: Symbol) {
        self.names.insert(name.to_owned(), symbol);
    }
}

impl Lower<'_> {
    pub(super) fn open_scope(&mut self) {
        self.scopes.push(Scope { id: self.scopes_made, is_call: false, names: HashMap::new() });
        self.scopes_made += 1;
    }

    pub(super) fn close_scope(&mut self) {
        self.scopes.pop();
    }

    pub(super) fn bind(&mut self, name: &str, symbol: Symbol) {
        self.scopes.last_mut().expect("a body has a scope").bind(name, symbol);
    }

    pub(super) fn declare_register(&mut self, name: &str, ty: Ty) {
        let symbol = if ty == Ty::Pred {
            self.program.preds += 1;
            Symbol::Predicate(self.program.preds as Pred - 1)
        } else {
            Symbol::Register { row: self.new_row(ty.is_wide()), ty }
        };
        self.bind(name, symbol);
    }

    pub(super) fn new_row(&mut self, wide: bool) -> Row {
        let row = self.program.rows;
        self.program.rows += if wide { 2 } else { 1 };
        row as Row
    }

    fn lookup(&self, name: &str) -> Option<Symbol> {
        for scope in self.scopes.iter().rev() {
            if let Some(symbol) = scope.names.get(name) {
                return Some(*symbol);
            }
            if scope.is_call {
                break;
            }
        }
        let outermost = self.scopes[0].names.get(name).copied();
        outermost.or_else(|| self.globals.get(name).map(|address| Symbol::Global(*address)))
    }

    pub(super) fn symbol_of(&self, operand: &Operand) -> Lowered<Symbol> {
        match operand {
            Operand::Name(name) => self.lookup(name).ok_or_else(|| format!("`{name}` is not declared")),
            other => Err(format!("a name is expected, not {other:?}")),
        }
    }

    pub(super) fn constant(&mut self, bits: u64, wide: bool) -> Row {
        let bits = if wide { bits } else { bits & 0xffff_ffff };
        if let Some(row) = self.constants.get(&(bits, wide)) {
            return *row;
        }
        let row = self.new_row(wide);
        self.constants.insert((bits, wide), row);
        self.program.constants.push(Constant { row, bits, wide });
        row
    }

    fn special(&mut self, special: Special) -> Row {
        if let Some((row, _)) = self.program.specials.iter().find(|(_, known)| *known == special) {
            return *row;
        }
        let row = self.new_row(false);
        self.program.specials.push((row, special));
        row
    }

    /// An operand of 32 bits, or of 64.
    pub(super) fn source(&mut self, operand: &Operand, wide: bool) -> Lowered<Row> {
        match operand {
            Operand::Int(bits) => Ok(self.constant(*bits, wide)),
            Operand::F32(bits) if !wide => Ok(self.constant(u64::from(*bits), false)),
            Operand::F64(bits) if wide => Ok(self.constant(*bits, true)),
            Operand::F64(bits) => Ok(self.constant(u64::from((f64::from_bits(*bits) as f32).to_bits()), false)),
            Operand::Name(name) if name.starts_with('%') && special_of(name).is_some() => {
                let row = self.special(special_of(name).expect("the guard has looked"));
                Ok(if wide { self.widened(row) } else { row })
            }
            _ => match self.symbol_of(operand)? {
                Symbol::Register { row, ty } if ty.is_wide() == wide => Ok(row),
                Symbol::Register { row, .. } if wide => Ok(self.widened(row)),
                Symbol::Register { row, .. } => {
                    let d = self.new_row(false);
                    self.emit(Op::Narrow { d, a: row });
                    Ok(d)
                }
                Symbol::Shared(offset) | Symbol::Local(offset) | Symbol::Param(offset) => {
                    Ok(self.constant(offset as u64, wide))
                }
                Symbol::Global(address) => Ok(self.constant(address, wide)),
                Symbol::Predicate(_) => Err("a predicate as a value".to_owned()),
            },
        }
    }

    fn widened(&mut self, row: Row) -> Row {
        let d = self.new_row(true);
        self.emit(Op::Widen { signed: false, d, a: row });
        d
    }

    /// An operand as `ty` reads it: narrow ones are extended to 32 bits by their sign.
    pub(super) fn typed(&mut self, operand: &Operand, ty: Ty) -> Lowered<Row> {
        if let (Operand::Int(bits), true) = (operand, ty.bytes() < 4) {
            let bits = match ty {
                Ty::S8 => *bits as i8 as u64,
                Ty::S16 => *bits as i16 as u64,
                _ => *bits & ((1 << (8 * ty.bytes())) - 1),
            };
            return Ok(self.constant(bits, false));
        }
        let row = self.source(operand, ty.is_wide())?;
        let is_narrow = matches!(self.symbol_of(operand), Ok(Symbol::Register { ty, .. }) if ty.bytes() == 2);
        Ok(match ty {
            Ty::S8 => self.temporary(Un32::Sext8, row),
            Ty::S16 => self.temporary(Un32::Sext16, row),
            Ty::U8 => self.temporary(Un32::Zext8, row),
            _ if ty.bytes() == 2 && !is_narrow => self.temporary(Un32::Zext16, row),
            _ => row,
        })
    }

    pub(super) fn temporary(&mut self, f: Un32, a: Row) -> Row {
        let d = self.new_row(false);
        self.emit(Op::Un32 { f, d, a });
        d
    }

    /// A register that is written with 32 bits, or with 64. `_` takes a row that nobody reads.
    pub(super) fn destination(&mut self, operand: &Operand, wide: bool) -> Lowered<Row> {
        if matches!(operand, Operand::Name(name) if name == "_") {
            return Ok(self.new_row(wide));
        }
        match self.symbol_of(operand)? {
            Symbol::Register { row, ty } if ty.is_wide() == wide => Ok(row),
            Symbol::Register { .. } => Err("the destination has another width".to_owned()),
            _ => Err("the destination is no register".to_owned()),
        }
    }

    /// The row and type of a register.
    pub(super) fn register(&self, operand: &Operand) -> Lowered<(Row, Ty)> {
        match self.symbol_of(operand)? {
            Symbol::Register { row, ty } => Ok((row, ty)),
            _ => Err("a register is expected".to_owned()),
        }
    }

    pub(super) fn predicate(&self, name: &str) -> Lowered<Pred> {
        match self.lookup(name) {
            Some(Symbol::Predicate(pred)) => Ok(pred),
            _ => Err(format!("`{name}` is no predicate")),
        }
    }

    /// A predicate that is written; none for `_`.
    pub(super) fn predicate_destination(&self, name: &str) -> Lowered<Option<Pred>> {
        if name == "_" { Ok(None) } else { self.predicate(name).map(Some) }
    }

    /// A predicate that is read.
    pub(super) fn guard(&self, operand: &Operand) -> Lowered<Guard> {
        match operand {
            Operand::Name(name) => Ok(Guard { pred: self.predicate(name)?, negated: false }),
            Operand::Not(name) => Ok(Guard { pred: self.predicate(name)?, negated: true }),
            _ => Err("a predicate is expected".to_owned()),
        }
    }

    pub(super) fn guard_of(&self, it: &Instruction) -> Lowered<Option<Guard>> {
        it.guard
            .as_ref()
            .map(|(name, negated)| Ok(Guard { pred: self.predicate(name)?, negated: *negated }))
            .transpose()
    }
}

fn special_of(name: &str) -> Option<Special> {
    let (register, axis) = match name.rsplit_once('.') {
        Some((register, "x")) => (register, 0),
        Some((register, "y")) => (register, 1),
        Some((register, "z")) => (register, 2),
        Some(_) => return None,
        None => (name, 0),
    };
    Some(match register {
        "%tid" => Special::Tid(axis),
        "%ntid" => Special::Ntid(axis),
        "%ctaid" => Special::Ctaid(axis),
        "%nctaid" => Special::Nctaid(axis),
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NwarpId,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NsmId,
        "%lanemask_eq" => Special::LaneMaskEq,
        "%lanemask_lt" => Special::LaneMaskLt,
        "%lanemask_le" => Special::LaneMaskLe,
        "%lanemask_gt" => Special::LaneMaskGt,
        "%lanemask_ge" => Special::LaneMaskGe,
        "%dynamic_smem_size" => Special::DynamicSharedBytes,
        _ => return None,
    })
}
