//! Sequences that have ended, and the answer that they make.

use crate::TokenEvent;
use api::{BestOfSequence, Details, FinishReason, GenerateResponse, PrefillToken, StreamDetails, ValidRequest};
use std::sync::Arc;

/// A sequence that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    pub(crate) request: Arc<ValidRequest>,
    pub(crate) index: u32,
    pub(crate) generated_text: String,
    pub(crate) finish: FinishReason,
    pub(crate) cached_tokens: u32,
    pub(crate) prefill: Vec<PrefillToken>,
    pub(crate) tokens: Vec<TokenEvent>,
}

impl Completion {
    /// The answer to a request whose sequences have all ended: that of the highest mean log-probability, with the others
    /// in its details.
    ///
    /// # Panics
    ///
    /// If there is no sequence.
    #[must_use]
    pub fn best(mut sequences: Vec<Self>) -> GenerateResponse {
        let (prefill, cached_tokens) = (sequences[0].prefill.clone(), sequences[0].cached_tokens);
        for sequence in &mut sequences[1..] {
            (sequence.prefill, sequence.cached_tokens) = (prefill.clone(), cached_tokens);
        }
        let best = (0..sequences.len()).rev().max_by(|&a, &b| {
            let mean = |index: usize| sequences[index].mean_logprob();
            mean(a).total_cmp(&mean(b))
        });
        let best = sequences.remove(best.expect("a request has a sequence"));
        let (details, several) = (best.request.details, best.request.best_of > 1);
        let others = several.then(|| sequences.into_iter().map(Self::into_best_of_sequence).collect());
        let generated_text = best.generated_text.clone();
        GenerateResponse { generated_text, details: details.then(|| best.into_details(others)) }
    }

    /// The text, with the prompt before it where that was asked for.
    #[must_use]
    pub fn generated_text(&self) -> &str {
        &self.generated_text
    }

    /// The details that end a stream, if they were asked for.
    #[must_use]
    pub fn stream_details(&self) -> Option<StreamDetails> {
        self.request.details.then(|| StreamDetails {
            finish_reason: self.finish,
            generated_tokens: self.generated_tokens(),
            seed: self.request.seed(self.index),
            input_length: count(self.request.prompt.len()),
            cached_tokens: self.cached_tokens,
        })
    }

    fn generated_tokens(&self) -> u32 {
        count(self.tokens.len())
    }

    fn mean_logprob(&self) -> f32 {
        self.tokens.iter().map(|event| event.token.logprob).sum::<f32>() / self.tokens.len() as f32
    }

    fn into_details(self, best_of_sequences: Option<Vec<BestOfSequence>>) -> Details {
        let (prompt_tokens, cached_tokens) = (count(self.request.prompt.len()), self.cached_tokens);
        let one = self.into_best_of_sequence();
        Details {
            finish_reason: one.finish_reason,
            generated_tokens: one.generated_tokens,
            seed: one.seed,
            prefill: one.prefill,
            tokens: one.tokens,
            best_of_sequences,
            top_tokens: one.top_tokens,
            prompt_tokens,
            cached_tokens,
        }
    }

    fn into_best_of_sequence(self) -> BestOfSequence {
        let with_top = self.request.top_n_tokens > 0;
        let (generated_tokens, seed) = (self.generated_tokens(), self.request.seed(self.index));
        let (tokens, top): (Vec<_>, Vec<_>) = self.tokens.into_iter().map(|event| (event.token, event.top)).unzip();
        BestOfSequence {
            generated_text: self.generated_text,
            finish_reason: self.finish,
            generated_tokens,
            seed,
            prefill: self.prefill,
            tokens,
            top_tokens: if with_top { top } else { Vec::new() },
        }
    }
}

/// Positions fit 32 bits.
pub(crate) fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).expect("fewer tokens than positions")
}
