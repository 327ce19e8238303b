//! What a client sends.

use api::{Field, Grammar, Priority, Prompt, Range, Request, Sampling, Stop, TokenBias, Violation};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

const DEFAULT_MAX_NEW_TOKENS: u32 = 20;

/// The most that TGI lets a request ask for, each with the flag that sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Continuations of one prompt (`--max-best-of`).
    pub max_best_of: usize,
    /// Stop strings (`--max-stop-sequences`).
    pub max_stop_sequences: usize,
    /// Most probable tokens beside each token (`--max-top-n-tokens`).
    pub max_top_n_tokens: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_best_of: 2, max_stop_sequences: 4, max_top_n_tokens: 5 }
    }
}

/// A request for a continuation. Unknown keys of its JSON are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize, utoipa::ToSchema)]
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

/// The prompt of a request. In JSON it is a string or a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// As text.
    Text(String),
    /// As token ids.
    Ids(Vec<u32>),
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputsVisitor)
    }
}

/// Says where an error is, which derived code for several forms does not.
struct InputsVisitor;

impl<'de> Visitor<'de> for InputsVisitor {
    type Value = Inputs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of token ids")
    }

    fn visit_str<E>(self, text: &str) -> Result<Inputs, E> {
        Ok(Inputs::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Inputs, E> {
        Ok(Inputs::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Inputs, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Inputs::Ids)
    }
}

impl Inputs {
    /// The prompt where a request has a field for each kind, of which one is empty.
    ///
    /// # Errors
    ///
    /// [`Violation::Conflict`] if neither is.
    pub fn either(text: String, ids: Vec<u32>) -> Result<Self, Violation> {
        match (text.is_empty(), ids.is_empty()) {
            (false, false) => Err(Violation::Conflict { field: Field::PromptIds, with: Field::Prompt }),
            (true, false) => Ok(Self::Ids(ids)),
            (_, true) => Ok(Self::Text(text)),
        }
    }
}

/// How a prompt is continued: TGI's parameters, as they are before validation. `None` is the default, which is given
/// with each; JSON may say `null` for it. The other fields take no `null`, as in TGI.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
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
    /// A grammar that the text must follow: `{"type": "json" or "regex", "value": …}`. Any is rejected for now.
    pub grammar: Option<Value>,
    /// Go on after the end-of-text token. Ours, for benchmarks.
    pub ignore_eos: bool,
    /// Draw from the tokens that are at least this times as probable as the most probable one; all. Ours.
    pub min_p: Option<f32>,
    /// Logits of tokens that have been generated lose this; 0. Ours, as OpenAI's.
    pub presence_penalty: Option<f32>,
    /// Logits lose this for each time that the token has been generated; 0. Ours: OpenAI's `frequency_penalty`.
    pub count_frequency_penalty: Option<f32>,
    /// What the logits of tokens gain, by id. Ours, as OpenAI's.
    pub logit_bias: BTreeMap<u32, f32>,
    /// No end of text before so many tokens; 0. Ours.
    pub min_tokens: Option<u32>,
    /// Tokens that end the generation. Ours.
    pub stop_token_ids: Vec<u32>,
}

impl GenerateRequest {
    /// What is asked for. `stream`: the answer is wanted token by token.
    ///
    /// # Errors
    ///
    /// The first rule that the request breaks, in TGI's order, of those that are narrower here than elsewhere.
    pub fn translate(self, stream: bool, limits: &Limits) -> Result<Request, Violation> {
        let Self { inputs, parameters, stream: _, priority } = self;
        let best_of = parameters.best_of(stream, limits)?;
        parameters.check_ranges()?;
        parameters.check_counts(best_of, limits)?;
        Ok(Request {
            truncate: parameters.truncate,
            max_tokens: Some(parameters.max_new_tokens.unwrap_or(DEFAULT_MAX_NEW_TOKENS)),
            best_of: Some(best_of),
            sampling: parameters.sampling(),
            prompt_logprobs: parameters.decoder_input_details,
            top_tokens: parameters.top_n_tokens.unwrap_or(0),
            grammar: parameters.grammar.map(grammar),
            stop: Stop {
                strings: parameters.stop,
                keep_string: true,
                ignore_eos: parameters.ignore_eos,
                token_ids: parameters.stop_token_ids,
                min_tokens: parameters.min_tokens.unwrap_or(0),
            },
            priority,
            ..Request::new(match inputs {
                Inputs::Text(text) => Prompt::Text(text),
                Inputs::Ids(ids) => Prompt::Ids(ids),
            })
        })
    }
}

