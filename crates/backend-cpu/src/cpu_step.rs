//! A step, prepared: how its rows are cut for attention.

use crate::kernels::attention::RowTile;
use backend::StepInput;
use step::BLOCK_TOKENS;

/// A step on a CPU.
pub struct CpuStep<'a> {
    pub(crate) input: StepInput<'a>,
    /// Each sequence's rows, cut where their positions enter a new block.
    pub(crate) row_tiles: Vec<RowTile>,
    /// Where the row tiles begin and end.
    pub(crate) row_cuts: Vec<usize>,
    /// One more than the largest position.
    pub(crate) positions: usize,
}

impl<'a> CpuStep<'a> {
    pub(crate) fn new(input: StepInput<'a>) -> Self {
        let (mut row_tiles, mut row_cuts) = (Vec::new(), vec![0]);
        for seq in &input.batch.seqs {
            let mut rows = seq.rows.clone();
            let mut position = seq.start;
            while !rows.is_empty() {
                let end = rows.end.min(rows.start + BLOCK_TOKENS - position % BLOCK_TOKENS);
                row_tiles.push(RowTile { rows: rows.start..end, position, table: seq.table.clone() });
                row_cuts.push(end);
                position += end - rows.start;
                rows.start = end;
            }
        }
        let positions = input.batch.seqs.iter().map(|seq| seq.start + seq.rows.len()).max().unwrap_or(0);
        Self { input, row_tiles, row_cuts, positions }
    }
}
