//! Why a tokenizer cannot be opened, or a text not be encoded.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Why a tokenizer cannot be opened, or a text not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum TokenizerError {
    /// The model's folder has no tokenizer.
    #[error(
        "{path}: there is no such file; a model's folder must have its Hugging Face fast tokenizer under this name"
    )]
    Missing {
        /// The file that was looked for.
        path: PathBuf,
    },
    /// The file is there, but is not a tokenizer that the library can read.
    #[error("{path}: not a readable Hugging Face tokenizer: {source}")]
    Unreadable { path: PathBuf, source: tokenizers::Error },
    /// A pointer of Git LFS stands in place of the file.
    #[error("{path}: a Git LFS pointer, not the file itself; fetch the file with `git lfs pull` in the model's folder")]
    LfsPointer { path: PathBuf },
    /// A file beside tokenizer.json cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// A file beside tokenizer.json is no JSON object.
    #[error("{path}: not a JSON object: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
    /// A value in a file beside tokenizer.json is of another type, or contradicts tokenizer.json.
    #[error("{path}: `{key}`: expected {expected}, found {found}")]
    Value {
        path: PathBuf,
        /// The key whose value it is.
        key: String,
        expected: &'static str,
        found: String,
    },
    /// A token that only this file names would get another id than the file says.
    #[error(
        "{path}: token `{token}` has id {stated} here, but is not in tokenizer.json, where the next free id is {free}; \
         save the tokenizer again as a fast one"
    )]
    AddedTokenId {
        path: PathBuf,
        token: String,
        /// The id that the file states.
        stated: u32,
        /// The id that the tokenizer gives it.
        free: u32,
    },
    /// The tokens are not sequences of bytes.
    #[error("{path}: the decoder must be ByteLevel, as in every Falcon model, and is {found}")]
    Decoder { path: PathBuf, found: String },
    /// The post-processor's template for one text has that text not exactly once.
    #[error("{path}: the post-processor must keep a text's tokens, once and in their order")]
    Template { path: PathBuf },
    /// The post-processor adds a token to every text that the model does not have.
    #[error(
        "tokenizer.json: the post-processor adds token `{token}` ({id}) to every prompt, and the model's vocabulary has \
         {vocab} tokens only"
    )]
    TemplateBeyondVocabulary { token: String, id: u32, vocab: usize },
    /// The library failed at a text.
    #[error("the text cannot be tokenized: {source}")]
    Encode { source: tokenizers::Error },
    /// Whoever asked no longer wants the tokens.
    #[error("tokenizing was cancelled")]
    Cancelled,
}

impl TokenizerError {
    /// [`Self::Value`], with the beginning of what was found.
    pub(crate) fn value(path: &Path, key: &str, expected: &'static str, found: &Value) -> Self {
        let found: String = found.to_string().chars().take(60).collect();
        Self::Value { path: path.to_owned(), key: key.to_owned(), expected, found }
    }
}
