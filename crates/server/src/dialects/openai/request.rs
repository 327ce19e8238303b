//! What both kinds of requests have in common. Keys that are not here are ignored, and null is the default everywhere.

use super::error::Failure;
use super::logprobs::Spelling;
use super::response::UsageEvents;
use api::{Grammar, Limits, Prompt, Request, Sampling, Stop, TokenBias};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use text::Tokenizer;

/// Below it tokens are not drawn, as in vLLM.
const TEMPERATURE_MIN: f32 = 1e-5;
/// An error names at most so many keys.
const KEYS_TOLD: usize = 8;

/// The parameters that completions and chats share: OpenAI's, and vLLM's that are not OpenAI's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, utoipa::ToSchema)]
#[schema(as = openai::Parameters)]
pub struct Parameters {
    /// Any name is the one model's.
    pub model: Option<String>,
    /// Continuations of each prompt; 1.
    pub n: Option<usize>,
    /// The answer is wanted token by token.
    pub stream: Option<bool>,
    /// How.
    pub stream_options: Option<StreamOptions>,
    /// Logits are divided by it; 1. With 0, each token is the most probable one; else they are drawn.
    pub temperature: Option<f32>,
    /// Draw from the most probable tokens up to this mass; 1 is all.
    pub top_p: Option<f32>,
    /// Draw from so many of the most probable tokens; 0 and -1 are all. vLLM's.
    pub top_k: Option<i64>,
    /// Draw from tokens at least so probable, as a share of the most probable one's; 0. vLLM's.
    pub min_p: Option<f32>,
    /// Logits of generated tokens lose this; 0.
    pub presence_penalty: Option<f32>,
    /// Logits lose this for each time that the token has been generated; 0.
    pub frequency_penalty: Option<f32>,
    /// Logits of tokens seen before, the prompt's too, are divided by it, or multiplied where negative; 1. vLLM's.
    pub repetition_penalty: Option<f32>,
    /// What is added to the logits of tokens, by their ids; none.
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Of the draws; a random one.
    pub seed: Option<Seed>,
    /// Texts that end a continuation, and are not in the answer; none.
    pub stop: Option<StopStrings>,
    /// Tokens that end a continuation; none. vLLM's.
    pub stop_token_ids: Option<Vec<u32>>,
    /// A text that ended a continuation is in the answer; no. vLLM's.
    pub include_stop_str_in_output: Option<bool>,
    /// Go on after the end-of-text token; no. vLLM's.
    pub ignore_eos: Option<bool>,
    /// Nothing but the length ends a continuation before so many tokens; 0. vLLM's.
    pub min_tokens: Option<u32>,
    /// Keep so many tokens from the end of the prompt; -1 is as many as a prompt may have; all. vLLM's.
    pub truncate_prompt_tokens: Option<i64>,
    /// Put the tokens before and behind a text that the tokenizer's post-processor adds; completions: yes. vLLM's.
    pub add_special_tokens: Option<bool>,
    /// What the text must follow; anything.
    pub response_format: Option<ResponseFormat>,
    /// Answer with the ids of the prompt's tokens and of the generated ones; no. vLLM's.
    pub return_token_ids: Option<bool>,
    /// Log-probabilities spell tokens as `token_id:N`; no. vLLM's.
    pub return_tokens_as_token_ids: Option<bool>,
}

/// How a stream is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
pub struct StreamOptions {
    /// An event of its own, before the end, has the usage; no.
    pub include_usage: Option<bool>,
    /// With that, every event has the usage so far; no. vLLM's.
    pub continuous_usage_stats: Option<bool>,
}

/// A seed. vLLM takes signed ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(untagged, expecting = "expected an integer of 64 bits")]
pub enum Seed {
    /// Within 0 and 2^64 - 1.
    Unsigned(u64),
    /// Its bits are the seed.
    Signed(i64),
}

/// Texts that end a continuation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum StopStrings {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

/// What a text must follow.
#[derive(Clone, Debug, PartialEq, Deserialize, utoipa::ToSchema)]
pub struct ResponseFormat {
    /// `text`, `json_object`, `json_schema`, or Text Generation Inference's `json` and `regex`.
    #[serde(rename = "type")]
    pub kind: String,
    /// OpenAI's schema, as `{"schema": …}`.
    pub json_schema: Option<Value>,
    /// The schema or the expression, as Text Generation Inference has it.
    pub value: Option<Value>,
}

/// A part of a request's body.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let not_json = |cause: &serde_json::Error| Failure::invalid(None, None, format!("the body is not JSON: {cause}"));
    let read = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        if !cause.is_data() {
            return not_json(&cause);
        }
        let message = cause.to_string();
        let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        let (param, code) = match (missing, &*path) {
            (Some(field), ".") => (Some(field.to_owned()), "missing_required_parameter"),
            (Some(field), of) => (Some(format!("{of}.{field}")), "missing_required_parameter"),
            (None, ".") => (None, "invalid_type"),
            (None, of) => (Some(of.to_owned()), "invalid_type"),
        };
        let place = param.as_ref().map_or_else(|| "the body".to_owned(), |param| format!("`{param}`"));
        Failure::invalid(param, Some(code), format!("{place}: {message}"))
    })?;
    deserializer.end().map_err(|cause| not_json(&cause))?;
    Ok(read)
}

