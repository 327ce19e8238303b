//! `POST /tokenize` as TGI has it and as vLLM has it, vLLM's `POST /detokenize`, and TGI's `POST /chat_tokenize`.

use crate::dialects::openai::{ChatRequest, conversation};
use crate::{Error, Service};
use serde::{Deserialize, Serialize};

/// What is to be cut into tokens: TGI's body, or one of vLLM's two. Other keys are ignored.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(untagged, expecting = "missing field `inputs`, a string")]
pub(crate) enum TokenizeRequest {
    Tgi {
        inputs: String,
    },
    Vllm {
        prompt: String,
        /// With the tokens that the tokenizer puts around a text; yes.
        add_special_tokens: Option<bool>,
        return_token_strs: Option<bool>,
    },
    VllmChat(Box<TokenizeChat>),
}

/// A conversation whose prompt is cut into tokens.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
pub(crate) struct TokenizeChat {
    #[serde(flatten)]
    chat: ChatRequest,
    /// With the tokens that the tokenizer puts around a text; no.
    add_special_tokens: Option<bool>,
    return_token_strs: Option<bool>,
}

/// The answer of the same kind.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(untagged)]
pub(crate) enum TokenizeResponse {
    Tgi(Vec<SimpleToken>),
    Vllm {
        count: usize,
        max_model_len: usize,
        tokens: Vec<u32>,
        /// The tokens as the vocabulary spells them, if they were asked for.
        token_strs: Option<Vec<String>>,
    },
}

/// Tokens whose text is wanted. Other keys are ignored.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
pub(crate) struct DetokenizeRequest {
    tokens: Vec<u32>,
}

/// Their text, special tokens included.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DetokenizeResponse {
    prompt: String,
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

/// Tokenizes a text, or the prompt of a conversation.
pub(crate) async fn tokenize(service: &Service, request: TokenizeRequest) -> Result<TokenizeResponse, Error> {
    Ok(match request {
        TokenizeRequest::Tgi { inputs } => {
            let tokens = service.tokenize(inputs, true).await?;
            TokenizeResponse::Tgi(tokens.into_iter().map(SimpleToken::from).collect())
        }
        TokenizeRequest::Vllm { prompt, add_special_tokens, return_token_strs } => {
            let tokens = service.tokenize(prompt, add_special_tokens.unwrap_or(true)).await?;
            vllm_response(service, &tokens, return_token_strs)
        }
        TokenizeRequest::VllmChat(request) => {
            let TokenizeChat { chat, add_special_tokens, return_token_strs } = *request;
            let add_special_tokens = add_special_tokens.unwrap_or(false);
            let (_, tokens) = service.tokenize_conversation(conversation(chat), add_special_tokens).await?;
            vllm_response(service, &tokens, return_token_strs)
        }
    })
}

fn vllm_response(service: &Service, tokens: &[text::Token], return_token_strs: Option<bool>) -> TokenizeResponse {
    let spelling = |token: &text::Token| service.tokenizer().spelling(token.id).unwrap_or_default();
    TokenizeResponse::Vllm {
        count: tokens.len(),
        max_model_len: service.info().limits.max_total_tokens,
        tokens: tokens.iter().map(|token| token.id).collect(),
        token_strs: (return_token_strs == Some(true)).then(|| tokens.iter().map(spelling).collect()),
    }
}

/// The text of tokens.
pub(crate) fn detokenize(service: &Service, request: &DetokenizeRequest) -> Result<DetokenizeResponse, Error> {
    Ok(DetokenizeResponse { prompt: service.detokenize(&request.tokens, false)? })
}

/// Tokenizes the prompt of a conversation.
pub(crate) async fn tokenize_chat(service: &Service, chat: ChatRequest) -> Result<ChatTokenizeResponse, Error> {
    let (templated_text, tokens) = service.tokenize_conversation(conversation(chat), false).await?;
    let tokenize_response = tokens.into_iter().map(SimpleToken::from).collect();
    Ok(ChatTokenizeResponse { tokenize_response, templated_text, stop: service.chat_stops().to_vec() })
}
