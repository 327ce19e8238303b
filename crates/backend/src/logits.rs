//! Rows of logits, sampled from or scored.

use crate::{Collective, CollectiveError};
use sampling::{SampleRow, Sampler};
use step::Sample;

/// What to do with one row of logits.
#[derive(Clone, Debug)]
pub enum SampleRequest<'a> {
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

/// The answer to a [`SampleRequest`].
#[derive(Clone, Debug, PartialEq)]
pub enum SampleOutput {
    /// To [`SampleRequest::Sample`].
    Sample(Sample),
    /// To [`SampleRequest::Score`]: the natural logarithm of the token's probability.
    Score(f32),
}

/// [`crate::Backend::sample_or_score`] on host memory: gathers each row of `logits` (this rank's part, row-major) and uses
/// it. `whole` is scratch for one row.
///
/// # Errors
///
/// [`CollectiveError`], from gathering.
pub fn sample_or_score(
    collective: &mut dyn Collective,
    logits: &[f32],
    vocab: &[usize],
    requests: &[SampleRequest<'_>],
    whole: &mut Vec<f32>,
    sampler: &mut Sampler,
) -> Result<Vec<SampleOutput>, CollectiveError> {
    let columns = vocab[collective.rank()];
    assert_eq!(logits.len(), requests.len() * columns, "one request for each row of logits");
    whole.resize(vocab.iter().sum(), 0.0);
    let mut outputs = Vec::with_capacity(requests.len());
    for (row, request) in requests.iter().enumerate() {
        collective.all_gather(&logits[row * columns..][..columns], vocab, whole)?;
        outputs.push(sample_or_score_row(sampler, whole, request));
    }
    Ok(outputs)
}

/// Samples from, or scores, one whole row of logits.
pub fn sample_or_score_row(sampler: &mut Sampler, logits: &[f32], request: &SampleRequest<'_>) -> SampleOutput {
    match request {
        SampleRequest::Sample { row, return_logits, .. } => {
            let mut sample = sampler.sample(logits, row);
            if *return_logits {
                sample.logits = logits.to_vec();
            }
            SampleOutput::Sample(sample)
        }
        SampleRequest::Score { token } => SampleOutput::Score(sampling::model_logprob(logits, *token)),
    }
}
