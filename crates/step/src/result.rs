//! What a rank answers.

use crate::{SeqId, StepId};
use serde::{Deserialize, Serialize};

/// How probable one token was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// Natural logarithm of its probability after all logits processors.
    pub logprob: f32,
    /// Natural logarithm of its probability as the model alone gives it.
    pub model_logprob: f32,
}

/// A token with its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredToken {
    /// Vocabulary id.
    pub id: u32,
    /// How probable it was.
    pub score: TokenScore,
}

/// A token that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The choice.
    pub token: ScoredToken,
    /// The most probable tokens after all processors, most probable first; `NewSequence::top_n` of them, fewer
    /// where fewer are left.
    pub top: Vec<ScoredToken>,
    /// The model's own logits, one for each token of the vocabulary; empty unless `NewSequence::return_logits`.
    pub logits: Vec<f32>,
}

/// What one sequence's run brought forth.
#[derive(Clone, Debug, PartialEq)]
pub struct SeqOutput {
    /// Whose run.
    pub seq: SeqId,
    /// The sampled tokens, in order: one, or more where drafts held; none where the run did not sample.
    pub samples: Vec<Sample>,
    /// With `NewSequence::prompt_logprobs`: the model's log-probability of the prompt tokens at positions
    /// `start + 1 ..= start + len` of the run, as far as they belong to the prompt.
    pub prompt_logprobs: Vec<f32>,
}

/// The end of a step on one rank. All ranks choose the same tokens; only rank 0 fills logits, `top` and prompt scores.
#[derive(Clone, Debug, PartialEq)]
pub struct StepResult {
    /// Which step ended.
    pub step: StepId,
    /// One entry for each run that sampled or scored, in the order of the plan.
    pub outputs: Vec<SeqOutput>,
    /// How long the device worked on the step, in microseconds.
    pub device_time_us: u64,
    /// How long of that it was in all-reduces, in microseconds; `None` where the backend does not measure it.
    pub all_reduce_time_us: Option<u64>,
}

/// Why a sequence ended. Where several reasons apply at once, the first of this list is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// It has as many new tokens as were asked for.
    Length,
    /// The model ended the text.
    EosToken,
    /// A stop token has come, or one of the stop strings is complete.
    StopSequence,
}

impl FinishReason {
    /// Its name in every public answer.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::EosToken => "eos_token",
            Self::StopSequence => "stop_sequence",
        }
    }
}
