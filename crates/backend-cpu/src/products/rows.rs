//! Products with weights that are row-major, own or mapped.

use super::{Factor, outputs_of_task};
use crate::CpuTensor;
use crate::executor::{Executor, TASK_ELEMENTS};
use crate::kernels::linear::{Layout, LinearTile, PackTile, Rows, TASK_OUTPUTS};
use crate::kernels::memory::Buffer;
use crate::kernels::simd::dispatch;
use crate::kernels::tiles::Cuts;
use crate::memory::buffer;
use backend::{BackendError, MappedWeight, ReadWeights, Tensor};
use half::bf16;

/// Tasks of a product for each thread: enough for a late thread to be helped out.
const TASKS_PER_THREAD: usize = 8;
/// Weights that one call of the reader fills.
const READ_WEIGHTS: usize = 1 << 20;

impl Executor {
    pub(super) fn read_rows(&mut self, len: usize, read: &ReadWeights<'_>) -> Result<Buffer<bf16>, BackendError> {
        let mut values = buffer("a weight", len)?;
        self.pool.for_each_part(&mut values, READ_WEIGHTS, read);
        Ok(values)
    }

    /// Reads a mapped weight into memory.
    pub(super) fn fetch_rows(&mut self, weight: &MappedWeight) -> Result<(), BackendError> {
        let len = weight.rows() * weight.columns.len();
        let mut fetched: Vec<_> = (0..len.div_ceil(READ_WEIGHTS)).map(|_| Ok(())).collect();
        self.pool.for_each_part(&mut fetched, 1, |task, fetched| {
            let start = task.start * READ_WEIGHTS;
            fetched[0] = weight.tensor.fetch(start..len.min(start + READ_WEIGHTS));
        });
        fetched.into_iter().collect()
    }

    pub(super) fn product_of_rows(
        &mut self,
        x: &CpuTensor,
        rows: Rows<'_>,
        Factor { weight, bias }: Factor<'_>,
        y: &mut CpuTensor,
        add: bool,
    ) {
        assert_eq!(y.columns(), weight.rows, "the output's columns");
        let (isa, threads, columns) = (self.isa, self.pool.threads(), y.columns());
        let outputs = outputs_of_task(threads, weight.rows, weight.columns, TASKS_PER_THREAD);
        let (all, outputs) = (Cuts::Every(y.rows().max(1)), Cuts::Every(outputs.next_multiple_of(TASK_OUTPUTS)));
        let packed = self.pack_panels(x);
        let x = &self.panels[..packed];
        self.pool.for_each_tile(y.used_mut(), columns, all, outputs, &mut self.scratch, |scratch, tile| {
            dispatch(isa, LinearTile { weight: rows, bias, x, add, sums: &mut scratch.sums, y: tile });
        });
    }

    /// Packs the input of a product of rows, and says how many elements that takes.
    fn pack_panels(&mut self, x: &CpuTensor) -> usize {
        let (isa, columns) = (self.isa, x.columns());
        let Layout { panel_rows, group_columns } = self.layout;
        let row_len = self.layout.row_len(columns);
        let whole = x.rows() / panel_rows * panel_rows;
        let (panels, last_panel) = self.panels[..x.rows() * row_len].split_at_mut(whole * row_len);
        let (rows, last_rows) = x.used().split_at(whole * columns);
        for (panel_rows, x, panels) in [(panel_rows, rows, panels), (x.rows() - whole, last_rows, last_panel)] {
            let groups = Cuts::Every(TASK_ELEMENTS.next_multiple_of((panel_rows * group_columns).max(1)));
            self.pool.for_each_plain_tile(panels, panel_rows * row_len, Cuts::Every(1), groups, |panels| {
                dispatch(isa, PackTile { x, columns, panel_rows, panels });
            });
        }
        x.rows() * row_len
    }

    pub(super) fn make_room_for_panels(&mut self, rows_max: usize, columns: usize) -> Result<(), BackendError> {
        let len = rows_max * self.layout.row_len(columns);
        if self.panels.len() < len {
            self.panels = buffer("a packed tensor", len)?;
        }
        Ok(())
    }
}
