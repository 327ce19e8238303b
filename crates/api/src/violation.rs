//! Which rule a request breaks.

use step::ParamError;
use text::ChatError;

/// A field of a request. Each dialect has its own spelling of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "they are the fields of `Request` and its parts")]
pub enum Field {
    Prompt,
    PromptIds,
    Messages,
    Truncate,
    MaxTokens,
    N,
    BestOf,
    Seed,
    Temperature,
    TopK,
    TopP,
    TypicalP,
    MinP,
    RepetitionPenalty,
    RelativeFrequencyPenalty,
    PresencePenalty,
    FrequencyPenalty,
    LogitBias,
    Stop,
    StopTokenIds,
    MinTokens,
    PromptLogprobs,
    TopTokens,
    Grammar,
    /// The answer is wanted token by token.
    Stream,
}

/// Where a number must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// Greater than 0.
    Positive,
    /// Any finite number.
    Finite,
    /// Greater than 0 and less than 1.
    Inside,
}

/// The rule that a request breaks, with its field and numbers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the numbers are the limit and what was given")]
pub enum Violation {
    /// A sampling parameter is outside of the range that the model's samplers know.
    Sampling(ParamError),
    /// A number is outside of the narrower range that its dialect has.
    OutOfRange { field: Field, range: Range },
    /// More than the limit.
    TooMany { field: Field, max: usize, given: usize },
    /// Less than the least.
    TooFew { field: Field, min: usize, given: usize },
    /// Outside of 1 to the limit.
    TruncateLength { max: usize, given: usize },
    /// A stop string of too many bytes; the first such.
    StopBytes { max: usize, given: usize },
    /// One field does not go with another.
    Conflict { field: Field, with: Field },
    /// A greedy choice is always the same, so several continuations would be.
    NotDrawn { field: Field },
    /// The prompt has no token.
    EmptyPrompt,
    /// The prompt's text has more bytes than `tokens` tokens, the longest prompt, can have.
    PromptBytes { max: usize, tokens: usize, given: usize },
    /// The prompt has too many tokens.
    PromptTokens { max: usize, given: usize },
    /// Prompt and continuation are too long together.
    TotalTokens { max: usize, prompt: usize, new: u32 },
    /// A token id of the prompt, at `index` there, that the model does not have.
    TokenId { vocab_size: usize, id: u32, index: usize },
    /// A token id that the model does not have.
    UnknownId { field: Field, id: u32, vocab_size: usize },
    /// A token of the text that the tokenizer has and the model has not.
    UnknownToken { token: String, id: u32, vocab_size: usize },
    /// The tokenizer cannot read the text.
    Tokenizer(String),
    /// The chat template cannot render the conversation.
    Conversation(ChatError),
    /// The continuations of all prompts together are more than may run or wait at once.
    TooManyContinuations { max: usize, given: usize },
    /// What the field asks for does not exist here.
    Unsupported { field: Field },
}

impl Field {
    /// Its name here.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::PromptIds => "prompt token ids",
            Self::Messages => "messages",
            Self::Truncate => "truncate",
            Self::MaxTokens => "max_tokens",
            Self::N => "n",
            Self::BestOf => "best_of",
            Self::Seed => "seed",
            Self::Temperature => "temperature",
            Self::TopK => "top_k",
            Self::TopP => "top_p",
            Self::TypicalP => "typical_p",
            Self::RepetitionPenalty => "repetition_penalty",
            Self::MinP => "min_p",
            Self::RelativeFrequencyPenalty => "relative_frequency_penalty",
            Self::PresencePenalty => "presence_penalty",
            Self::FrequencyPenalty => "frequency_penalty",
            Self::LogitBias => "logit_bias",
            Self::Stop => "stop",
            Self::StopTokenIds => "stop_token_ids",
            Self::MinTokens => "min_tokens",
            Self::PromptLogprobs => "prompt_logprobs",
            Self::TopTokens => "top_tokens",
            Self::Grammar => "grammar",
            Self::Stream => "stream",
        }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message(Field::name))
    }
}

impl std::error::Error for Violation {}

impl From<ParamError> for Violation {
    fn from(error: ParamError) -> Self {
        Self::Sampling(error)
    }
}

