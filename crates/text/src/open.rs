//! Reads a tokenizer from a model's folder.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;

use tokenizers::{DecoderWrapper, Encoding};

use crate::cut::SplitPoints;
use crate::lfs::is_lfs_pointer;
use crate::settings::Settings;
use crate::special_tokens::SpecialTokens;
use crate::tokenizer::Inner;
use crate::{EosToken, TokenizerError};

const FILE_NAME: &str = "tokenizer.json";

/// A token of the vocabulary.
#[derive(Clone, Default)]
pub(crate) struct Entry {
    pub(crate) bytes: Box<[u8]>,
    pub(crate) special: bool,
}

/// The tokens that the post-processor puts around every text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Template {
    pub(crate) before: Vec<u32>,
    pub(crate) after: Vec<u32>,
}

pub(crate) fn read(dir: &Path) -> Result<Inner, TokenizerError> {
    let path = dir.join(FILE_NAME);
    let unreadable = |source| TokenizerError::Unreadable { path: path.clone(), source };
    let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => TokenizerError::Missing { path: path.clone() },
        _ => unreadable(error.into()),
    })?;
    if is_lfs_pointer(&bytes) {
        return Err(TokenizerError::LfsPointer { path });
    }
    let mut library = tokenizers::Tokenizer::from_bytes(&bytes).map_err(unreadable)?;
    // A file may carry the limits of a training run. Ours come with each request.
    library.with_padding(None).with_truncation(None).map_err(unreadable)?;
    let special_tokens = SpecialTokens::read(dir)?;
    special_tokens.add_to(&mut library)?;
    let settings = Settings::read(dir)?;
    settings.apply(&mut library)?;
    let eos = special_tokens
        .eos()
        .and_then(|(text, file)| Some(EosToken { id: library.token_to_id(text)?, text: text.to_owned(), file }));
    if !is_byte_level(library.get_decoder()) {
        return Err(TokenizerError::Decoder { path, found: kind(library.get_decoder()) });
    }
    let template = template(&library).map_err(unreadable)?.ok_or(TokenizerError::Template { path })?;
    let (entries, lone_bytes, cuts) = (entries(&library), lone_bytes(&library), SplitPoints::new(&library));
    Ok(Inner { library, entries, lone_bytes, template, cuts, eos, cleans_up: settings.cleans_up })
}

/// Whether the decoder joins the bytes that tokens spell, and does nothing else.
fn is_byte_level(decoder: Option<&DecoderWrapper>) -> bool {
    match decoder {
        Some(DecoderWrapper::ByteLevel(_)) => true,
        Some(DecoderWrapper::Sequence(sequence)) => {
            matches!(sequence.get_decoders(), [single] if is_byte_level(Some(single)))
        }
        _ => false,
    }
}

fn kind(decoder: Option<&DecoderWrapper>) -> String {
    let text = decoder.map_or_else(|| "missing".to_owned(), |decoder| format!("{decoder:?}"));
    text.split(['(', '{', ' ']).next().unwrap_or_default().to_owned()
}

/// What the post-processor makes of a text of one token; `None` if not this token once, amid special ones.
fn template(library: &tokenizers::Tokenizer) -> tokenizers::Result<Option<Template>> {
    let text = Encoding::from_tokens(vec![tokenizers::Token::new(0, "a".to_owned(), (0, 1))], 0);
    let processed = library.post_process(text, None, true)?;
    let (ids, mask) = (processed.get_ids(), processed.get_special_tokens_mask());
    let Some(at) = mask.iter().position(|&special| special == 0) else { return Ok(None) };
    let (before, after) = (ids[..at].to_vec(), ids[at + 1..].to_vec());
    Ok(mask[at + 1..].iter().all(|&special| special == 1).then_some(Template { before, after }))
}

/// The tokens by id. An added token stands for itself, whatever its letters would spell in the alphabet. Only where it is
/// a single byte of the alphabet, which characters are made of, it stays that byte; see [`lone_bytes`].
fn entries(library: &tokenizers::Tokenizer) -> Vec<Entry> {
    let byte_of = byte_alphabet();
    let mut entries = Vec::new();
    let mut entry = |id: u32, bytes: Vec<u8>, special| {
        let at = id as usize;
        entries.resize(entries.len().max(at + 1), Entry::default());
        entries[at] = Entry { bytes: bytes.into(), special };
    };
    for (token, id) in library.get_vocab(false) {
        let bytes: Option<Vec<u8>> = token.chars().map(|c| byte_of.get(&c).copied()).collect();
        entry(id, bytes.unwrap_or_else(|| token.into_bytes()), false);
    }
    let lone = lone_bytes(library);
    for (id, added) in library.get_added_tokens_decoder() {
        let byte = lone.iter().find(|(_, text)| **text == added.content);
        entry(id, byte.map_or(added.content.into_bytes(), |(byte, _)| vec![*byte]), added.special);
    }
    entries
}

/// Added tokens that the vocabulary has as a byte, which is part of characters: `£` spells the byte A3, which also ends `ã`.
/// Where that byte is part of no character, it is the token's text.
fn lone_bytes(library: &tokenizers::Tokenizer) -> HashMap<u8, String> {
    let (byte_of, vocab) = (byte_alphabet(), library.get_vocab(false));
    let added = library.get_added_tokens_decoder().into_values().map(|token| token.content);
    let byte = |content: &String| {
        let mut chars = content.chars();
        let byte = byte_of.get(&chars.next()?).copied()?;
        (chars.next().is_none() && !byte.is_ascii() && vocab.contains_key(content)).then_some(byte)
    };
    added.filter_map(|content| Some((byte(&content)?, content))).collect()
}

/// The characters that byte-level BPE spells bytes with (GPT-2, `bytes_to_unicode`): printable Latin-1 stands for
/// itself, the other bytes for U+0100 and up, in order.
fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..);
    let others = (0..=u8::MAX).filter(|byte| !printable(byte));
    let themselves = (0..=u8::MAX).filter(printable).map(|byte| (char::from(byte), byte));
    themselves.chain(('\u{100}'..).zip(others)).collect()
}
