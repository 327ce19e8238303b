//! The register file of a warp.

use crate::ptx::program::{Guard, Pred, Program, Row, Special};

/// One row: 32 bits for each lane.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Lanes(pub [u32; 32]);

/// Registers and predicates of a warp.
pub struct Registers {
    rows: Vec<Lanes>,
    preds: Vec<u32>,
}

/// What registers hold before they are written: neither zero nor a likely number.
const UNWRITTEN: u32 = 0xdead_beef;

impl Registers {
    pub fn new(program: &Program) -> Self {
        let mut registers =
            Self { rows: vec![Lanes([UNWRITTEN; 32]); program.rows + 1], preds: vec![0; program.preds] };
        for constant in &program.constants {
            if constant.wide {
                *registers.wide_mut(constant.row) = [constant.bits; 32];
            } else {
                *registers.row_mut(constant.row) = [constant.bits as u32; 32];
            }
        }
        registers
    }

    /// Sets the special registers, from what each is in a lane.
    pub fn set_specials(&mut self, program: &Program, value: impl Fn(Special, usize) -> u32) {
        for (row, special) in &program.specials {
            *self.row_mut(*row) = std::array::from_fn(|lane| value(*special, lane));
        }
    }

    #[inline(always)]
    pub fn row(&self, row: Row) -> &[u32; 32] {
        &self.rows[row as usize].0
    }

    #[inline(always)]
    pub fn row_mut(&mut self, row: Row) -> &mut [u32; 32] {
        &mut self.rows[row as usize].0
    }

    #[inline(always)]
    pub fn wide(&self, row: Row) -> &[u64; 32] {
        let pair = &self.rows[row as usize..][..2];
        // SAFETY: two rows in sequence are 256 bytes, aligned to 64, of which any are a valid u64; the reference keeps
        // the borrow of `self`.
        unsafe { &*pair.as_ptr().cast() }
    }

    #[inline(always)]
    pub fn wide_mut(&mut self, row: Row) -> &mut [u64; 32] {
        let pair = &mut self.rows[row as usize..][..2];
        // SAFETY: two rows in sequence are 256 bytes, aligned to 64, of which any are a valid u64; the reference keeps
        // the exclusive borrow of `self`.
        unsafe { &mut *pair.as_mut_ptr().cast() }
    }

    /// Writes the lanes of `mask`.
    #[inline(always)]
    pub fn put(&mut self, row: Row, mask: u32, values: &[u32; 32]) {
        let to = self.row_mut(row);
        if mask == u32::MAX {
            *to = *values;
            return;
        }
        for lane in 0..32 {
            to[lane] = if mask >> lane & 1 == 1 { values[lane] } else { to[lane] };
        }
    }

    /// Writes the lanes of `mask`.
    #[inline(always)]
    pub fn put_wide(&mut self, row: Row, mask: u32, values: &[u64; 32]) {
        let to = self.wide_mut(row);
        if mask == u32::MAX {
            *to = *values;
            return;
        }
        for lane in 0..32 {
            to[lane] = if mask >> lane & 1 == 1 { values[lane] } else { to[lane] };
        }
    }

    /// The lanes in which a predicate holds.
    #[inline(always)]
    pub fn pred(&self, guard: Guard) -> u32 {
        let lanes = self.preds[guard.pred as usize];
        if guard.negated { !lanes } else { lanes }
    }

    /// Writes a predicate's lanes of `mask`.
    #[inline(always)]
    pub fn put_pred(&mut self, pred: Pred, mask: u32, lanes: u32) {
        let to = &mut self.preds[pred as usize];
        *to = *to & !mask | lanes & mask;
    }
}
