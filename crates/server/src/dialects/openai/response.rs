//! What a client gets.

use super::logprobs::{ChatLogprobs, CompletionLogprobs};
use crate::chat::unix_seconds;
use crate::{Service, TokenStream};
use api::{Answer, FinishReason};
use serde::Serialize;

/// What every answer and every event of a stream begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Head {
    /// Of the request.
    pub id: String,
    /// What kind of object it is.
    pub object: &'static str,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The model that answers, whatever name was asked for.
    pub model: String,
    /// What must be the same for a seed to draw the same: version, backend and tensor-parallel degree.
    pub system_fingerprint: String,
}

impl Head {
    pub(crate) fn new(id: String, object: &'static str, service: &Service) -> Self {
        let info = service.info();
        let version = env!("CARGO_PKG_VERSION");
        let system_fingerprint = format!("fp_{version}-{}-tp{}", info.backend, info.tensor_parallel);
        Self { id, object, created: unix_seconds(), model: info.model_id.clone(), system_fingerprint }
    }
}

/// A whole completion, or an event of its stream.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Completion {
    /// Its beginning; `object` is "text_completion".
    #[serde(flatten)]
    pub head: Head,
    /// The rest.
    #[serde(flatten)]
    pub body: CompletionBody,
}

/// What a completion has beside [`Head`].
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct CompletionBody {
    /// The continuations; in a stream a piece of one.
    pub choices: Vec<CompletionChoice>,
    /// The tokens. In a stream there if it was asked for, and null in all events but the last, unless all were to have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
}

/// A continuation of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct CompletionChoice {
    /// Which it is: those of the first prompt first.
    pub index: usize,
    /// Its text.
    pub text: String,
    /// If they were asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// "stop" or "length"; null in a stream before the end.
    pub finish_reason: Option<&'static str>,
    /// The ids of its tokens, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// And those of its prompt, in a stream with its first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// A whole chat completion.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ChatCompletion {
    /// Its beginning; `object` is "chat.completion".
    #[serde(flatten)]
    pub head: Head,
    /// The messages that could come next.
    pub choices: Vec<ChatChoice>,
    /// The tokens.
    pub usage: Usage,
    /// The ids of the prompt's tokens, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// A message that could come next.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ChatChoice {
    /// Which it is.
    pub index: usize,
    /// The message.
    pub message: ChatMessage,
    /// If they were asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// "stop" or "length".
    pub finish_reason: &'static str,
    /// The ids of its tokens, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// A message of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ChatMessage {
    /// "assistant".
    pub role: &'static str,
    /// Its text.
    pub content: String,
    /// Models here do not have it.
    pub refusal: Option<()>,
}

/// An event of a stream of chat completions.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ChatChunk {
    /// Its beginning; `object` is "chat.completion.chunk".
    #[serde(flatten)]
    pub head: Head,
    /// The rest.
    #[serde(flatten)]
    pub body: ChatChunkBody,
}

/// What an event of a stream of chat completions has beside [`Head`].
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ChatChunkBody {
    /// A piece of a message; none in the event that has the usage.
    pub choices: Vec<ChatChunkChoice>,
    /// The tokens, if they were asked for; null in all events but the last, unless all were to have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
    /// The ids of the prompt's tokens, if they were asked for, in the first event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// A piece of a message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ChatChunkChoice {
    /// Of which message.
    pub index: usize,
    /// What it adds.
    pub delta: ChatDelta,
    /// If they were asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// "stop" or "length"; null before the end.
    pub finish_reason: Option<&'static str>,
    /// The ids of its tokens, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// What an event adds to a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ChatDelta {
    /// "assistant", in the first event of a message alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Text.
    pub content: String,
}

/// The tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Usage {
    /// Of all prompts.
    pub prompt_tokens: usize,
    /// Of all continuations, also those that were made for `best_of` and not shown.
    pub completion_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// More of the prompts.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// More of the prompts' tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PromptTokensDetails {
    /// Those that the prefix cache had.
    pub cached_tokens: usize,
}

/// Which events of a stream have the usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsageEvents {
    None,
    /// One of its own, before the end.
    Last,
    /// That, and all others, with what there is so far.
    All,
}

impl UsageEvents {
    /// What an event other than that of its own has.
    pub(crate) fn so_far(self, usage: impl FnOnce() -> Usage) -> Option<Option<Usage>> {
        match self {
            Self::None => None,
            Self::Last => Some(None),
            Self::All => Some(Some(usage())),
        }
    }
}

impl Usage {
    fn new(prompt_tokens: usize, completion_tokens: usize, cached_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
        }
    }

    /// Of whole answers.
    pub(crate) fn of_answers(answers: &[Answer]) -> Self {
        let generated = |answer: &Answer| answer.completions.iter().map(|of| of.tokens.len()).sum::<usize>();
        Self::new(
            answers.iter().map(|answer| answer.prompt.len()).sum(),
            answers.iter().map(generated).sum(),
            answers.iter().map(|answer| answer.cached_tokens as usize).sum(),
        )
    }

    /// Of a stream so far.
    pub(crate) fn of_stream(stream: &TokenStream) -> Self {
        let all = 0..stream.continuations();
        let firsts = all.clone().step_by(stream.request(0).best_of);
        Self::new(
            firsts.clone().map(|index| stream.request(index).prompt.len()).sum(),
            all.map(|index| stream.generated_tokens(index) as usize).sum(),
            firsts.map(|index| stream.cached_tokens(index) as usize).sum(),
        )
    }

    /// What it was one token before.
    pub(crate) fn before_token(self) -> Self {
        let Self { prompt_tokens, completion_tokens, prompt_tokens_details, .. } = self;
        Self::new(prompt_tokens, completion_tokens.saturating_sub(1), prompt_tokens_details.cached_tokens)
    }

    /// Without what was generated only because at least one token must be.
    pub(crate) fn without_completion(self) -> Self {
        Self::new(self.prompt_tokens, 0, self.prompt_tokens_details.cached_tokens)
    }
}

/// How OpenAI calls the end of a text.
pub(crate) fn finish_reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Length => "length",
        FinishReason::EosToken | FinishReason::StopSequence => "stop",
    }
}
