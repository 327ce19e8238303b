//! Fields that change what is generated, and that are not served: they are refused by name, as an answer that leaves them out
//! would look as if it had them.

use super::error::Failure;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// Each with what is so.
const UNSUPPORTED: [(&str, &str); 19] = [
    ("suffix", "the model continues texts and fills no gaps"),
    ("use_beam_search", "tokens are drawn, or the most probable ones"),
    ("prompt_embeds", "prompts are texts or token ids"),
    ("prompt_logprobs", "use `echo` with `logprobs` of /v1/completions"),
    ("allowed_token_ids", "use `logit_bias`"),
    ("logprob_token_ids", "log-probabilities are those of the most probable tokens"),
    ("truncation_side", "prompts lose their beginning, which is `left`"),
    ("watermarking", "use `watermark` of /generate"),
    ("repetition_detection", "use `repetition_penalty`"),
    ("bad_words", "use `logit_bias`"),
    ("logits_processors", "code of clients is not run"),
    ("guided_json", "use `response_format`"),
    ("guided_regex", "use `response_format`"),
    ("guided_choice", "use `response_format`"),
    ("guided_grammar", "use `response_format`"),
    ("structured_outputs", "use `response_format`"),
    ("audio", "the model makes text alone"),
    ("mm_processor_kwargs", "the model takes text alone"),
    ("modalities", "the model makes text alone"),
];

/// The first such field of a request. Those that are null, false or empty ask for nothing.
struct First(Option<&'static (&'static str, &'static str)>);

/// Refuses a request that has such a field.
pub(crate) fn check(body: &[u8]) -> Result<(), Failure> {
    // What is no object is refused by whoever reads the rest.
    match serde_json::from_slice(body) {
        Ok(First(Some((field, why)))) => Err(Failure::unsupported(field, why)),
        _ => Ok(()),
    }
}

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = First;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<First, A::Error> {
        let mut first = None;
        while let Some(key) = map.next_key::<String>()? {
            match UNSUPPORTED.iter().find(|(field, _)| *field == key) {
                Some(found) => {
                    let asks = asks(found.0, &map.next_value()?);
                    first = first.or(asks.then_some(found));
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(First(first))
    }
}

fn asks(field: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty() && (field, text.as_str()) != ("truncation_side", "left"),
        Value::Array(list) if field == "modalities" => list.iter().any(|modality| modality != "text"),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(body: &Value) -> bool {
        check(body.to_string().as_bytes()).is_err()
    }

    #[test]
    fn each_is_refused_unless_it_asks_for_nothing() {
        for (field, _) in UNSUPPORTED {
            assert!(refused(&json!({"a": [1, {}], field: ["x"]})), "{field}");
            for nothing in [json!(null), json!(false), json!(""), json!([]), json!({})] {
                assert!(!refused(&json!({ field: nothing })), "{field}");
            }
        }
        assert!(!refused(&json!({"modalities": ["text"]})));
        assert!(refused(&json!({"modalities": ["text", "audio"]})));
        assert!(!refused(&json!({"truncation_side": "left"})) && refused(&json!({"truncation_side": "right"})));
        assert!(!refused(&json!({"store": true, "metadata": {"a": "b"}})));
    }
}
