//! What a client gets. The order of the fields is that of their JSON.

use super::{Inputs, Parameters};
use crate::TokenStream;
use api::{Answer, Completion, FinishReason, PromptToken};
use serde::{Deserialize, Serialize};
use text::Tokenizer;

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct GenerateResponse {
    /// The continuation; after the prompt with `return_full_text`.
    pub generated_text: String,
    /// Only where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
}

/// How the answer came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Details {
    /// Why it ended.
    #[schema(value_type = crate::http::openapi::FinishReasonName)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BestOfSequence {
    /// As in [`GenerateResponse`].
    pub generated_text: String,
    /// As in [`Details`].
    #[schema(value_type = crate::http::openapi::FinishReasonName)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PrefillToken {
    /// Vocabulary id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Natural logarithm of the probability that the model gives it; `None` for the first, which nothing precedes.
    pub logprob: Option<f32>,
}

/// A generated token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StreamDetails {
    /// As in [`Details`].
    #[schema(value_type = crate::http::openapi::FinishReasonName)]
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

/// What an answer is to hold, as its request asked.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    tokenizer: Tokenizer,
    details: bool,
    prefill: bool,
    with_top: bool,
    several: bool,
    /// What comes before the generated text.
    prefix: String,
}

impl Shape {
    pub(crate) fn new(inputs: &Inputs, parameters: &Parameters, tokenizer: &Tokenizer) -> Self {
        let prefix = match inputs {
            _ if parameters.return_full_text != Some(true) => String::new(),
            Inputs::Text(text) => text.clone(),
            Inputs::Ids(ids) => tokenizer.decode(last(ids, parameters.truncate), false),
        };
        Self {
            tokenizer: tokenizer.clone(),
            details: parameters.details || parameters.decoder_input_details,
            prefill: parameters.decoder_input_details,
            with_top: parameters.top_n_tokens.is_some_and(|n| n > 0),
            several: parameters.best_of.is_some_and(|n| n > 1),
            prefix,
        }
    }

    /// The whole answer.
    pub(crate) fn response(&self, answer: Answer) -> GenerateResponse {
        let (prompt_tokens, cached_tokens) = (count(answer.prompt.len()), answer.cached_tokens);
        let prefill = if self.prefill { answer.prompt } else { Vec::new() };
        let prefill: Vec<PrefillToken> = prefill.into_iter().map(|token| self.prefill_token(token)).collect();
        let mut sequences = answer.completions.into_iter().map(|completion| self.sequence(completion, &prefill));
        let best = sequences.next().expect("an answer has a continuation");
        let generated_text = best.generated_text;
        let details = self.details.then(|| Details {
            finish_reason: best.finish_reason,
            generated_tokens: best.generated_tokens,
            seed: best.seed,
            prefill: best.prefill,
            tokens: best.tokens,
            best_of_sequences: self.several.then(|| sequences.collect()),
            top_tokens: best.top_tokens,
            prompt_tokens,
            cached_tokens,
        });
        GenerateResponse { generated_text, details }
    }

    fn prefill_token(&self, PromptToken { id, logprob }: PromptToken) -> PrefillToken {
        PrefillToken { id, text: self.tokenizer.decode(&[id], false), logprob }
    }

    fn sequence(&self, completion: Completion, prefill: &[PrefillToken]) -> BestOfSequence {
        let generated_tokens = count(completion.tokens.len());
        let tokens = completion.tokens.into_iter().map(|event| (event.token.into(), tokens(event.top)));
        let (tokens, top): (Vec<_>, Vec<_>) = tokens.unzip();
        BestOfSequence {
            generated_text: self.prefix.clone() + &completion.text,
            finish_reason: completion.finish,
            generated_tokens,
            seed: completion.seed,
            prefill: prefill.to_vec(),
            tokens,
            top_tokens: if self.with_top { top } else { Vec::new() },
        }
    }

    /// The text and, if they were asked for, the details that end a stream.
    pub(crate) fn ending(&self, stream: &TokenStream, finish_reason: FinishReason) -> (String, Option<StreamDetails>) {
        let details = self.details.then(|| StreamDetails {
            finish_reason,
            generated_tokens: stream.generated_tokens(0),
            seed: stream.seed(0),
            input_length: count(stream.request(0).prompt.len()),
            cached_tokens: stream.cached_tokens(0),
        });
        (self.prefix.clone() + stream.text(0), details)
    }
}

/// The last `truncate` of the ids, if that is given.
fn last(ids: &[u32], truncate: Option<usize>) -> &[u32] {
    &ids[ids.len() - truncate.unwrap_or(ids.len()).min(ids.len())..]
}

fn tokens(tokens: Vec<api::Token>) -> Vec<Token> {
    tokens.into_iter().map(Token::from).collect()
}

/// Positions fit 32 bits.
fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).expect("fewer tokens than positions")
}

impl From<api::Token> for Token {
    fn from(token: api::Token) -> Self {
        let api::Token { id, text, logprob, model_logprob, special } = token;
        Self { id, text, logprob, special, model_logprob }
    }
}
