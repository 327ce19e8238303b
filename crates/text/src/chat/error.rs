//! Why a chat template cannot be used, or a conversation not be rendered.

use std::path::PathBuf;

use crate::TokenizerError;

/// Why a model's chat templates cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum ChatTemplateError {
    /// A file cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// A pointer of Git LFS stands in place of the file.
    #[error("{path}: a Git LFS pointer, not the file itself; fetch the file with `git lfs pull` in the model's folder")]
    LfsPointer { path: PathBuf },
    /// A template's file is no text.
    #[error("{path}: not UTF-8: {source}")]
    NotUtf8 { path: PathBuf, source: std::string::FromUtf8Error },
    /// A value in tokenizer_config.json is of another type.
    #[error("{path}: `{key}`: expected {expected}, found {found}")]
    Value { path: PathBuf, key: String, expected: &'static str, found: String },
    /// A template is longer than any that people write.
    #[error("{place}: the chat template has {bytes} bytes, and at most {max} are allowed")]
    TooLong { place: String, bytes: usize, max: usize },
    /// A template is not valid Jinja.
    #[error("{place}: line {line} of the chat template: {cause}")]
    Syntax {
        /// The file, and the key in it.
        place: String,
        /// From 1.
        line: usize,
        cause: String,
    },
    /// The system gives no thread to compile in.
    #[error("no thread to compile the chat template in: {source}")]
    Thread { source: std::io::Error },
    /// tokenizer_config.json or special_tokens_map.json cannot be used.
    #[error(transparent)]
    SpecialTokens(#[from] TokenizerError),
}

/// Why a conversation cannot be rendered. Each is about the request, so its text may be shown to whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum ChatError {
    /// There is nothing to render.
    #[error("`messages` is empty; expected at least one message")]
    Empty,
    /// A message is no object.
    #[error("`messages[{index}]` must be an object, and is {found}")]
    NotAnObject { index: usize, found: &'static str },
    /// A message's content is of another type.
    #[error("`messages[{index}].content` must be a string, a list of parts or null, and is {found}")]
    Content { index: usize, found: &'static str },
    /// A part is of a type that a language model does not take.
    #[error(
        "`messages[{index}].content[{part}]` has type `{found}`; this model takes text alone: {{\"type\": \"text\", \
         \"text\": …}}"
    )]
    PartType { index: usize, part: usize, found: String },
    /// A part of type text has no text.
    #[error("`messages[{index}].content[{part}].text` must be a string")]
    PartText { index: usize, part: usize },
    /// No template has this name.
    #[error("the model has no chat template named `{name}`; it has {known}")]
    UnknownTemplate {
        name: String,
        /// The names that there are.
        known: String,
    },
    /// None was asked for, and none is the default.
    #[error("the model has no default chat template; choose one of {known}")]
    NoDefault { known: String },
    /// Both a new message and an old one are to be written.
    #[error("`continue_final_message` and `add_generation_prompt` cannot both be set")]
    ContinueAndPrompt,
    /// The last message has no text.
    #[error("`continue_final_message` is set, but the last message has no text to continue")]
    NothingToContinue,
    /// The prompt does not have the last message as it was given.
    #[error(
        "`continue_final_message` is set, but the chat template does not print the last message as it is, so it cannot \
         be continued"
    )]
    ContinuationLost,
    /// An argument of the template has the name of a field of the request.
    #[error("`{name}` cannot be an argument of the chat template: the conversation sets it")]
    Reserved { name: String },
    /// The template refuses the conversation: `raise_exception`.
    #[error("the chat template refuses the conversation: {message}")]
    Refused { message: String },
    /// The template takes too long or makes too much.
    #[error("the chat template does more work on this conversation than the limit of {steps} steps")]
    Work { steps: u64 },
    /// The prompt gets too long.
    #[error("the chat template makes a prompt of more than {bytes} bytes")]
    TooLong { bytes: usize },
    /// The template fails.
    #[error("{place}: line {line} of the chat template: {cause}")]
    Failed {
        /// The file, and the key in it.
        place: String,
        /// From 1.
        line: usize,
        cause: String,
    },
}
