//! What becomes of a row of logits.

use crate::{Collective, CollectiveError};
use sampling::{SampleRow, Sampler};
use step::Sample;

/// What one row of logits is for.
#[derive(Clone, Debug)]
pub enum LogitsUse<'a> {
    /// Choose the next token.
    Sample {
        /// From what, and how.
        row: SampleRow<'a>,
        /// Where the choice becomes the token at `row.position`: a slot of [`crate::Backend::set_tokens`]. The tokens before
        /// are there, too, and `row.tokens` may lack those that only the device knows. Without one, nothing is kept, and
        /// `row.tokens` are all that there are.
        slot: Option<usize>,
        /// Give the whole row of logits, too.
        return_logits: bool,
    },
    /// Say how probable the model holds this token.
    Score {
        /// Its id.
        token: u32,
    },
}

/// The answer to a [`LogitsUse`].
#[derive(Clone, Debug, PartialEq)]
pub enum LogitsOutput {
    /// To [`LogitsUse::Sample`].
    Sample(Sample),
    /// To [`LogitsUse::Score`]: the natural logarithm of the token's probability.
    Score(f32),
}

/// [`crate::Backend::use_logits`] on host memory: gathers each row of `logits` (this rank's part, row-major) and uses
/// it. `whole` is scratch for one row.
///
/// # Errors
///
/// [`CollectiveError`], from gathering.
pub fn use_logits(
    collective: &mut dyn Collective,
    logits: &[f32],
    vocab: &[usize],
    uses: &[LogitsUse<'_>],
    whole: &mut Vec<f32>,
    sampler: &mut Sampler,
) -> Result<Vec<LogitsOutput>, CollectiveError> {
    let columns = vocab[collective.rank()];
    assert_eq!(logits.len(), uses.len() * columns, "one use for each row of logits");
    whole.resize(vocab.iter().sum(), 0.0);
    let mut outputs = Vec::with_capacity(uses.len());
    for (row, wanted) in uses.iter().enumerate() {
        collective.all_gather(&logits[row * columns..][..columns], vocab, whole)?;
        outputs.push(use_row(sampler, whole, wanted));
    }
    Ok(outputs)
}

/// Samples from, or scores, one whole row of logits.
pub fn use_row(sampler: &mut Sampler, logits: &[f32], wanted: &LogitsUse<'_>) -> LogitsOutput {
    match wanted {
        LogitsUse::Sample { row, return_logits, .. } => {
            let mut sample = sampler.sample(logits, row);
            if *return_logits {
                sample.logits = logits.to_vec();
            }
            LogitsOutput::Sample(sample)
        }
        LogitsUse::Score { token } => LogitsOutput::Score(sampling::model_logprob(logits, *token)),
    }
}