impl Parameters {
    /// The number of continuations. TGI takes 0 for 1, except in streams.
    fn best_of(&self, stream: bool, limits: &Limits) -> Result<usize, Violation> {
        let best_of = self.best_of.unwrap_or(1);
        if stream && best_of != 1 {
            return Err(Violation::Conflict { field: Field::BestOf, with: Field::Stream });
        }
        if stream && self.decoder_input_details {
            return Err(Violation::Conflict { field: Field::PromptLogprobs, with: Field::Stream });
        }
        if best_of <= 1 {
            return Ok(1);
        }
        if best_of > limits.max_best_of {
            return Err(Violation::TooMany { field: Field::BestOf, max: limits.max_best_of, given: best_of });
        }
        // Any of these counts as sampling here, even a temperature of 1, with which tokens are not drawn.
        let given = [self.temperature, self.top_p, self.typical_p].iter().any(Option::is_some);
        if !(self.do_sample || given || self.top_k.is_some()) {
            return Err(Violation::NotDrawn { field: Field::BestOf });
        }
        Ok(best_of)
    }

    /// TGI's ranges, some of which are narrower than those of the samplers, in its order.
    fn check_ranges(&self) -> Result<(), Violation> {
        use Field::{RelativeFrequencyPenalty, RepetitionPenalty, Temperature, TopK, TopP, TypicalP};
        let checks = [
            (Temperature, Range::Positive, self.temperature),
            (RepetitionPenalty, Range::Positive, self.repetition_penalty),
            (RelativeFrequencyPenalty, Range::Finite, self.frequency_penalty),
            (TopP, Range::Inside, self.top_p),
            (TypicalP, Range::Inside, self.typical_p),
            (TopK, Range::Positive, self.top_k.map(|k| k as f32)),
        ];
        match checks.into_iter().find(|(_, range, given)| given.is_some_and(|x| !range.contains(x))) {
            Some((field, range, _)) => Err(Violation::OutOfRange { field, range }),
            None => Ok(()),
        }
    }

    fn check_counts(&self, best_of: usize, limits: &Limits) -> Result<(), Violation> {
        if self.max_new_tokens == Some(0) {
            return Err(Violation::TooFew { field: Field::MaxTokens, min: 1, given: 0 });
        }
        let (max, given) = (limits.max_stop_sequences, self.stop.len());
        if given > max {
            return Err(Violation::TooMany { field: Field::Stop, max, given });
        }
        if best_of > 1 && self.seed.is_some() {
            return Err(Violation::Conflict { field: Field::Seed, with: Field::BestOf });
        }
        let (max, given) = (limits.max_top_n_tokens as usize, self.top_n_tokens.unwrap_or(0) as usize);
        if given > max {
            return Err(Violation::TooMany { field: Field::TopTokens, max, given });
        }
        Ok(())
    }

    fn sampling(&self) -> Sampling {
        let filters = [self.top_p, self.typical_p, self.min_p].iter().any(Option::is_some) || self.top_k.is_some();
        Sampling {
            draw: self.do_sample || self.temperature.is_some_and(|t| t != 1.0) || filters,
            seed: self.seed,
            temperature: self.temperature,
            top_k: self.top_k.map(i32::unsigned_abs),
            top_p: self.top_p,
            typical_p: self.typical_p,
            repetition_penalty: self.repetition_penalty,
            relative_frequency_penalty: self.frequency_penalty,
            watermark: self.watermark,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.count_frequency_penalty,
            logit_bias: self.logit_bias.iter().map(|(&id, &bias)| TokenBias { id, bias }).collect(),
        }
    }
}

fn grammar(mut grammar: Value) -> Grammar {
    let value = grammar.get_mut("value").map(Value::take).unwrap_or_default();
    match (grammar["type"].as_str(), value) {
        (Some("regex"), Value::String(regex)) => Grammar::Regex(regex),
        (_, schema) => Grammar::JsonSchema(schema),
    }
}
