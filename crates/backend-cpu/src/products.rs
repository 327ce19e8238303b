//! Products of an executor, and how they are shared out: with weights in rows, or in tiles for the matrix unit.

mod rows;
mod tiles;

use crate::executor::Executor;
use crate::memory::{RowMajor, Weight};
use crate::{CpuMatrix, CpuTensor, Isa};
use backend::{BackendError, MappedWeight, ReadWeights, Tensor};

pub use tiles::{Source, Sum};

/// Weights that a task reads, at least.
const TASK_WEIGHTS: usize = 32_768;

/// A factor of a product: `W` and `b`.
#[derive(Clone, Copy)]
pub struct Factor<'a> {
    /// `W`.
    pub weight: &'a CpuMatrix,
    /// `b`.
    pub bias: Option<&'a [f32]>,
}

impl Executor {
    /// Reads a weight, in the form that the instruction set wants.
    pub fn matrix(&mut self, rows: usize, columns: usize, read: &ReadWeights<'_>) -> Result<CpuMatrix, BackendError> {
        let weight = match self.isa {
            Isa::Amx => Weight::Tiles(self.read_tiles(rows, columns, read)?),
            Isa::Plain | Isa::Avx2 | Isa::Avx512 => {
                Weight::Rows(RowMajor::own(self.read_rows(rows * columns, read)?, columns))
            }
        };
        Ok(CpuMatrix { weight, rows, columns })
    }

    /// A weight that stays where its file is mapped, for instruction sets that want no other form.
    pub fn mapped_matrix(&mut self, weight: &MappedWeight) -> Result<CpuMatrix, BackendError> {
        self.fetch_rows(weight)?;
        let (rows, columns) = (weight.rows(), weight.columns.len());
        Ok(CpuMatrix { weight: Weight::Rows(RowMajor::mapped(weight)), rows, columns })
    }

    /// `y = x·Wᵀ + b`, or `y += x·Wᵀ + b`.
    pub fn product(&mut self, x: &CpuTensor, factor: Factor<'_>, y: &mut CpuTensor, add: bool) {
        let weight = factor.weight;
        assert_eq!((x.rows(), x.columns()), (y.rows(), weight.columns), "the input's shape");
        match &weight.weight {
            Weight::Rows(rows) => self.product_of_rows(x, rows.rows(weight.columns), factor, y, add),
            Weight::Tiles(_) => {
                let source = self.source(0, x);
                self.sums(&mut [Sum { terms: vec![(source, factor)], gelu: false, y }], add);
            }
        }
    }

    /// Room to pack a tensor of this shape as the input of a product.
    pub fn make_room(&mut self, rows_max: usize, columns: usize) -> Result<(), BackendError> {
        match self.isa {
            Isa::Amx => self.make_room_for_tiles(rows_max, columns),
            Isa::Plain | Isa::Avx2 | Isa::Avx512 => self.make_room_for_panels(rows_max, columns),
        }
    }
}

/// How many outputs a task computes where each costs so many weights.
fn outputs_of_task(threads: usize, outputs: usize, weights: usize, tasks_per_thread: usize) -> usize {
    match threads {
        1 => outputs.max(1),
        _ => outputs.div_ceil(threads * tasks_per_thread).max(TASK_WEIGHTS.div_ceil(weights.max(1))),
    }
}
