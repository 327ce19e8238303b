//! `step_inputs.h`: what changes from step to step, as kernels read it.

use crate::kernels::prefill_attention::ITEM_ROWS;
use crate::memory::{Arena, Upload};
use backend::{BackendError, Batch};
use bytemuck::{Pod, Zeroable};
use step::BLOCK_TOKENS;

/// Counts of what is in use.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct StepInputs {
    pub(crate) rows: u32,
    pub(crate) sequences: u32,
    pub(crate) prefill_items: u32,
    pub(crate) samples: u32,
    pub(crate) reserved: [u32; 12],
}

/// One token that runs.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct StepRow {
    slot: u32,
    position: u32,
    sequence: u32,
    prefill: u32,
}

/// Adjacent rows of one sequence.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct StepSequence {
    first_row: u32,
    rows: u32,
    start: u32,
    slot: u32,
}

/// Work for the prefill kernel.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PrefillItem {
    sequence: u32,
    index: u32,
}

const _: () = assert!(size_of::<StepInputs>() == 64 && size_of::<StepRow>() == 16);
const _: () = assert!(size_of::<StepSequence>() == 16 && size_of::<PrefillItem>() == 8);

/// From so many rows of a sequence on, the prefill kernel attends for it.
const PREFILL_ROWS_MIN: usize = 8;
/// Every part begins at a multiple of this.
const ALIGN: usize = 64;

/// Where the device finds a step's inputs, and how many of each there are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StepAt {
    pub(crate) inputs: u64,
    pub(crate) step_rows: u64,
    pub(crate) sequences: u64,
    pub(crate) tables: u64,
    pub(crate) items: u64,
    /// Rows that find their tokens in `tokens`, by their number.
    pub(crate) token_rows: u64,
    pub(crate) tokens: u64,
    pub(crate) table_stride: usize,
    pub(crate) rows: usize,
    pub(crate) prefill_items: usize,
    /// One more than the largest position.
    pub(crate) positions: usize,
    /// Whether every sequence has one row.
    pub(crate) single_rows: bool,
    /// Whether there are rows for which the decode kernel attends.
    pub(crate) decodes: bool,
    /// The largest block of any table.
    pub(crate) block_max: u32,
}

/// The step at hand.
pub(crate) struct Step {
    batch: Batch,
    at: Option<StepAt>,
    upload: Upload,
    /// One kernel attends for all rows, so that chunks of a prompt change no bit.
    deterministic: bool,
}

impl Step {
    pub(crate) fn new(upload: Upload, deterministic: bool) -> Self {
        Self { batch: Batch::default(), at: None, upload, deterministic }
    }

    /// Makes room for any step of `rows` rows of sequences of up to `positions` positions.
    pub(crate) fn reserve(&mut self, arena: &Arena, rows: usize, positions: usize) -> Result<(), BackendError> {
        let tables = rows * positions.div_ceil(BLOCK_TOKENS);
        let lengths = [size_of::<StepInputs>(), rows * 16, rows * 16, tables * 4, rows * 8, rows * 16, rows * 4];
        self.upload.reserve(arena, offsets(lengths).1)
    }

    /// The inputs of `batch` on the device; they are sent if they are not those that are there.
    pub(crate) fn set(&mut self, arena: &Arena, batch: &Batch) -> Result<StepAt, BackendError> {
        if let Some(at) = self.at.as_ref().filter(|_| self.batch == *batch) {
            return Ok(*at);
        }
        self.at = None;
        let at = self.send(arena, batch)?;
        self.batch.clone_from(batch);
        self.at = Some(at);
        Ok(at)
    }

    fn prefills(&self, rows: usize) -> bool {
        !self.deterministic && rows >= PREFILL_ROWS_MIN
    }

