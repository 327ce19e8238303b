//! Whether an answer ended as its dialect says. Pure.

use super::super::error::shortened;
use super::dialect::{Answers, Progress, error_in, parsed};
use super::{Record, TargetError};
use serde_json::Value;

/// An answer as far as it has come.
pub(super) struct Answer {
    answers: &'static dyn Answers,
    /// The key of the last event with tokens has come.
    finished: bool,
    /// OpenAI's `[DONE]` has come, or is not to come.
    done: bool,
}

impl Answer {
    pub(super) fn new(answers: &'static dyn Answers) -> Self {
        Self { answers, finished: false, done: !answers.has_done() }
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
        let progress = self.answers.event(data, record)?;
        self.advance(progress, data)
    }

    /// Takes an answer that came in one piece.
    pub(super) fn whole(&mut self, body: &str, record: &mut Record) -> Result<(), TargetError> {
        let progress = self.answers.whole(body, record)?;
        self.done = true;
        self.advance(progress, body)
    }

    fn advance(&mut self, progress: Progress, text: &str) -> Result<(), TargetError> {
        match progress {
            Progress::Going => {}
            Progress::Finished => self.finished = true,
            // An error may have the shape of another dialect.
            Progress::Unknown => {
                if let Some(error) = error_in(&parsed::<Value>(text)?) {
                    return Err(TargetError::Reported(shortened(&error)));
                }
            }
        }
        Ok(())
    }

    /// Whether the answer was complete, once no more comes.
    pub(super) fn end(self) -> Result<(), TargetError> {
        let missing = match (self.finished, self.done) {
            (true, true) => return Ok(()),
            (false, _) => self.answers.last_key(),
            (true, false) => "data: [DONE]",
        };
        Err(TargetError::incomplete(format!("`{missing}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Dialect;
    use super::super::dialect::over_http;
    use super::*;

    /// Takes these events, each with its type if it has one, then the end.
    fn ends(dialect: Dialect, events: &[(&str, &str)]) -> (Record, Result<(), String>) {
        let answers = over_http(dialect).expect("one over HTTP").answers();
        let (mut answer, mut record) = (Answer::new(answers), Record::new(None));
        for (kind, data) in events {
            let kind = (!kind.is_empty()).then_some(*kind);
            if let Err(error) = answer.event(kind, data, &mut record) {
                return (record, Err(error.to_string()));
            }
        }
        (record, answer.end().map_err(|error| error.to_string()))
    }

    fn incomplete(missing: &str) -> Result<(), String> {
        Err(format!("incomplete answer: {missing} is missing"))
    }

    #[test]
    fn an_answer_of_tgi_ends_with_its_text() {
        let (token, last) =
            (r#"{"token": {"id": 5}, "generated_text": null}"#, r#"{"token": {"id": 6}, "generated_text": "ab"}"#);
        let (record, result) = ends(Dialect::Tgi, &[("", token), ("", last)]);
        assert_eq!((result, record.ids), (Ok(()), vec![5, 6]));
        assert_eq!(ends(Dialect::Tgi, &[("", token)]).1, incomplete("`generated_text`"));
        assert_eq!(ends(Dialect::Tgi, &[]).1, incomplete("`generated_text`"));
    }

    #[test]
    fn an_answer_of_openai_ends_with_its_reason_and_done() {
        let completion = (
            r#"{"choices": [{"text": "a", "finish_reason": null}]}"#,
            r#"{"choices": [{"text": "b", "finish_reason": "length"}]}"#,
        );
        let chat = (
            r#"{"choices": [{"delta": {"role": "assistant", "content": "a"}, "finish_reason": null}]}"#,
            r#"{"choices": [{"delta": {"content": "b"}, "finish_reason": "length"}]}"#,
        );
        let usage = r#"{"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}}"#;
        for (dialect, (text, last)) in [(Dialect::OpenAi, completion), (Dialect::OpenAiChat, chat)] {
            let (record, result) = ends(dialect, &[("", text), ("", last), ("", usage), ("", "[DONE]")]);
            assert_eq!((result, record.arrivals.len(), record.generated()), (Ok(()), 2, 3));
            let (record, result) = ends(dialect, &[("", text), ("", last), ("", "[DONE]")]);
            assert_eq!((result, record.counts.output_tokens, record.generated()), (Ok(()), None, 2));
            assert_eq!(ends(dialect, &[("", text), ("", last)]).1, incomplete("`data: [DONE]`"));
            assert_eq!(ends(dialect, &[("", text), ("", "[DONE]")]).1, incomplete("`finish_reason`"));
            assert_eq!(ends(dialect, &[]).1, incomplete("`finish_reason`"));
        }
    }

    #[test]
    fn chunks_without_text_are_no_tokens() {
        let role = r#"{"choices": [{"delta": {"role": "assistant", "content": ""}}]}"#;
        let text = r#"{"choices": [{"delta": {"content": "a\u2028"}}]}"#;
        let end = r#"{"choices": [{"delta": {}, "finish_reason": "stop"}]}"#;
        let (record, result) = ends(Dialect::OpenAiChat, &[("", role), ("", text), ("", end), ("", "[DONE]")]);
        assert_eq!((result, record.arrivals.len()), (Ok(()), 1));
    }

    #[test]
    fn an_error_in_any_shape_is_one() {
        let shapes = [
            ("", r#"{"error": "gone", "error_type": "generation"}"#, "gone"),
            ("", r#"{"error": {"message": "gone", "code": 500}, "error_type": "generation"}"#, "gone"),
            ("", r#"{"error": {"code": 500}}"#, r#"{"code":500}"#),
            ("", r#"{"object": "error", "message": "gone", "code": 500}"#, "gone"),
            ("", r#"{"Message": "gone"}"#, "gone"),
            ("", r#"{"error": "gone", "token": {"id": 1}, "choices": [{"text": "a"}]}"#, "gone"),
            ("error", "gone", "gone"),
            ("error", r#"{"error": "gone"}"#, "gone"),
        ];
        for dialect in Dialect::ALL.into_iter().filter(|&dialect| dialect != Dialect::Grpc) {
            for (kind, data, said) in shapes {
                let expected = Err(format!("error in the answer: {said}"));
                assert_eq!(ends(dialect, &[(kind, data)]).1, expected, "{dialect:?}: {data}");
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
