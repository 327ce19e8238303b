//! `POST /tokenize`, as TGI has it, and as vLLM's benchmark asks for it.

use crate::{Error, Service};
use serde::{Deserialize, Serialize};

/// A text whose tokens are wanted: TGI's body or vLLM's. Other keys are ignored.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "missing field `inputs`, a string")]
pub(crate) enum TokenizeRequest {
    Tgi { inputs: String },
    Vllm { prompt: String },
}

/// The answer of the same kind.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum TokenizeResponse {
    Tgi(Vec<SimpleToken>),
    Vllm { count: usize, max_model_len: usize, tokens: Vec<u32> },
}

/// A token of a text.
#[derive(Debug, Serialize)]
pub(crate) struct SimpleToken {
    id: u32,
    text: String,
    /// In characters, not bytes.
    start: usize,
    stop: usize,
}

/// Tokenizes.
pub(crate) async fn tokenize(service: &Service, request: TokenizeRequest) -> Result<TokenizeResponse, Error> {
    Ok(match request {
        TokenizeRequest::Tgi { inputs } => {
            let tokens = service.tokenize(inputs).await?.into_iter();
            let simple = |text::Token { id, text, start, stop }| SimpleToken { id, text, start, stop };
            TokenizeResponse::Tgi(tokens.map(simple).collect())
        }
        TokenizeRequest::Vllm { prompt } => {
            let tokens: Vec<u32> = service.tokenize(prompt).await?.iter().map(|token| token.id).collect();
            let max_model_len = service.info().limits.max_total_tokens;
            TokenizeResponse::Vllm { count: tokens.len(), max_model_len, tokens }
        }
    })
}
