//! `POST /tokenize`, as TGI has it, and as vLLM's benchmark asks for it, and `POST /chat_tokenize`.

use crate::dialects::openai::{ChatRequest, conversation};
use crate::{Error, Service};
use serde::{Deserialize, Serialize};

/// A text whose tokens are wanted: TGI's body or vLLM's. Other keys are ignored.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(untagged, expecting = "missing field `inputs`, a string")]
pub(crate) enum TokenizeRequest {
    Tgi { inputs: String },
    Vllm { prompt: String },
}

/// The answer of the same kind.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(untagged)]
pub(crate) enum TokenizeResponse {
    Tgi(Vec<SimpleToken>),
    Vllm { count: usize, max_model_len: usize, tokens: Vec<u32> },
}

/// A token of a text.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct SimpleToken {
    id: u32,
    text: String,
    /// In characters, not bytes.
    start: usize,
    stop: usize,
}

/// The prompt that a conversation makes.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ChatTokenizeResponse {
    tokenize_response: Vec<SimpleToken>,
    templated_text: String,
    /// Texts that end an answer in this format, beside those of a request. Not part of TGI's.
    stop: Vec<String>,
}

impl From<text::Token> for SimpleToken {
    fn from(text::Token { id, text, start, stop }: text::Token) -> Self {
        Self { id, text, start, stop }
    }
}

/// Tokenizes a text.
pub(crate) async fn tokenize(service: &Service, request: TokenizeRequest) -> Result<TokenizeResponse, Error> {
    Ok(match request {
        TokenizeRequest::Tgi { inputs } => {
            let tokens = service.tokenize(inputs).await?;
            TokenizeResponse::Tgi(tokens.into_iter().map(SimpleToken::from).collect())
        }
        TokenizeRequest::Vllm { prompt } => {
            let tokens: Vec<u32> = service.tokenize(prompt).await?.iter().map(|token| token.id).collect();
            let max_model_len = service.info().limits.max_total_tokens;
            TokenizeResponse::Vllm { count: tokens.len(), max_model_len, tokens }
        }
    })
}

/// Tokenizes the prompt of a conversation.
pub(crate) async fn tokenize_chat(service: &Service, chat: ChatRequest) -> Result<ChatTokenizeResponse, Error> {
    let (templated_text, tokens) = service.tokenize_conversation(conversation(chat)).await?;
    let tokenize_response = tokens.into_iter().map(SimpleToken::from).collect();
    Ok(ChatTokenizeResponse { tokenize_response, templated_text, stop: service.chat_stops().to_vec() })
}
