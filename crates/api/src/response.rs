//! What a client gets. The order of the fields is that of their JSON.

use serde::{Deserialize, Serialize};
use step::FinishReason;

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerateResponse {
    /// The continuation; after the prompt with `return_full_text`.
    pub generated_text: String,
    /// Only where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
}

/// How the answer came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens in `tokens`, the end-of-text token included.
    pub generated_tokens: u32,
    /// What makes the same draws again; `None` for greedy choices.
    pub seed: Option<u64>,
    /// The prompt's tokens, with `decoder_input_details`.
    pub prefill: Vec<PrefillToken>,
    /// The generated tokens.
    pub tokens: Vec<Token>,
    /// The other continuations, where `best_of` is more than 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_of_sequences: Option<Vec<BestOfSequence>>,
    /// The most probable tokens beside each of `tokens`, where `top_n_tokens` is more than 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_tokens: Vec<Vec<Token>>,
    /// Tokens of the prompt, after truncation. Not part of TGI's JSON.
    #[serde(skip)]
    pub prompt_tokens: u32,
    /// How many of them the prefix cache had. Not part of TGI's JSON, and left out if there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cached_tokens: u32,
}

/// A continuation that was not the likeliest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestOfSequence {
    /// As in [`GenerateResponse`].
    pub generated_text: String,
    /// As in [`Details`].
    pub finish_reason: FinishReason,
    /// As in [`Details`].
    pub generated_tokens: u32,
    /// As in [`Details`].
    pub seed: Option<u64>,
    /// As in [`Details`].
    pub prefill: Vec<PrefillToken>,
    /// As in [`Details`].
    pub tokens: Vec<Token>,
    /// As in [`Details`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_tokens: Vec<Vec<Token>>,
}

/// A token of the prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrefillToken {
    /// Vocabulary id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Natural logarithm of the probability that the model gives it; `None` for the first, which nothing precedes.
    pub logprob: Option<f32>,
}

/// A generated token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// Vocabulary id.
    pub id: u32,
    /// The text that it completes; empty while that ends within a character.
    pub text: String,
    /// Natural logarithm of its probability after the logits processors. A NaN becomes `null`.
    pub logprob: f32,
    /// It is a special token, such as the end of text, which `generated_text` leaves out.
    pub special: bool,
    /// Natural logarithm of its probability as the model alone gives it. Not part of TGI's JSON.
    #[serde(skip)]
    pub model_logprob: f32,
}

/// How a streamed answer came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamDetails {
    /// As in [`Details`].
    pub finish_reason: FinishReason,
    /// As in [`Details`].
    pub generated_tokens: u32,
    /// As in [`Details`].
    pub seed: Option<u64>,
    /// Tokens of the prompt, after truncation. TGI has it since 2.4.0, and today's clients require it.
    pub input_length: u32,
    /// How many of them the prefix cache had. Not part of TGI's JSON, and left out if there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cached_tokens: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}
