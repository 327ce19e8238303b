//! A container on SageMaker: /invocations, with TGI's bodies.

use super::tgi::{Tgi, TgiAnswers};
use super::{Answers, HttpDialect};
use crate::dataset::Request;
use crate::target::TargetError;
use serde_json::{Value, json};

pub(super) struct SageMaker;

impl HttpDialect for SageMaker {
    fn route(&self, _: &str, _: bool) -> String {
        "/invocations".to_owned()
    }

    fn body(&self, request: &Request, model: &str, stream: bool) -> Result<Value, TargetError> {
        let mut body = Tgi.body(request, model, stream)?;
        body["stream"] = json!(stream);
        Ok(body)
    }

    fn answers(&self) -> &'static dyn Answers {
        &TgiAnswers
    }
}
