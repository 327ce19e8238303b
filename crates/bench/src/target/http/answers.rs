//! What an answer's events mean, and whether it ended as its protocol says. Pure.

use super::super::error::shortened;
use super::{Record, TargetError, parsed};
use serde_json::Value;

/// Whose events these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Tgi,
    OpenAi,
}

/// An answer as far as it has come.
pub(super) struct Answer {
    dialect: Dialect,
    /// TGI's `generated_text`, or OpenAI's `finish_reason`, has come.
    finished: bool,
    /// OpenAI's `[DONE]` has come, or is not to come.
    done: bool,
}

impl Answer {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self { dialect, finished: false, done: dialect == Dialect::Tgi }
    }

    /// Takes a server-sent event.
    pub(super) fn event(&mut self, kind: Option<&str>, data: &str, record: &mut Record) -> Result<(), TargetError> {
        if kind == Some("error") {
            let said = serde_json::from_str(data).ok().and_then(|data| error_in(&data));
            return Err(TargetError::Reported(shortened(said.as_deref().unwrap_or(data))));
        }
        if data.trim() == "[DONE]" {
            self.done = true;
            return Ok(());
        }
        let event = parsed(data)?;
        self.finish(&event)?;
        let is_token = match self.dialect {
            Dialect::Tgi => !event["token"].is_null(),
            Dialect::OpenAi => event["choices"][0]["text"].as_str().is_some_and(|text| !text.is_empty()),
        };
        if is_token {
            record.arrived(1);
        }
        record.ids.extend(id(&event["token"]));
        note(&event, record);
        Ok(())
    }

    /// Takes an answer that came in one piece.
    pub(super) fn whole(&mut self, answer: &Value, record: &mut Record) -> Result<(), TargetError> {
        self.finish(answer)?;
        self.done = true;
        record.ids = answer["details"]["tokens"].as_array().into_iter().flatten().filter_map(id).collect();
        note(answer, record);
        Ok(())
    }

    /// Whether the answer was complete, once no more comes.
    pub(super) fn end(self) -> Result<(), TargetError> {
        let missing = match (self.dialect, self.finished, self.done) {
            (_, true, true) => return Ok(()),
            (Dialect::Tgi, ..) => "`generated_text`",
            (Dialect::OpenAi, false, _) => "`finish_reason`",
            (Dialect::OpenAi, true, false) => "`data: [DONE]`",
        };
        Err(TargetError::Incomplete { missing })
    }

    /// Looks for an error, then for the end.
    fn finish(&mut self, event: &Value) -> Result<(), TargetError> {
        if let Some(error) = error_in(event) {
            return Err(TargetError::Reported(shortened(&error)));
        }
        let reason = &event["choices"][0]["finish_reason"];
        match (self.dialect, reason.as_str()) {
            (Dialect::Tgi, _) => self.finished |= event["generated_text"].is_string(),
            // vLLM's words for an answer that it gave up.
            (Dialect::OpenAi, Some("abort" | "error")) => {
                return Err(TargetError::Reported(format!("finish_reason is {reason}")));
            }
            (Dialect::OpenAi, reason) => self.finished |= reason.is_some(),
        }
        Ok(())
    }
}

/// The text of the error that a body or an event holds: `{"error": "…"}`, `{"error": {"message": "…"}}`, or
/// `{"object": "error", "message": "…"}`.
pub(super) fn error_in(said: &Value) -> Option<String> {
    let error = &said["error"];
    let error = match error {
        Value::Null if said["object"] == "error" => said,
        Value::Null => return None,
        error => error,
    };
    let message = error.as_str().or_else(|| error["message"].as_str());
    Some(message.map_or_else(|| error.to_string(), str::to_owned))
}

fn id(token: &Value) -> Option<u32> {
    u32::try_from(token["id"].as_u64()?).ok()
}