    fn send(&mut self, arena: &Arena, batch: &Batch) -> Result<StepAt, BackendError> {
        let rows = batch.rows();
        let table_stride = batch.seqs.iter().map(|seq| seq.table.len()).max().unwrap_or(0).max(1);
        let items = self.items(batch);
        let inputs = StepInputs {
            rows: rows as u32,
            sequences: batch.seqs.len() as u32,
            prefill_items: items.len() as u32,
            ..StepInputs::default()
        };
        let step_rows = self.rows(batch);
        let sequences: Vec<StepSequence> = batch.seqs.iter().map(sequence).collect();
        let token_row = |row| StepRow { slot: 0, position: row as u32, sequence: 0, prefill: 0 };
        let token_rows: Vec<StepRow> = (0..rows).map(token_row).collect();
        let tables = padded_tables(batch, table_stride);
        let parts: [&[u8]; 7] = [
            bytemuck::bytes_of(&inputs),
            bytemuck::cast_slice(&step_rows),
            bytemuck::cast_slice(&sequences),
            bytemuck::cast_slice(&tables),
            bytemuck::cast_slice(&items),
            bytemuck::cast_slice(&token_rows),
            bytemuck::cast_slice(&batch.tokens),
        ];
        let (offsets, bytes) = offsets(parts.map(<[u8]>::len));
        let at = self.upload.send(arena, bytes, |to| {
            offsets.iter().zip(parts).for_each(|(&offset, part)| to[offset..][..part.len()].copy_from_slice(part));
        })?;
        let [inputs, step_rows_at, sequences, tables, items_at, token_rows, tokens] = offsets.map(|o| at + o as u64);
        Ok(StepAt {
            inputs,
            step_rows: step_rows_at,
            sequences,
            tables,
            items: items_at,
            token_rows,
            tokens,
            table_stride,
            rows,
            prefill_items: items.len(),
            positions: batch.seqs.iter().map(|seq| seq.start + seq.rows.len()).max().unwrap_or(0),
            single_rows: batch.seqs.iter().all(|seq| seq.rows.len() == 1),
            decodes: step_rows.iter().any(|row| row.prefill == 0),
            block_max: batch.blocks.iter().copied().max().unwrap_or(0),
        })
    }

    fn rows(&self, batch: &Batch) -> Vec<StepRow> {
        let rows = batch.seqs.iter().enumerate().flat_map(|(index, seq)| {
            let prefill = u32::from(self.prefills(seq.rows.len()));
            let row = move |position| StepRow { slot: 0, position, sequence: index as u32, prefill };
            (seq.start..seq.start + seq.rows.len()).map(move |position| row(position as u32))
        });
        rows.collect()
    }

    /// The last of a sequence first: they take the longest.
    fn items(&self, batch: &Batch) -> Vec<PrefillItem> {
        let prefilling = batch.seqs.iter().enumerate().filter(|(_, seq)| self.prefills(seq.rows.len()));
        let items = prefilling.flat_map(|(index, seq)| {
            let item = move |item| PrefillItem { sequence: index as u32, index: item as u32 };
            (0..seq.rows.len().div_ceil(ITEM_ROWS)).rev().map(item)
        });
        items.collect()
    }
}

fn sequence(seq: &backend::BatchSeq) -> StepSequence {
    let (first_row, rows) = (seq.rows.start as u32, seq.rows.len() as u32);
    StepSequence { first_row, rows, start: seq.start as u32, slot: 0 }
}

/// Each sequence's block table in a row of its own.
fn padded_tables(batch: &Batch, stride: usize) -> Vec<u32> {
    let mut tables = vec![0; batch.seqs.len() * stride];
    for (to, seq) in tables.chunks_exact_mut(stride).zip(&batch.seqs) {
        let table = batch.table(seq);
        assert!(table.len() * BLOCK_TOKENS >= seq.start + seq.rows.len(), "blocks for {seq:?}");
        to[..table.len()].copy_from_slice(table);
    }
    tables
}

/// Where parts of these lengths begin, one behind the other, and the length of all.
pub(crate) fn offsets<const N: usize>(lengths: [usize; N]) -> ([usize; N], usize) {
    let mut end = 0;
    let offsets = lengths.map(|length| {
        let begin = end;
        end = (begin + length).next_multiple_of(ALIGN);
        begin
    });
    (offsets, end)
}
