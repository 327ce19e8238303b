//! TGI: /generate_stream, and /generate for whole answers.

use super::super::parameters::{put_optional, text};
use super::{Answers, HttpDialect, Progress, parsed, reported};
use crate::dataset::Request;
use crate::target::record::{Counts, Seen};
use crate::target::{Record, ServerInfo, TargetError};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

pub(super) struct Tgi;

impl HttpDialect for Tgi {
    fn route(&self, _: &str, stream: bool) -> String {
        if stream { "/generate_stream" } else { "/generate" }.to_owned()
    }

    fn body(&self, request: &Request, _: &str, _: bool) -> Result<Value, TargetError> {
        let mut parameters = json!({"max_new_tokens": request.parameters.max_new_tokens, "details": true});
        put_optional(&mut parameters, request);
        Ok(json!({"inputs": text(request)?, "parameters": parameters}))
    }

    fn answers(&self) -> &'static dyn Answers {
        &TgiAnswers
    }
}

/// The answers of TGI's routes and of SageMaker's.
pub(super) struct TgiAnswers;

#[derive(Deserialize)]
struct Answer {
    token: Option<Token>,
    generated_text: Option<IgnoredAny>,
    details: Option<Details>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Token {
    id: u32,
}

#[derive(Deserialize)]
struct Details {
    generated_tokens: Option<u32>,
    /// Peregrine's name, then TGI's.
    #[serde(alias = "input_length")]
    prompt_tokens: Option<u32>,
    cached_tokens: Option<u32>,
    #[serde(default)]
    tokens: Vec<Token>,
}

impl Answers for TgiAnswers {
    fn info_route(&self) -> &'static str {
        "/info"
    }

    fn info(&self, told: &Value) -> ServerInfo {
        ServerInfo::told(&told["model_id"], &[&told["version"], &told["model_dtype"]])
    }

    fn last_key(&self) -> &'static str {
        "generated_text"
    }

    fn has_done(&self) -> bool {
        false
    }

    fn event(&self, data: &str, record: &mut Record) -> Result<Progress, TargetError> {
        take(parsed(data)?, record)
    }

    /// An object, or a list of one.
    fn whole(&self, body: &str, record: &mut Record) -> Result<Progress, TargetError> {
        if !body.trim_start().starts_with('[') {
            return take(parsed(body)?, record);
        }
        let answers: Vec<Answer> = parsed(body)?;
        answers.into_iter().next().map_or(Ok(Progress::Unknown), |answer| take(answer, record))
    }
}

fn take(answer: Answer, record: &mut Record) -> Result<Progress, TargetError> {
    if let Some(error) = &answer.error {
        return Err(reported(error));
    }
    let is_known = answer.token.is_some();
    if let Some(token) = answer.token {
        record.arrived(1, Seen::Id(token.id));
        record.ids.push(token.id);
    }
    if let Some(details) = answer.details {
        record.note(Counts {
            input_tokens: details.prompt_tokens,
            cached_tokens: details.cached_tokens,
            output_tokens: details.generated_tokens,
        });
        record.ids.extend(details.tokens.into_iter().map(|token| token.id));
    }
    Ok(match (answer.generated_text, is_known) {
        (Some(_), _) => Progress::Finished,
        (None, true) => Progress::Going,
        (None, false) => Progress::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Parameters, Prompt};

    #[test]
    fn bodies_name_what_was_set() {
        let parameters = Parameters { max_new_tokens: 3, temperature: Some(0.5), ..Parameters::default() };
        let prompt = Prompt::Text("a".to_owned());
        let request = Request { prompt, parameters, ignore_eos: true, cancel_after: None };
        let expected = json!({"max_new_tokens": 3, "details": true, "temperature": 0.5, "ignore_eos": true});
        assert_eq!(Tgi.body(&request, "m", true).expect("text"), json!({"inputs": "a", "parameters": expected}));
    }

    #[test]
    fn a_whole_answer_is_an_object_or_a_list() {
        let answer = r#"{"generated_text": "ab", "details": {"generated_tokens": 2, "input_length": 7,
            "tokens": [{"id": 5}, {"id": 6}]}}"#;
        for body in [answer.to_owned(), format!("[{answer}]")] {
            let mut record = Record::new(None);
            assert_eq!(TgiAnswers.whole(&body, &mut record).expect("an answer"), Progress::Finished);
            assert_eq!((record.ids, record.counts.input_tokens), (vec![5, 6], Some(7)));
        }
        assert_eq!(TgiAnswers.whole("[]", &mut Record::new(None)).expect("a list"), Progress::Unknown);
    }
}
