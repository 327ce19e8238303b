//! What a request asks for.

use crate::Priority;
use step::TokenBias;
use text::Conversation;

/// A request for continuations of a prompt, as it is before validation.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What is continued.
    pub prompt: Prompt,
    /// Put the tokens before and behind a [`Prompt::Text`] that the tokenizer's post-processor adds.
    pub add_special_tokens: bool,
    /// Keep so many tokens from the end of the prompt; `None`: all.
    pub truncate: Option<usize>,
    /// The most tokens to generate; `None`: as many as the limits leave beside the prompt.
    pub max_tokens: Option<u32>,
    /// How many continuations are wanted.
    pub n: usize,
    /// Make so many, and answer with the `n` of the highest mean log-probability; `None`: `n`.
    pub best_of: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What ends a continuation early.
    pub stop: Stop,
    /// Answer with the log-probabilities of the prompt's tokens.
    pub prompt_logprobs: bool,
    /// Answer with so many of the most probable tokens beside each.
    pub top_tokens: u32,
    /// What the text must follow.
    pub grammar: Option<Grammar>,
    /// Who goes first when requests wait.
    pub priority: Priority,
}

impl Request {
    /// One greedy continuation of `prompt`, as long as the limits allow.
    #[must_use]
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            add_special_tokens: true,
            truncate: None,
            max_tokens: None,
            n: 1,
            best_of: None,
            sampling: Sampling::default(),
            stop: Stop::default(),
            prompt_logprobs: false,
            top_tokens: 0,
            grammar: None,
            priority: Priority::Normal,
        }
    }
}

/// What is continued.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Token ids, as they are.
    Ids(Vec<u32>),
    /// What the model's chat template makes of a conversation. It has its special tokens from there; what the template says of
    /// the end of an answer ends it, too.
    Conversation(Box<Conversation>),
}

/// How tokens are chosen. `None` is off; the ranges are those of [`step::SamplingSettings`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// Draw tokens; otherwise each is the most probable one.
    pub draw: bool,
    /// Of the draws; `None`: a random one.
    pub seed: Option<u64>,
    /// Logits are divided by it; 1.
    pub temperature: Option<f32>,
    /// Keep so many of the most probable tokens.
    pub top_k: Option<u32>,
    /// Keep the most probable tokens up to this mass.
    pub top_p: Option<f32>,
    /// Keep the tokens of the most typical information, up to this mass.
    pub typical_p: Option<f32>,
    /// Keep the tokens that are at least this times as probable as the most probable one.
    pub min_p: Option<f32>,
    /// Logits of tokens seen before, prompt included, are divided by it, or multiplied where negative; 1.
    pub repetition_penalty: Option<f32>,
    /// Logits lose this times the share that the token has of all tokens so far, as Text Generation Inference defines it; 0.
    pub relative_frequency_penalty: Option<f32>,
    /// Logits of tokens that have been generated lose this, as OpenAI defines it; 0.
    pub presence_penalty: Option<f32>,
    /// Logits lose this for each time that the token has been generated, as OpenAI defines it; 0.
    pub frequency_penalty: Option<f32>,
    /// What the logits of some tokens gain before all else.
    pub logit_bias: Vec<TokenBias>,
    /// Favour the half of the vocabulary that the previous token selects.
    pub watermark: bool,
}

/// What ends a continuation before it has all tokens that were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stop {
    /// Texts.
    pub strings: Vec<String>,
    /// The answer has the text that ended it.
    pub keep_string: bool,
    /// Go on after a token that ends a text.
    pub ignore_eos: bool,
    /// Tokens.
    pub token_ids: Vec<u32>,
    /// No token ends a continuation before it has so many tokens. Stop strings do.
    pub min_tokens: u32,
}

/// What the generated text must follow.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// A JSON schema.
    JsonSchema(serde_json::Value),
    /// A regular expression.
    Regex(String),
}
