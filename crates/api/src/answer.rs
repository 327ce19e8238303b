//! What a request is answered with.

use std::time::Duration;
use step::FinishReason;

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The prompt's tokens, after truncation. Those but the first have a log-probability if that was asked for.
    pub prompt: Vec<PromptToken>,
    /// How many of them the prefix cache had.
    pub cached_tokens: u32,
    /// The continuations: as many as were asked for, in the order of their index, or, where more were made, the best first; then
    /// those that were made beyond, in the order of their index.
    pub completions: Vec<Completion>,
    /// How long it took.
    pub timings: Timings,
}

/// How long a request spent where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Until its tokens were known and it was queued.
    pub validation: Duration,
    /// From then until a step had its first sequence.
    pub queue: Duration,
    /// From then until the last token of its last sequence.
    pub inference: Duration,
}

impl Timings {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.validation + self.queue + self.inference
    }
}

/// A token of a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PromptToken {
    /// Vocabulary id.
    pub id: u32,
    /// Natural logarithm of the probability that the model gives it.
    pub logprob: Option<f32>,
}

/// One continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Its text, without special tokens.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// What makes the same draws again; `None` for greedy choices.
    pub seed: Option<u64>,
    /// Its tokens, with the one that ended it.
    pub tokens: Vec<TokenEvent>,
}

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEvent {
    /// Which continuation it belongs to.
    pub index: usize,
    /// The token, with its text and log-probabilities.
    pub token: Token,
    /// The most probable tokens beside it, if they were asked for.
    pub top: Vec<Token>,
    /// Why the continuation ends with it, if it does.
    pub finish: Option<FinishReason>,
}

/// A token of the vocabulary at a place in a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Vocabulary id.
    pub id: u32,
    /// The text that it completes; empty while that ends within a character.
    pub text: String,
    /// Natural logarithm of its probability after the logits processors.
    pub logprob: f32,
    /// Natural logarithm of its probability as the model alone gives it.
    pub model_logprob: f32,
    /// It is a special token, such as the end of text, which texts leave out.
    pub special: bool,
}
