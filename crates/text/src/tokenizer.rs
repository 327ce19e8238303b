//! Text to token ids, and back.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::{DecoderWrapper, EncodeInput, Encoding};

const FILE_NAME: &str = "tokenizer.json";

/// The tokenizer of a model. Clones share it.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

/// One token of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Vocabulary id.
    pub id: u32,
    /// The characters of the text that it stands for. Tokens that share a character each have it.
    pub text: String,
    /// Offset of the first of them, in characters (code points) from the start of the text.
    pub start: usize,
    /// Offset behind the last of them, in characters.
    pub stop: usize,
}

/// Why a tokenizer cannot be opened, or a text not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the library says.
        source: tokenizers::Error,
    },
    /// The tokens are not sequences of bytes.
    #[error("{path}: the decoder must be ByteLevel, as in every Falcon model, and is {found}")]
    Decoder {
        /// The file.
        path: PathBuf,
        /// The decoder's kind.
        found: String,
    },
    /// The library failed at a text.
    #[error("the text cannot be tokenized: {source}")]
    Encode {
        /// What the library says.
        source: tokenizers::Error,
    },
}

struct Inner {
    library: tokenizers::Tokenizer,
    /// By id. Ids without a token have no bytes.
    entries: Vec<Entry>,
}

#[derive(Clone, Default)]
struct Entry {
    bytes: Box<[u8]>,
    special: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in the model's folder `dir`.
    ///
    /// # Errors
    ///
    /// If the file is missing or unreadable, or its decoder is not byte-level BPE's.
    pub fn open(dir: &Path) -> Result<Self, TokenizerError> {
        let path = dir.join(FILE_NAME);
        if !path.exists() {
            return Err(TokenizerError::Missing { path });
        }
        let unreadable = |source| TokenizerError::Unreadable { path: path.clone(), source };
        let mut library = tokenizers::Tokenizer::from_file(&path).map_err(unreadable)?;
        // A file may carry the limits of a training run. Ours come with each request.
        library.with_padding(None).with_truncation(None).map_err(unreadable)?;
        match library.get_decoder() {
            Some(DecoderWrapper::ByteLevel(_)) => {}
            other => return Err(TokenizerError::Decoder { path, found: kind(other) }),
        }
        let entries = entries(&library);
        Ok(Self(Arc::new(Inner { library, entries })))
    }

    /// The token ids of `text`; no special tokens are added.
    ///
    /// Falcon's vocabulary lacks 28 byte values, and drops them silently: a text may have no token at all.
    ///
    /// # Errors
    ///
    /// If the library fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoded = self.0.library.encode_fast(EncodeInput::from(text), false);
        encoded.map(|encoding| encoding.get_ids().to_vec()).map_err(|source| TokenizerError::Encode { source })
    }

    /// The tokens of `text` with the characters that each stands for.
    ///
    /// # Errors
    ///
    /// If the library fails.
    pub fn tokens(&self, text: &str) -> Result<Vec<Token>, TokenizerError> {
        let encoded = self.0.library.encode_char_offsets(EncodeInput::from(text), false);
        let encoding: Encoding = encoded.map_err(|source| TokenizerError::Encode { source })?;
        let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let pairs = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(pairs
            .map(|(&id, &(start, stop))| Token { id, text: text[starts[start]..starts[stop]].to_owned(), start, stop })
            .collect())
    }

    /// The text of `ids`. Bytes that are no UTF-8 become U+FFFD; there is no clean-up of spaces. Unknown ids have no
    /// text, nor have special tokens if `skip_special`.
    #[must_use]
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let shown = ids.iter().filter(|&&id| !(skip_special && self.is_special(id)));
        let bytes: Vec<u8> = shown.flat_map(|&id| self.bytes(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes that token `id` stands for: often no whole characters. Empty for an unknown id.
    #[must_use]
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.0.entries.get(id as usize).map_or(&[], |entry| &entry.bytes)
    }

    /// Whether `id` is a special token, such as the end of text: part of the token stream, not of the text.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.0.entries.get(id as usize).is_some_and(|entry| entry.special)
    }

    /// The number of ids: one more than the largest.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.0.entries.len()
    }

    /// The id of a token, as the vocabulary spells it; for a special token that is its text.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.0.library.token_to_id(token)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

fn kind(decoder: Option<&DecoderWrapper>) -> String {
    let text = decoder.map_or_else(|| "missing".to_owned(), |decoder| format!("{decoder:?}"));
    text.split(['(', '{', ' ']).next().unwrap_or_default().to_owned()
}

fn entries(library: &tokenizers::Tokenizer) -> Vec<Entry> {
    let byte_of = byte_alphabet();
    let mut entries = Vec::new();
    for (token, id) in library.get_vocab(true) {
        let id = id as usize;
        entries.resize(entries.len().max(id + 1), Entry::default());
        // An added token may be spelled in other characters than the alphabet's, and then stands for itself.
        let bytes: Option<Vec<u8>> = token.chars().map(|c| byte_of.get(&c).copied()).collect();
        entries[id].bytes = bytes.unwrap_or_else(|| token.into_bytes()).into();
    }
    for (id, added) in library.get_added_tokens_decoder() {
        entries[id as usize].special = added.special;
    }
    entries
}

/// The characters that byte-level BPE spells bytes with (GPT-2, `bytes_to_unicode`): printable Latin-1 stands for
/// itself, the other bytes for U+0100 and up, in order.
fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..);
    let others = (0..=u8::MAX).filter(|byte| !printable(byte));
    let themselves = (0..=u8::MAX).filter(printable).map(|byte| (char::from(byte), byte));
    themselves.chain(('\u{100}'..).zip(others)).collect()
}
