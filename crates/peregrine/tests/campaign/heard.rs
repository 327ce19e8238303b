//! What has been heard of an answer, in a form in which answers can be compared.

use serde_json::Value;
use std::collections::BTreeMap;
use wire::generation as pb;

/// An answer, or its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// By their index.
    choices: BTreeMap<u64, Choice>,
    /// What comes at the end, or all of an answer that comes at once.
    end: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Choice {
    text: String,
    /// Each with its log-probability.
    tokens: Vec<String>,
    reason: Option<String>,
}

impl Heard {
    /// Nothing follows.
    pub fn is_whole(&self) -> bool {
        self.end.is_some()
    }

    /// How many tokens it has, as far as it came in parts.
    pub fn tokens(&self) -> usize {
        self.choices.values().map(|choice| choice.tokens.len()).sum()
    }

    /// Whether the answer `whole` may have begun like this.
    pub fn begins(&self, whole: &Self) -> bool {
        let begins = |(index, choice): (&u64, &Choice)| {
            whole.choices.get(index).is_some_and(|of| {
                of.text.starts_with(&choice.text)
                    && of.tokens.starts_with(&choice.tokens)
                    && (choice.reason.is_none() || choice == of)
            })
        };
        self.choices.iter().all(begins) && (self.end.is_none() || self == whole)
    }

    /// An answer that came at once.
    pub fn at_once(answer: String) -> Self {
        Self { end: Some(answer), ..Self::default() }
    }

    /// Hears a message of `GenerateStream`.
    pub fn grpc(&mut self, message: &pb::GenerateStreamResponse) {
        let choice = self.choices.entry(0).or_default();
        for (index, token) in message.tokens.iter().enumerate() {
            choice.text += &token.text;
            choice.tokens.push(format!("{token:?} {:?}", message.top_tokens.get(index)));
        }
        if let Some(text) = &message.generated_text {
            self.end = Some(format!("{text:?} {:?}", message.details.clone().map(cacheless)));
        }
    }

    /// Hears an event of TGI's.
    pub fn tgi(&mut self, event: &mut Value) {
        without_cached_tokens(event);
        let choice = self.choices.entry(0).or_default();
        choice.text += event["token"]["text"].as_str().unwrap_or_default();
        choice.tokens.push(format!("{} {}", event["index"], event["token"]));
        if !event["generated_text"].is_null() {
            self.end = Some(format!("{} {}", event["generated_text"], event["details"]));
        }
    }

    /// Hears an event of OpenAI's.
    pub fn openai(&mut self, event: &Value) {
        for part in event["choices"].as_array().into_iter().flatten() {
            let choice = self.choices.entry(part["index"].as_u64().unwrap_or(u64::MAX)).or_default();
            let text = part["text"].as_str().or(part["delta"]["content"].as_str());
            choice.text += text.unwrap_or_default();
            let probabilities = &part["logprobs"];
            let chat = probabilities["content"].as_array().into_iter().flatten().map(Value::to_string);
            choice.tokens.extend(chat);
            let tokens = probabilities["tokens"].as_array().map_or(0, Vec::len);
            choice.tokens.extend((0..tokens).map(|index| {
                let of = |key: &str| &probabilities[key][index];
                format!("{} {} {} {}", of("tokens"), of("token_logprobs"), of("top_logprobs"), of("text_offset"))
            }));
            choice.reason = part["finish_reason"].as_str().map(str::to_owned).or(choice.reason.take());
        }
    }

    /// Hears that the events are over.
    pub fn done(&mut self) {
        self.end = Some(String::new());
    }
}

/// What of a prompt was cached differs each time.
pub fn cacheless(details: pb::Details) -> pb::Details {
    pb::Details { cached_tokens: 0, ..details }
}

/// The same for an answer of TGI's.
pub fn without_cached_tokens(answer: &mut Value) {
    if let Some(details) = answer.get_mut("details").and_then(Value::as_object_mut) {
        details.remove("cached_tokens");
    }
}
