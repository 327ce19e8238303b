//! What a step runs, as far as its time depends on it.

/// The rows of a step, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Rows: tokens that are run.
    pub rows: u64,
    /// Rows of which the next token is chosen.
    pub samples: u64,
    /// Positions whose keys and values rows that stand alone read, over all such rows.
    pub decode_positions: u64,
    /// Rows of sequences that have several.
    pub prefill_rows: u64,
    /// Positions whose keys and values sequences of several rows read, once each.
    pub prefill_positions: u64,
    /// Pairs of a row and a position that it attends to, over sequences of several rows.
    pub prefill_pairs: u64,
}

impl Batch {
    /// `sequences` sequences that have `context` positions each and run one row more.
    #[must_use]
    pub fn decode(sequences: u64, context: u64) -> Self {
        Self { rows: sequences, samples: sequences, decode_positions: sequences * (context + 1), ..Self::default() }
    }

    /// A prompt of `tokens` tokens, run at once.
    #[must_use]
    pub fn prompt(tokens: u64) -> Self {
        let mut batch = Self::default();
        batch.add_run(0, tokens, true);
        batch
    }

    /// Adds a sequence that has `start` positions and runs `len` rows more.
    pub fn add_run(&mut self, start: u64, len: u64, sample: bool) {
        self.rows += len;
        self.samples += u64::from(sample);
        if len == 1 {
            self.decode_positions += start + 1;
        } else {
            self.prefill_rows += len;
            self.prefill_positions += start + len;
            self.prefill_pairs += len * start + len * (len + 1) / 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_in_chunks_has_the_pairs_of_the_whole() {
        let mut chunks = Batch::default();
        for (start, len) in [(0, 7), (7, 100), (107, 21)] {
            chunks.add_run(start, len, start == 107);
        }
        let whole = Batch::prompt(128);
        assert_eq!(chunks.prefill_pairs, whole.prefill_pairs);
        assert_eq!((chunks.rows, chunks.samples), (whole.rows, whole.samples));
        assert_eq!(chunks.prefill_positions, 7 + 107 + 128);
    }

    #[test]
    fn rows_alone_are_decoded() {
        let mut batch = Batch::default();
        batch.add_run(9, 1, true);
        batch.add_run(9, 1, true);
        assert_eq!(batch, Batch::decode(2, 9));
    }
}