/// What the server counted itself, in TGI's details or OpenAI's usage.
fn note(answer: &Value, record: &mut Record) {
    let (details, usage) = (&answer["details"], &answer["usage"]);
    let count = |values: &[&Value]| values.iter().find_map(|value| u32::try_from(value.as_u64()?).ok());
    let input = count(&[&details["prompt_tokens"], &details["input_length"], &usage["prompt_tokens"]]);
    let output = count(&[&details["generated_tokens"], &usage["completion_tokens"]]);
    let cached = count(&[&details["cached_tokens"], &usage["prompt_tokens_details"]["cached_tokens"]]);
    record.input_tokens = input.or(record.input_tokens);
    record.output_tokens = output.or(record.output_tokens);
    record.cached_tokens = cached.unwrap_or(record.cached_tokens);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes these events, each with its type if it has one, then the end.
    fn ends(dialect: Dialect, events: &[(&str, &str)]) -> (Record, Result<(), String>) {
        let (mut answer, mut record) = (Answer::new(dialect), Record::new());
        for (kind, data) in events {
            let kind = (!kind.is_empty()).then_some(*kind);
            if let Err(error) = answer.event(kind, data, &mut record) {
                return (record, Err(error.to_string()));
            }
        }
        (record, answer.end().map_err(|error| error.to_string()))
    }

    #[test]
    fn an_answer_ends_as_its_protocol_ends() {
        let (token, last) =
            (r#"{"token": {"id": 5}, "generated_text": null}"#, r#"{"token": {"id": 6}, "generated_text": "ab"}"#);
        let (record, result) = ends(Dialect::Tgi, &[("", token), ("", last)]);
        assert_eq!((result, record.ids), (Ok(()), vec![5, 6]));
        let incomplete = |missing: &str| Err(format!("incomplete answer: {missing} is missing"));
        assert_eq!(ends(Dialect::Tgi, &[("", token)]).1, incomplete("`generated_text`"));
        assert_eq!(ends(Dialect::Tgi, &[]).1, incomplete("`generated_text`"));

        let text = r#"{"choices": [{"text": "a", "finish_reason": null}]}"#;
        let last = r#"{"choices": [{"text": "b", "finish_reason": "length"}]}"#;
        let usage = r#"{"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}}"#;
        let (record, result) = ends(Dialect::OpenAi, &[("", text), ("", last), ("", usage), ("", "[DONE]")]);
        assert_eq!((result, record.arrivals.len(), record.generated()), (Ok(()), 2, 3));
        assert_eq!(ends(Dialect::OpenAi, &[("", text), ("", last)]).1, incomplete("`data: [DONE]`"));
        assert_eq!(ends(Dialect::OpenAi, &[("", text), ("", "[DONE]")]).1, incomplete("`finish_reason`"));
        assert_eq!(ends(Dialect::OpenAi, &[]).1, incomplete("`finish_reason`"));
    }

    #[test]
    fn an_error_in_any_shape_is_one() {
        let shapes = [
            ("", r#"{"error": "gone", "error_type": "generation"}"#, "gone"),
            ("", r#"{"error": {"message": "gone", "code": 500}}"#, "gone"),
            ("", r#"{"error": {"code": 500}}"#, r#"{"code":500}"#),
            ("", r#"{"object": "error", "message": "gone", "code": 500}"#, "gone"),
            ("error", "gone", "gone"),
            ("error", r#"{"error": "gone"}"#, "gone"),
        ];
        for dialect in [Dialect::Tgi, Dialect::OpenAi] {
            for (kind, data, said) in shapes {
                let expected = Err(format!("error in the answer: {said}"));
                assert_eq!(ends(dialect, &[(kind, data)]).1, expected, "{data}");
            }
            let unreadable = ends(dialect, &[("", "{")]).1.expect_err("no JSON");
            assert!(unreadable.starts_with("unexpected answer: EOF"), "{unreadable}");
        }
        let aborted = r#"{"choices": [{"text": "", "finish_reason": "abort"}]}"#;
        let expected = Err(r#"error in the answer: finish_reason is "abort""#.to_owned());
        assert_eq!(ends(Dialect::OpenAi, &[("", aborted)]).1, expected);
        // An error after the end is an error, too.
        let ended = (("", r#"{"generated_text": "a"}"#), ("", r#"{"error": "late"}"#));
        assert!(ends(Dialect::Tgi, &[ended.0, ended.1]).1.is_err());
    }
}
