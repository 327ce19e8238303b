//! What a client sends.

use serde::Deserialize;

use crate::{Priority, ValidationError};

/// A request for a continuation. Unknown keys of its JSON are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct GenerateRequest {
    /// The prompt.
    pub inputs: Inputs,
    /// How it is continued.
    #[serde(default)]
    pub parameters: Parameters,
    /// The answer is wanted token by token. Only for routes that serve both ways of answering; others ignore it.
    #[serde(default)]
    pub stream: bool,
    /// Who goes first when requests wait. Not part of TGI's JSON.
    #[serde(skip)]
    pub priority: Priority,
}

/// The prompt of a request. In JSON it is a string.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Inputs {
    /// As text.
    Text(String),
    /// As token ids.
    Ids(Vec<u32>),
}

impl From<String> for Inputs {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Inputs {
    /// The prompt where a request has a field for each kind, of which one is empty.
    ///
    /// # Errors
    ///
    /// [`ValidationError::BothInputs`] if neither is.
    pub fn either(text: String, ids: Vec<u32>) -> Result<Self, ValidationError> {
        match (text.is_empty(), ids.is_empty()) {
            (false, false) => Err(ValidationError::BothInputs),
            (true, false) => Ok(Self::Ids(ids)),
            (_, true) => Ok(Self::Text(text)),
        }
    }
}

/// How a prompt is continued: TGI's parameters, as they are before validation. `None` is the default, which is given
/// with each; JSON may say `null` for it. The other fields take no `null`, as in TGI.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// Make so many continuations and answer with the likeliest; 1.
    pub best_of: Option<usize>,
    /// Logits are divided by it; 1.
    pub temperature: Option<f32>,
    /// Logits of tokens seen before are divided by it, or multiplied where negative; 1.
    pub repetition_penalty: Option<f32>,
    /// Logits lose this times the share that the token has of all tokens so far; 0.
    pub frequency_penalty: Option<f32>,
    /// Draw from so many of the most probable tokens; all.
    pub top_k: Option<i32>,
    /// Draw from the most probable tokens up to this mass; all.
    pub top_p: Option<f32>,
    /// Draw from the tokens of the most typical information, up to this mass; all.
    pub typical_p: Option<f32>,
    /// Draw, even if no other parameter calls for it.
    pub do_sample: bool,
    /// The most tokens to generate; 20. TGI takes `null` for it since 1.1.1 only.
    pub max_new_tokens: Option<u32>,
    /// Put the prompt before the generated text; no.
    pub return_full_text: Option<bool>,
    /// Texts that end the generation.
    pub stop: Vec<String>,
    /// Keep so many tokens from the end of the prompt; all.
    pub truncate: Option<usize>,
    /// Favour the half of the vocabulary that the previous token selects.
    pub watermark: bool,
    /// Answer with tokens, finish reason and seed.
    pub details: bool,
    /// Answer with the log-probabilities of the prompt's tokens.
    pub decoder_input_details: bool,
    /// Of the draws; a random one.
    pub seed: Option<u64>,
    /// Answer with so many of the most probable tokens beside each; 0.
    pub top_n_tokens: Option<u32>,
    /// A grammar that the text must follow. Any is rejected for now.
    pub grammar: Option<serde_json::Value>,
    /// Go on after the end-of-text token. Ours, for benchmarks.
    pub ignore_eos: bool,
}
