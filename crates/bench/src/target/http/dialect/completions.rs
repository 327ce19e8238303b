//! OpenAI: /v1/completions.

use super::super::parameters::{openai, text};
use super::openai::OpenAiAnswers;
use super::{Answers, HttpDialect};
use crate::dataset::Request;
use crate::target::TargetError;
use serde_json::{Value, json};

pub(super) struct Completions;

impl HttpDialect for Completions {
    fn route(&self, _: &str, _: bool) -> String {
        "/v1/completions".to_owned()
    }

    fn body(&self, request: &Request, model: &str, stream: bool) -> Result<Value, TargetError> {
        let mut body = openai(request, model, stream);
        body["prompt"] = json!(text(request)?);
        Ok(body)
    }

    fn answers(&self) -> &'static dyn Answers {
        &OpenAiAnswers
    }
}
