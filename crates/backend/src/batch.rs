//! The rows of one step, as every backend sees them.

use std::ops::Range;

/// The rows of one step: tokens of several sequences, each sequence's rows adjacent and in the order of their positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token id of each row.
    pub tokens: Vec<u32>,
    /// The sequences, in row order; their rows cover the batch.
    pub seqs: Vec<BatchSeq>,
    /// The block tables of all sequences, one behind the other.
    pub blocks: Vec<u32>,
}

/// One sequence's part of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchSeq {
    /// Its rows in the batch.
    pub rows: Range<usize>,
    /// The position of its first row in the sequence. The keys and values of all earlier positions are in the KV cache.
    pub start: usize,
    /// Where the backend keeps its tokens, if it was told of them ([`crate::Backend::set_tokens`]). Then [`Batch::tokens`]
    /// says nothing of those that only the device knows, because it sampled them in a step that is still on its way.
    pub slot: Option<usize>,
    /// Its block table, as a range of [`Batch::blocks`]: entry `p / BLOCK_TOKENS` is the block of position `p`.
    pub table: Range<usize>,
}

impl Batch {
    /// A batch of sequences of one row, all at position 0: for what counts rows alone.
    #[must_use]
    pub fn of_single_rows(rows: usize) -> Self {
        let seq = |row| BatchSeq { rows: row..row + 1, start: 0, slot: Some(0), table: 0..1 };
        Self { tokens: vec![0; rows], seqs: (0..rows).map(seq).collect(), blocks: vec![0] }
    }

    /// How many rows the batch has.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// The block table of one of the sequences.
    #[must_use]
    pub fn table(&self, seq: &BatchSeq) -> &[u32] {
        &self.blocks[seq.table.clone()]
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.seqs.clear();
        self.blocks.clear();
    }
}
