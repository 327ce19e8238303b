//! `step_inputs.h`: what changes from step to step, as kernels read it.

use crate::kernels::prefill_attention::ITEM_ROWS;
use crate::kernels::product::RowCount;
use crate::kernels::sample::SampleRow;
use crate::memory::{Arena, Scratch, Staging};
use crate::token_buffer::TokenBuffer;
use backend::{BackendError, Batch, BatchSeq, StepInput};
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
pub(crate) struct StepRow {
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

/// One item of work for the prefill kernel.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PrefillItem {
    sequence: u32,
    index: u32,
}

const _: () = assert!(size_of::<StepInputs>() == 64 && size_of::<StepRow>() == 16);
const _: () = assert!(size_of::<StepSequence>() == 16 && size_of::<PrefillItem>() == 8);

/// The least number of rows of a sequence for which the prefill kernel attends.
const PREFILL_ROWS_MIN: usize = 8;
/// Every part begins at a multiple of this.
const ALIGN: usize = 64;

/// How many of each part a step's inputs can hold; the layout follows from that alone.
#[derive(Clone, Copy, Debug, Default)]
struct Capacity {
    /// Rows of the batch.
    rows: usize,
    sequences: usize,
    /// Rows whose tokens are sent with them.
    tokens: usize,
    items: usize,
    /// Rows whose logits are used.
    gather: usize,
    /// Those of them that are sampled from or scored by the inputs' own.
    samples: usize,
    /// They are sampled or scored so many at a time.
    chunks: usize,
    table_stride: usize,
}

/// The parts, in the order in which they lie.
const PARTS: usize = 9;

impl Capacity {
    /// Of each part, and of all.
    fn offsets(&self) -> ([usize; PARTS], usize) {
        offsets([
            (1 + self.chunks) * size_of::<StepInputs>(),
            self.rows * size_of::<StepRow>(),
            self.sequences * size_of::<StepSequence>(),
            self.items * size_of::<PrefillItem>(),
            self.tokens * size_of::<StepRow>(),
            self.tokens * size_of::<u32>(),
            self.gather * size_of::<u32>(),
            self.samples * size_of::<SampleRow>(),
            self.sequences * self.table_stride * size_of::<u32>(),
        ])
    }
}

/// Where the device finds a step's inputs, and how many of each there are, or may be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StepAt {
    pub(crate) inputs: u64,
    pub(crate) step_rows: u64,
    pub(crate) sequences: u64,
    pub(crate) tables: u64,
    pub(crate) items: u64,
    pub(crate) tokens: TokensAt,
    /// The rows whose logits are used, and how.
    pub(crate) gather: u64,
    pub(crate) samples: u64,
    pub(crate) table_stride: usize,
    pub(crate) rows: usize,
    pub(crate) prefill_items: usize,
    /// One more than the largest position.
    pub(crate) positions: usize,
    /// Whether every sequence has one row.
    pub(crate) single_rows: bool,
    /// The first row for which the decode kernel attends, and one more than the last.
    pub(crate) decode_rows: [usize; 2],
    /// The largest block of any table.
    pub(crate) block_max: u32,
}

/// Where rows find their tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TokensAt {
    /// `StepRow`s, whose slot and position count.
    pub(crate) rows: u64,
    /// (slots, stride) tokens.
    pub(crate) history: u64,
    pub(crate) stride: usize,
}

impl StepAt {
    /// How many rows there are, in a step that has room for as many as this one.
    pub(crate) fn row_count(&self) -> RowCount {
        RowCount { at: self.inputs, most: self.rows }
    }

    /// `StepInputs` of a chunk of the rows whose logits are used; only their number counts there.
    pub(crate) fn chunk(&self, chunk: usize) -> u64 {
        self.inputs + ((1 + chunk) * size_of::<StepInputs>()) as u64
    }
}

/// `StepInputs::samples` of the inputs at `step`, as a count of up to `most` rows.
pub(crate) fn sample_count(step: u64, most: usize) -> RowCount {
    RowCount { at: step + std::mem::offset_of!(StepInputs, samples) as u64, most }
}

/// Where the inputs of the step at hand lie.
pub(crate) struct StepMemory {
    memory: Scratch,
    /// One kernel attends for all rows, so that chunks of a prompt change no bit.
    deterministic: bool,
    /// Steps whose inputs have been sent.
    sent: u64,
}

/// The place of a step in which each sequence has one row. Its layout depends on the capacity alone.
pub(crate) struct Bucket {
    pub(crate) at: StepAt,
    capacity: Capacity,
    /// Of the chunks of rows whose logits are used.
    pub(crate) chunk_rows: usize,
}

