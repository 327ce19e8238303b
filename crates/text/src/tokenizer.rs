//! Text to token ids, and back.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tokenizers::EncodeInput;

use crate::cut::SplitPoints;
use crate::open::{Entry, Template};
use crate::{EosToken, TokenizerError, open};

/// Bytes that are encoded at once, where a text may be cut. It bounds the memory that encoding takes, which is about 130
/// bytes for each of the text, and the time until a cancelled call ends.
const CHUNK_BYTES: usize = 1 << 14;

/// What stands for bytes that are no character.
const REPLACEMENT: &str = "\u{FFFD}";

/// The tokenizer of a model. Clones share it.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

/// One token of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Vocabulary id.
    pub id: u32,
    /// The characters of the text that it stands for. Tokens that share a character each have it; one that the
    /// post-processor added has none.
    pub text: String,
    /// Offset of the first of them, in characters (code points) from the start of the text.
    pub start: usize,
    /// Offset behind the last of them, in characters.
    pub stop: usize,
}

pub(crate) struct Inner {
    pub(crate) library: tokenizers::Tokenizer,
    /// By id. Ids without a token have no bytes.
    pub(crate) entries: Vec<Entry>,
    /// Text of bytes that belong to no character, where it is not U+FFFD.
    pub(crate) lone_bytes: HashMap<u8, String>,
    pub(crate) template: Template,
    pub(crate) cuts: SplitPoints,
    pub(crate) eos: Option<EosToken>,
    pub(crate) cleans_up: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in the model's folder `dir`, the special tokens that tokenizer_config.json,
    /// special_tokens_map.json and added_tokens.json add to it, and whether special tokens in a text are split
    /// (`split_special_tokens` of tokenizer_config.json); each of these files may be missing.
    ///
    /// # Errors
    ///
    /// If tokenizer.json is missing or unreadable, or its decoder is not byte-level BPE's; if another of the files is
    /// damaged, or states an id that the tokenizer cannot give.
    pub fn open(dir: &Path) -> Result<Self, TokenizerError> {
        Ok(Self(Arc::new(open::read(dir)?)))
    }

    /// The token ids of `text`, with those that the tokenizer's post-processor puts before and behind it. (Published
    /// Falcon models have none.)
    ///
    /// Falcon's vocabulary lacks 28 byte values, and drops them silently: a text may have no token at all.
    ///
    /// # Errors
    ///
    /// If the library fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_last(text, usize::MAX, true, &|| true)
    }

    /// The last `keep` token ids of `text`: those that the post-processor adds, which count, and the end of the text's
    /// own. (So truncates Text Generation Inference.) Only as much of the text is encoded as that takes. Without
    /// `add_special_tokens` the post-processor adds none, as for what a chat template has made.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Cancelled`] once `goes_on` says so; it is asked now and then. If the library fails.
    pub fn encode_last(
        &self,
        text: &str,
        keep: usize,
        add_special_tokens: bool,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        let Inner { library, template, cuts, .. } = &*self.0;
        let (before, after) =
            if add_special_tokens { (&template.before[..], &template.after[..]) } else { Default::default() };
        let own = keep.saturating_sub(before.len() + after.len());
        // The text's chunks, from its end.
        let (mut chunks, mut count, mut end) = (Vec::new(), 0, text.len());
        while end > 0 && count < own {
            if !goes_on() {
                return Err(TokenizerError::Cancelled);
            }
            let start = end.checked_sub(CHUNK_BYTES).and_then(|to| cuts.last(text, 0, to)).unwrap_or(0);
            let encoded = library.encode_fast(EncodeInput::from(&text[start..end]), false);
            let ids = encoded.map_err(|source| TokenizerError::Encode { source })?.get_ids().to_vec();
            (count, end) = (count + ids.len(), start);
            chunks.push(ids);
        }
        let of_text = chunks.into_iter().rev().flatten().skip(count.saturating_sub(own));
        let ids = before.iter().copied().chain(of_text).chain(after.iter().copied());
        let mut ids: Vec<u32> = ids.collect();
        ids.drain(..ids.len().saturating_sub(keep));
        Ok(ids)
    }

    /// The end of `text`, of at least `bytes` bytes if it has so many: up to twice as many, so that its tokens are the
    /// whole text's last ones. Only a text without white space for so long may be cut within a word.
    #[must_use]
    pub fn tail<'text>(&self, text: &'text str, bytes: usize) -> &'text str {
        let to = text.len().saturating_sub(bytes);
        let from = to.saturating_sub(bytes);
        let within_a_word = if from == 0 { 0 } else { text.floor_char_boundary(to) };
        &text[self.0.cuts.last(text, from, to).unwrap_or(within_a_word)..]
    }

    /// The tokens of `text` with the characters that each stands for, and, if `add_special_tokens`, those that the
    /// post-processor adds.
    ///
    /// # Errors
    ///
    /// If the library fails.
    pub fn tokens(&self, text: &str, add_special_tokens: bool) -> Result<Vec<Token>, TokenizerError> {
        let encoded = self.0.library.encode_char_offsets(EncodeInput::from(text), add_special_tokens);
        let encoding = encoded.map_err(|source| TokenizerError::Encode { source })?;
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
        self.text_of_bytes(&bytes)
    }

    /// The text of the bytes of some tokens.
    pub(crate) fn text_of_bytes(&self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text += chunk.valid();
            match chunk.invalid() {
                [] => {}
                [byte] => text += self.0.lone_bytes.get(byte).map_or(REPLACEMENT, |lone| lone),
                _ => text += REPLACEMENT,
            }
        }
        text
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

    /// Bytes of the longest token. A text of more than `n` times as many has more than `n` tokens, but for bytes that
    /// the vocabulary lacks and white space that added tokens take with them.
    #[must_use]
    pub fn token_bytes_max(&self) -> usize {
        self.0.entries.iter().map(|entry| entry.bytes.len()).max().unwrap_or(0)
    }

    /// The id of a token, as the vocabulary spells it; for an added token that is its text.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.0.library.token_to_id(token)
    }

    /// Token `id` as the vocabulary spells it, in which a byte-level tokenizer has `Ġ` for a space.
    #[must_use]
    pub fn spelling(&self, id: u32) -> Option<String> {
        self.0.library.id_to_token(id)
    }

    /// The token that ends a text, if tokenizer_config.json or special_tokens_map.json names one.
    #[must_use]
    pub fn eos(&self) -> Option<&EosToken> {
        self.0.eos.as_ref()
    }

    /// Whether tokenizer_config.json has `clean_up_tokenization_spaces: true`, by which transformers 4 decodes `Hello .` as
    /// `Hello.`, and transformers 5 does not. It is ignored here: a text is what its tokens spell.
    #[must_use]
    pub fn ignores_clean_up(&self) -> bool {
        self.0.cleans_up
    }

    /// The tokens that a model of `vocab` tokens does not have, with their ids. A text that has one cannot be run.
    ///
    /// # Errors
    ///
    /// If the post-processor adds one of them to every text.
    pub fn tokens_beyond(&self, vocab: usize) -> Result<Vec<(u32, String)>, TokenizerError> {
        let Template { before, after } = &self.0.template;
        if let Some(&id) = before.iter().chain(after).find(|&&id| id as usize >= vocab) {
            return Err(TokenizerError::TemplateBeyondVocabulary { token: self.decode(&[id], false), id, vocab });
        }
        let ids = (0..).zip(&self.0.entries).skip(vocab).filter(|(_, entry)| !entry.bytes.is_empty());
        Ok(ids.map(|(id, entry)| (id, self.text_of_bytes(&entry.bytes))).collect())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}
