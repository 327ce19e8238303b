//! From the generated tokens of a request to the texts that it is answered with.

use crate::{Detokenizer, StopMatcher, Tokenizer};

/// The text of one generated sequence.
///
/// Two texts come from one stream of tokens. *Token text* is what each token shows by itself, special tokens included; it
/// is what is streamed, and what stop strings are looked for in, as Text Generation Inference does. So a stop string may be
/// a special token's text, a part of it, or span one. *Visible text*, the whole answer, leaves special tokens out, and ends
/// with the first stop string, even inside a token.
#[derive(Clone, Debug)]
pub struct OutputText {
    tokenizer: Tokenizer,
    tokens: Detokenizer,
    visible: Detokenizer,
    stops: StopMatcher,
    stopped: bool,
    /// Visible text so far.
    text: String,
}

/// What one token adds to the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenText {
    /// The text that the token completes; empty while it ends within a character.
    pub text: String,
    /// It is a special token, which visible text leaves out.
    pub special: bool,
    /// A stop string is complete: the sequence ends with this token.
    pub stopped: bool,
}

impl OutputText {
    /// A sequence without tokens, which ends at the first of `stops` in its text. Empty stop strings are ignored.
    #[must_use]
    pub fn new<S: AsRef<str>>(tokenizer: Tokenizer, stops: &[S]) -> Self {
        Self {
            tokens: Detokenizer::new(tokenizer.clone(), false),
            visible: Detokenizer::new(tokenizer.clone(), true),
            tokenizer,
            stops: StopMatcher::new(stops),
            stopped: false,
            text: String::new(),
        }
    }

    /// Takes the next token. The visible text no longer changes once one has `stopped`.
    #[must_use]
    pub fn push(&mut self, id: u32) -> TokenText {
        let special = self.tokenizer.is_special(id);
        let text = self.tokens.push(id);
        if !self.stopped {
            self.text += &self.visible.push(id);
            if let Some(end) = self.stops.push(&text) {
                // Of a special token's own text nothing is visible; before it may stand a character that it cut short.
                let own = if special { self.tokenizer.bytes(id).len() } else { 0 };
                self.end_before(text.get(end..text.len() - own).unwrap_or_default(), special);
            }
        }
        TokenText { text, special, stopped: self.stopped }
    }

    /// The visible text ends before `rest`, the end of the token text. `with_held`: bytes that are held come before it.
    fn end_before(&mut self, rest: &str, with_held: bool) {
        self.stopped = true;
        if with_held {
            self.text += &self.visible.finish();
        }
        if let Some(kept) = self.text.strip_suffix(rest) {
            self.text.truncate(kept.len());
        }
    }

    /// The sequence has ended: hands over its visible text, with the stop string at its end if there was one. A character that was
    /// never completed is U+FFFD.
    #[must_use]
    pub fn finish(&mut self) -> String {
        if !self.stopped {
            let held = self.tokens.finish();
            let end = self.stops.push(&held).unwrap_or(held.len());
            self.end_before(&held[end..], true);
        }
        std::mem::take(&mut self.text)
    }
}