impl StepMemory {
    pub(crate) fn new(deterministic: bool) -> Self {
        Self { memory: Scratch::new("a step's inputs"), deterministic, sent: 0 }
    }

    /// The number of the step whose inputs are here.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Makes room for any step of `rows` rows of sequences of up to `positions` positions, and gives its bytes.
    pub(crate) fn reserve(&mut self, arena: &Arena, rows: usize, positions: usize) -> Result<usize, BackendError> {
        let bytes = Self::bytes(rows, positions);
        self.memory.at_least(arena, bytes)?;
        Ok(bytes)
    }

    /// Bytes of the inputs of any step of `rows` rows of sequences of up to `positions` positions.
    pub(crate) fn bytes(rows: usize, positions: usize) -> usize {
        let table_stride = positions.div_ceil(BLOCK_TOKENS);
        let (sequences, tokens, items, gather, samples, chunks) = (rows, rows, rows, rows, rows, rows);
        Capacity { rows, sequences, tokens, items, gather, samples, chunks, table_stride }.offsets().1
    }

    /// Where a step's inputs lie that has room for `rows` rows, each of a sequence of up to `positions` positions, and whose
    /// logits are used `chunk_rows` at a time.
    pub(crate) fn bucket(
        &self,
        rows: usize,
        chunk_rows: usize,
        positions: usize,
        token_buffer: &TokenBuffer,
    ) -> Bucket {
        let table_stride = positions.div_ceil(BLOCK_TOKENS);
        let (sequences, gather, samples, chunks) = (rows, rows, rows, rows.div_ceil(chunk_rows));
        let capacity = Capacity { rows, sequences, gather, samples, chunks, table_stride, ..Capacity::default() };
        let at = StepAt {
            rows,
            positions,
            single_rows: true,
            decode_rows: [0, rows],
            ..self.place(&capacity, token_buffer, true)
        };
        Bucket { at, capacity, chunk_rows }
    }

    /// The parts in memory, without what is in them.
    fn place(&self, capacity: &Capacity, token_buffer: &TokenBuffer, slots: bool) -> StepAt {
        let (offsets, bytes) = capacity.offsets();
        assert!(bytes <= self.memory.bytes(), "{bytes} bytes of a step's inputs");
        let [inputs, step_rows, sequences, items, token_rows, tokens, gather, samples, tables] =
            offsets.map(|offset| self.memory.at() + offset as u64);
        // Where tokens come with the step, they are one row of the token buffer, in which each row has its own at its number.
        let tokens = match slots {
            true => TokensAt { rows: step_rows, history: token_buffer.at(), stride: token_buffer.stride() },
            false => TokensAt { rows: token_rows, history: tokens, stride: 0 },
        };
        let table_stride = capacity.table_stride;
        StepAt {
            inputs,
            step_rows,
            sequences,
            tables,
            items,
            tokens,
            gather,
            samples,
            table_stride,
            ..StepAt::default()
        }
    }

    fn prefills(&self, rows: usize) -> bool {
        !self.deterministic && rows >= PREFILL_ROWS_MIN
    }

    /// Sends the inputs of a step: its batch, and the rows whose logits are used.
    pub(crate) fn send(
        &mut self,
        arena: &Arena,
        staging: &mut Staging,
        token_buffer: &TokenBuffer,
        &StepInput { batch, rows: wanted, .. }: &StepInput<'_>,
    ) -> Result<StepAt, BackendError> {
        let rows = batch.rows();
        let slots = !batch.seqs.is_empty() && batch.seqs.iter().all(|seq| seq.slot.is_some());
        let items = self.items(batch);
        let capacity = Capacity {
            rows,
            sequences: batch.seqs.len(),
            tokens: if slots { 0 } else { rows },
            items: items.len(),
            gather: wanted.len(),
            table_stride: batch.seqs.iter().map(|seq| seq.table.len()).max().unwrap_or(0).max(1),
            ..Capacity::default()
        };
        let inputs = StepInputs {
            rows: rows as u32,
            sequences: batch.seqs.len() as u32,
            prefill_items: items.len() as u32,
            ..StepInputs::default()
        };
        let step_rows = self.rows(batch);
        let token_row = |row| StepRow { slot: 0, position: row as u32, sequence: 0, prefill: 0 };
        let token_rows: Vec<StepRow> = (0..capacity.tokens).map(token_row).collect();
        let parts = Parts {
            inputs: &[inputs],
            step_rows: &step_rows,
            batch,
            items: &items,
            token_rows: &token_rows,
            tokens: &batch.tokens[..capacity.tokens],
            gather: &gathered(batch, wanted),
            samples: &[],
        };
        self.sent += 1;
        self.memory.at_least(arena, capacity.offsets().1)?;
        parts.send(&capacity, staging, self.memory.at())?;
        Ok(StepAt {
            rows,
            prefill_items: items.len(),
            positions: batch.seqs.iter().map(|seq| seq.start + seq.rows.len()).max().unwrap_or(0),
            single_rows: batch.seqs.iter().all(|seq| seq.rows.len() == 1),
            decode_rows: decode_rows(&step_rows),
            block_max: batch.blocks.iter().copied().max().unwrap_or(0),
            ..self.place(&capacity, token_buffer, slots)
        })
    }

