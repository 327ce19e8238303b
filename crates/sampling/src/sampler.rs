//! From a row of logits to a token.

use step::{Choice, Sample, SamplingParams, ScoredToken, TokenScore};

use crate::draw::{RowBits, draw};
use crate::processors::{Processors, apply_mask, id_of, rank};
use crate::softmax::{LogSoftmax, argmax};

/// Chooses tokens. It holds scratch space alone, so one serves any number of sequences, in any order.
#[derive(Debug, Default)]
pub struct Sampler {
    scores: Vec<f32>,
    processors: Processors,
    /// The most probable tokens so far, best first, as `rank(-score, id)`.
    top: Vec<u64>,
}

/// What there is to know about a row of logits.
#[derive(Clone, Copy, Debug)]
pub struct SampleRow<'a> {
    /// How the token is chosen.
    pub params: &'a SamplingParams,
    /// Index in the sequence of the token that is being chosen; the prompt's length for the first.
    pub position: u32,
    /// How many of the tokens before it are the prompt.
    pub prompt_len: u32,
    /// The tokens before it: prompt, then generated ones. The last one keys the watermark.
    pub tokens: &'a [u32],
    /// Which tokens a grammar allows, as in [`step::SampleMask::words`]; at least one of them.
    pub mask: Option<&'a [u32]>,
    /// Report so many of the most probable tokens.
    pub top_n: usize,
}

impl Sampler {
    /// A sampler without scratch space; the first row makes it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses a token by `logits`, one for each token of the vocabulary.
    ///
    /// The order is: mask, logit biases, watermark, repetition penalty, relative frequency penalty, frequency penalty,
    /// presence penalty, temperature, min-p, top-k, top-p, typical-p, and the choice. That is the order of vLLM
    /// (vllm/v1/sample/sampler.py), with what only Text Generation Inference has where that has it: the watermark before the
    /// penalties, its frequency penalty behind the repetition penalty, typical-p last. All of them work on greedy choices
    /// too, and on what `logprob` means. `top` holds fewer than `top_n` tokens
    /// where fewer have survived; `logits` stays empty. A NaN is never chosen, but makes every log-probability NaN; where
    /// no token is left, token 0 is chosen.
    ///
    /// # Panics
    ///
    /// If a token of the row is not in the vocabulary, or its mask does not cover the vocabulary: both are our bugs.
    pub fn sample(&mut self, logits: &[f32], row: &SampleRow<'_>) -> Sample {
        let settings = row.params.settings();
        let model = LogSoftmax::of(logits);
        let (scores, warped) = if row.mask.is_none() && Processors::are_off(settings) {
            (logits, model)
        } else {
            self.scores.clear();
            self.scores.extend_from_slice(logits);
            if let Some(mask) = row.mask {
                apply_mask(&mut self.scores, mask);
            }
            self.processors.apply(&mut self.scores, settings, row.tokens, row.prompt_len as usize);
            (&*self.scores, LogSoftmax::of(&self.scores))
        };
        let chosen = match settings.choice {
            Choice::Greedy => argmax(scores, warped.max()),
            Choice::Draw { seed, index } => draw(scores, warped.max(), RowBits::new(seed, index, row.position)),
        };
        let scored = |id: u32| {
            let logprob = warped.logprob(scores[id as usize]);
            ScoredToken { id, score: TokenScore { logprob, model_logprob: model.logprob(logits[id as usize]) } }
        };
        find_top(&mut self.top, scores, row.top_n);
        let top = self.top.iter().map(|&entry| scored(id_of(entry) as u32)).collect();
        Sample { token: scored(chosen), top, logits: Vec::new() }
    }
}

/// Natural logarithm of the probability that `logits` (one for each token of the vocabulary) give to token `id`.
///
/// # Panics
///
/// If `id` is outside of the vocabulary.
#[must_use]
pub fn model_logprob(logits: &[f32], id: u32) -> f32 {
    LogSoftmax::of(logits).logprob(logits[id as usize])
}

/// Leaves the `n` largest scores in `top`, largest first, the smaller id first among equals. `n` is small.
fn find_top(top: &mut Vec<u64>, scores: &[f32], n: usize) {
    top.clear();
    if n == 0 {
        return;
    }
    for (id, &score) in (0..).zip(scores) {
        let entry = rank(-score, id);
        if score > f32::NEG_INFINITY && (top.len() < n || entry < top[top.len() - 1]) {
            top.truncate(n - 1);
            top.insert(top.partition_point(|&better| better < entry), entry);
        }
    }
}
