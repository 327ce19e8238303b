//! The headers of TGI's answers: what was asked for, and what it took.

use super::Inputs;
use crate::Service;
use api::Answer;
use axum::http::HeaderMap;
use axum::http::header::{HeaderName, HeaderValue};
use std::time::Duration;

/// `x-compute-type` and `x-compute-characters`, which streams have, too.
pub(crate) struct Compute {
    kind: HeaderValue,
    characters: HeaderValue,
}

impl Compute {
    pub(crate) fn new(service: &Service, inputs: &Inputs) -> Self {
        let is_gpu = service.info().backend == "cuda";
        let characters = match inputs {
            Inputs::Text(text) => text.chars().count(),
            Inputs::Ids(_) => 0,
        };
        Self {
            kind: HeaderValue::from_static(if is_gpu { "gpu+optimized" } else { "cpu+optimized" }),
            characters: characters.into(),
        }
    }

    pub(crate) fn into_headers(self) -> HeaderMap {
        HeaderMap::from_iter([
            (HeaderName::from_static("x-compute-type"), self.kind),
            (HeaderName::from_static("x-compute-characters"), self.characters),
        ])
    }
}

/// What a whole answer took, in milliseconds, and its tokens: those of the prompt and of the first continuation.
pub(crate) fn measured(answer: &Answer) -> HeaderMap {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let timings = answer.timings;
    let generated = answer.completions.first().map_or(0, |completion| completion.tokens.len());
    let total = milliseconds(timings.total());
    let values = [
        ("x-compute-time", total),
        ("x-total-time", total),
        ("x-validation-time", milliseconds(timings.validation)),
        ("x-queue-time", milliseconds(timings.queue)),
        ("x-inference-time", milliseconds(timings.inference)),
        ("x-time-per-token", milliseconds(timings.inference / u32::try_from(generated.max(1)).unwrap_or(u32::MAX))),
        ("x-prompt-tokens", answer.prompt.len() as u64),
        ("x-generated-tokens", generated as u64),
    ];
    values.into_iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from(value))).collect()
}
