//! Token ids to text, token by token.

use crate::Tokenizer;

/// Without a valid character for so many bytes, the held ones are emitted as U+FFFD. It bounds the work for a token; a
/// character has at most 4.
const MAX_HELD: usize = 64;

/// Emits the text of tokens as they come, in whole characters.
///
/// A token of byte-level BPE is a sequence of bytes, and the text of some tokens is that of their bytes in a row. So the
/// only state is the end of the text that is not, or not yet, UTF-8: it is held until valid text follows, as the peers
/// do. All that is emitted, put together, is what [`Tokenizer::decode`] makes of all tokens.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    skip_special: bool,
    held: Vec<u8>,
}

impl Detokenizer {
    /// A detokenizer at the start of a text. With `skip_special`, special tokens have no text.
    #[must_use]
    pub fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, held: Vec::new() }
    }

    /// The text that token `id` completes; empty while it ends within a character.
    #[must_use]
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special && self.tokenizer.is_special(id) {
            return String::new();
        }
        self.held.extend_from_slice(self.tokenizer.bytes(id));
        let open = self.held.utf8_chunks().last().map_or(0, |chunk| chunk.invalid().len());
        if open > 0 && self.held.len() <= MAX_HELD {
            return String::new();
        }
        // Only the last invalid sequence can still become a character; what is before it is final.
        let rest = self.held.split_off(self.held.len() - open);
        self.tokenizer.text_of_bytes(&std::mem::replace(&mut self.held, rest))
    }

    /// The rest of the text, where the last token ends within a character.
    #[must_use]
    pub fn finish(&mut self) -> String {
        self.tokenizer.text_of_bytes(&std::mem::take(&mut self.held))
    }
}