    /// Sends a step for which `bucket` has room: its batch, the rows whose logits are used, and how.
    pub(crate) fn fill(
        &mut self,
        bucket: &Bucket,
        staging: &mut Staging,
        batch: &Batch,
        wanted: &[usize],
        samples: &[SampleRow],
    ) -> Result<(), BackendError> {
        self.sent += 1;
        assert!(
            batch.rows() <= bucket.capacity.rows && samples.len() <= bucket.capacity.samples,
            "a step beyond its bucket"
        );
        let mut inputs = vec![StepInputs::default(); 1 + bucket.capacity.chunks];
        (inputs[0].rows, inputs[0].sequences) = (batch.rows() as u32, batch.seqs.len() as u32);
        for (inputs, chunk) in inputs[1..].iter_mut().zip(samples.chunks(bucket.chunk_rows)) {
            inputs.samples = chunk.len() as u32;
        }
        let parts = Parts {
            inputs: &inputs,
            step_rows: &self.rows(batch),
            batch,
            items: &[],
            token_rows: &[],
            tokens: &[],
            gather: &gathered(batch, wanted),
            samples,
        };
        parts.send(&bucket.capacity, staging, self.memory.at())
    }

    fn rows(&self, batch: &Batch) -> Vec<StepRow> {
        let rows = batch.seqs.iter().enumerate().flat_map(|(index, seq)| {
            let (slot, prefill) = (seq.slot.unwrap_or(0) as u32, u32::from(self.prefills(seq.rows.len())));
            let row = move |position| StepRow { slot, position, sequence: index as u32, prefill };
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

/// The rows whose logits are used.
fn gathered(batch: &Batch, wanted: &[usize]) -> Vec<u32> {
    let row = |&row: &usize| {
        assert!(row < batch.rows(), "row {row} of {}", batch.rows());
        row as u32
    };
    wanted.iter().map(row).collect()
}

fn decode_rows(rows: &[StepRow]) -> [usize; 2] {
    let decodes = |row: &StepRow| row.prefill == 0;
    rows.iter().position(decodes).map_or([0, 0], |first| {
        let last = rows.iter().rposition(decodes).expect("there is a first");
        [first, last + 1]
    })
}

/// What the inputs of a step are.
struct Parts<'a> {
    inputs: &'a [StepInputs],
    step_rows: &'a [StepRow],
    batch: &'a Batch,
    items: &'a [PrefillItem],
    token_rows: &'a [StepRow],
    tokens: &'a [u32],
    gather: &'a [u32],
    samples: &'a [SampleRow],
}

impl Parts<'_> {
    /// Sends them to `to`, each to its place in `capacity`.
    fn send(&self, capacity: &Capacity, staging: &mut Staging, to: u64) -> Result<(), BackendError> {
        let (offsets, _) = capacity.offsets();
        let sequences: Vec<StepSequence> = self.batch.seqs.iter().map(sequence).collect();
        let tables = padded_tables(self.batch, capacity.table_stride);
        let parts: [&[u8]; PARTS] = [
            bytemuck::cast_slice(self.inputs),
            bytemuck::cast_slice(self.step_rows),
            bytemuck::cast_slice(&sequences),
            bytemuck::cast_slice(self.items),
            bytemuck::cast_slice(self.token_rows),
            bytemuck::cast_slice(self.tokens),
            bytemuck::cast_slice(self.gather),
            bytemuck::cast_slice(self.samples),
            bytemuck::cast_slice(&tables),
        ];
        let end = offsets[PARTS - 1] + parts[PARTS - 1].len();
        let fill = |to: &mut [u8]| {
            offsets.iter().zip(parts).for_each(|(&offset, part)| to[offset..][..part.len()].copy_from_slice(part));
        };
        // SAFETY: the memory has room for `capacity`, as whoever placed its parts there has asserted, and lives as long as the
        // backend.
        unsafe { staging.send(to, end, fill) }
    }
}

fn sequence(seq: &BatchSeq) -> StepSequence {
    let (first_row, rows) = (seq.rows.start as u32, seq.rows.len() as u32);
    StepSequence { first_row, rows, start: seq.start as u32, slot: seq.slot.unwrap_or(0) as u32 }
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