impl Parameters {
    /// Whether the answer is wanted token by token.
    pub(crate) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Which events of a stream have the usage.
    pub(crate) fn usage_events(&self) -> Result<UsageEvents, Failure> {
        match self.stream_options {
            Some(_) if !self.streams() => {
                let message = "`stream_options` needs `stream` to be true".to_owned();
                Err(Failure::invalid("stream_options".to_owned(), Some("invalid_value"), message))
            }
            Some(StreamOptions { include_usage: Some(true), continuous_usage_stats: Some(true) }) => {
                Ok(UsageEvents::All)
            }
            Some(StreamOptions { include_usage: Some(true), .. }) => Ok(UsageEvents::Last),
            _ => Ok(UsageEvents::None),
        }
    }

    /// How log-probabilities spell tokens.
    pub(crate) fn spelling(&self, tokenizer: &Tokenizer) -> Spelling {
        Spelling { tokenizer: tokenizer.clone(), as_ids: self.return_tokens_as_token_ids.unwrap_or(false) }
    }

    /// What is asked for, but for what the two kinds of requests have each on its own.
    pub(crate) fn translate(self, prompt: Prompt, limits: &Limits) -> Result<Request, Failure> {
        let truncate = match self.truncate_prompt_tokens {
            Some(-1) => Some(limits.max_input_length),
            // What is less than -1 is out of the range that the limits give.
            other => other.map(|tokens| usize::try_from(tokens).unwrap_or(0)),
        };
        let sampling = self.sampling()?;
        let strings = match self.stop {
            None => Vec::new(),
            Some(StopStrings::One(stop)) => vec![stop],
            Some(StopStrings::Several(stops)) => stops,
        };
        Ok(Request {
            truncate,
            n: self.n.unwrap_or(1),
            sampling,
            stop: Stop {
                strings,
                keep_string: self.include_stop_str_in_output.unwrap_or(false),
                ignore_eos: self.ignore_eos.unwrap_or(false),
                token_ids: self.stop_token_ids.unwrap_or_default(),
                min_tokens: self.min_tokens.unwrap_or(0),
            },
            add_special_tokens: self.add_special_tokens.unwrap_or(true),
            grammar: self.response_format.map(ResponseFormat::grammar).transpose()?.flatten(),
            ..Request::new(prompt)
        })
    }

    fn sampling(&self) -> Result<Sampling, Failure> {
        let temperature = self.temperature.unwrap_or(1.0);
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(out_of_range("temperature", "at least 0"));
        }
        let top_k = match self.top_k {
            None | Some(-1 | 0) => None,
            Some(k) => match u32::try_from(k.min(i64::from(u32::MAX))) {
                Ok(k) => Some(k),
                Err(_) => return Err(out_of_range("top_k", "at least 1, or 0 or -1 for all tokens")),
            },
        };
        let draw = temperature >= TEMPERATURE_MIN;
        Ok(Sampling {
            draw,
            seed: self.seed.map(Seed::bits),
            temperature: draw.then_some(temperature),
            top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.as_ref().map(biases).transpose()?.unwrap_or_default(),
            ..Sampling::default()
        })
    }
}

impl Seed {
    fn bits(self) -> u64 {
        match self {
            Self::Unsigned(seed) => seed,
            Self::Signed(seed) => seed.cast_unsigned(),
        }
    }
}

impl ResponseFormat {
    fn grammar(self) -> Result<Option<Grammar>, Failure> {
        let Self { kind, json_schema, value } = self;
        let lacks = |key: &str| {
            let param = format!("response_format.{key}");
            let message = format!("`{param}` is missing, which `{kind}` needs");
            Failure::invalid(param, Some("missing_required_parameter"), message)
        };
        match &*kind {
            "text" => Ok(None),
            "json_object" => Ok(Some(Grammar::JsonSchema(value.unwrap_or_else(|| json!({"type": "object"}))))),
            "json_schema" => {
                let schema = json_schema.map(|mut of| of["schema"].take()).filter(|schema| !schema.is_null());
                Ok(Some(Grammar::JsonSchema(schema.or(value).ok_or_else(|| lacks("json_schema.schema"))?)))
            }
            "json" => Ok(Some(Grammar::JsonSchema(value.ok_or_else(|| lacks("value"))?))),
            "regex" => match value {
                Some(Value::String(regex)) => Ok(Some(Grammar::Regex(regex))),
                _ => Err(lacks("value")),
            },
            _ => Err(Failure::invalid(
                "response_format.type".to_owned(),
                Some("invalid_value"),
                format!("`response_format.type` must be text, json_object or json_schema, and is `{kind}`"),
            )),
        }
    }
}

/// The biases of tokens. Keys that are no ids are told together, as far as they are few.
fn biases(given: &BTreeMap<String, f32>) -> Result<Vec<TokenBias>, Failure> {
    let (mut biases, mut wrong) = (Vec::new(), Vec::new());
    for (key, &bias) in given {
        match key.parse() {
            Ok(id) => biases.push(TokenBias { id, bias }),
            Err(_) => wrong.push(format!("{key:?}")),
        }
    }
    if wrong.is_empty() {
        return Ok(biases);
    }
    wrong.truncate(KEYS_TOLD);
    let message = format!("the keys of `logit_bias` must be token ids. Given: {}", wrong.join(", "));
    Err(Failure::invalid("logit_bias".to_owned(), Some("invalid_value"), message))
}

fn out_of_range(param: &str, range: &str) -> Failure {
    Failure::invalid(param.to_owned(), Some("invalid_value"), format!("`{param}` must be {range}"))
}