impl Violation {
    /// The field that is at fault.
    #[must_use]
    pub fn field(&self) -> Field {
        match *self {
            Self::Sampling(error) => field_of(error),
            Self::OutOfRange { field, .. }
            | Self::TooMany { field, .. }
            | Self::TooFew { field, .. }
            | Self::Conflict { field, .. }
            | Self::NotDrawn { field }
            | Self::UnknownId { field, .. }
            | Self::Unsupported { field } => field,
            Self::TruncateLength { .. } => Field::Truncate,
            Self::StopBytes { .. } => Field::Stop,
            Self::EmptyPrompt
            | Self::PromptBytes { .. }
            | Self::PromptTokens { .. }
            | Self::TotalTokens { .. }
            | Self::UnknownToken { .. }
            | Self::Tokenizer(_) => Field::Prompt,
            Self::TokenId { .. } => Field::PromptIds,
            Self::Conversation(_) => Field::Messages,
            Self::TooManyContinuations { .. } => Field::Prompt,
        }
    }

    /// What is wrong, where fields are spelled by `name`.
    #[must_use]
    pub fn message(&self, name: impl Fn(Field) -> &'static str) -> String {
        let field = name(self.field());
        match self {
            Self::Sampling(error) => error.to_string(),
            Self::OutOfRange { range, .. } => format!("`{field}` must be {}", range.words()),
            Self::TooMany { max, given, .. } => format!("`{field}` must be at most {max}. Given: {given}"),
            Self::TooFew { min, given, .. } => format!("`{field}` must be at least {min}. Given: {given}"),
            Self::TruncateLength { max, given } => format!("`{field}` must be from 1 to {max}. Given: {given}"),
            Self::StopBytes { max, given } => {
                format!("`{field}` sequences must have at most {max} bytes. Given: {given}")
            }
            Self::Conflict { with, .. } => format!("`{field}` does not go with `{}`", name(*with)),
            Self::NotDrawn { .. } => format!("`{field}` above 1 needs sampling"),
            Self::EmptyPrompt => format!("`{field}` cannot be empty"),
            Self::PromptBytes { max, tokens, given } => {
                format!(
                    "`{field}` must have at most {max} bytes, as many as {tokens} tokens can have. Given: {given} bytes"
                )
            }
            Self::PromptTokens { max, given } => format!("`{field}` must have at most {max} tokens. Given: {given}"),
            Self::TotalTokens { max, prompt, new } => format!(
                "`{field}` and `{}` must have at most {max} tokens together. Given: {prompt} tokens and {new} `{0}`",
                name(Field::MaxTokens)
            ),
            Self::TokenId { vocab_size, id, index } => {
                format!("`{field}` must be < {vocab_size}. Given: {id} at index {index}")
            }
            Self::UnknownId { id, vocab_size, .. } => {
                format!("`{field}` has the token {id}, but the model's vocabulary has {vocab_size} tokens")
            }
            Self::UnknownToken { token, id, vocab_size } => {
                format!("`{field}` has the token `{token}` ({id}), but the model's vocabulary has {vocab_size} tokens")
            }
            Self::Tokenizer(cause) => format!("tokenizer error {cause}"),
            Self::Conversation(error) => error.to_string(),
            Self::TooManyContinuations { max, given } => format!(
                "the prompts must have at most {max} continuations together, as many as may run or wait. Given: {given}"
            ),
            Self::Unsupported { .. } => format!("`{field}` is not supported yet"),
        }
    }
}

fn field_of(error: ParamError) -> Field {
    match error {
        ParamError::Temperature => Field::Temperature,
        ParamError::TopK => Field::TopK,
        ParamError::TopP => Field::TopP,
        ParamError::TypicalP => Field::TypicalP,
        ParamError::MinP => Field::MinP,
        ParamError::RepetitionPenalty => Field::RepetitionPenalty,
        ParamError::RelativeFrequencyPenalty => Field::RelativeFrequencyPenalty,
        ParamError::PresencePenalty => Field::PresencePenalty,
        ParamError::FrequencyPenalty => Field::FrequencyPenalty,
        ParamError::LogitBiasTokens { .. } | ParamError::LogitBias { .. } | ParamError::LogitBiasTwice { .. } => {
            Field::LogitBias
        }
    }
}

impl Range {
    /// Whether the number is there.
    #[must_use]
    pub fn contains(self, x: f32) -> bool {
        match self {
            Self::Positive => x.is_finite() && x > 0.0,
            Self::Finite => x.is_finite(),
            Self::Inside => x > 0.0 && x < 1.0,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Positive => "strictly positive",
            Self::Finite => "a finite number",
            Self::Inside => "> 0.0 and < 1.0",
        }
    }
}
