//! From the generated tokens of a request to the texts that it is answered with.

use crate::{Detokenizer, StopMatcher, Tokenizer};

/// The text of one generated sequence.
///
/// Two texts come from one stream of tokens. *Token text* is what each token shows by itself, special tokens included.
/// *Visible text* skips special tokens and ends at the first stop string, inside a token or across tokens. So a stop such
/// as `<|endoftext|>`, the text of a special token, is never found in it: the end-of-text id ends a sequence, not its
/// text.
///
/// Both shapes of answer use it alike. One that keeps the stop string (Text Generation Inference) streams
/// [`Piece::token_text`] and ends with [`OutputText::with_stop`]; one that drops it (OpenAI) streams [`Piece::text`] and
/// ends with [`OutputText::without_stop`].
#[derive(Clone, Debug)]
pub struct OutputText {
    tokenizer: Tokenizer,
    tokens: Detokenizer,
    visible: Detokenizer,
    stops: StopMatcher,
    /// All that was released.
    text: String,
}

/// What one token adds to the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The text that the token completes; empty while it ends within a character.
    pub token_text: String,
    /// It is a special token: it counts as a token, but not as text.
    pub special: bool,
    /// Visible text that can be shown now: whole characters, nothing of a stop string or of what may become one.
    pub text: String,
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
            text: String::new(),
        }
    }

    /// Takes the next token. The visible text no longer changes once one has `stopped`.
    #[must_use]
    pub fn push(&mut self, id: u32) -> Piece {
        let token_text = self.tokens.push(id);
        let text = self.stops.push(&self.visible.push(id));
        self.text += &text;
        Piece { token_text, special: self.tokenizer.is_special(id), text, stopped: self.stops.found().is_some() }
    }

    /// The sequence has ended: returns the visible text that was held. That is what looked like the beginning of a stop
    /// string, and a character that was never completed, as U+FFFD.
    #[must_use]
    pub fn finish(&mut self) -> String {
        let mut text = self.stops.push(&self.visible.finish());
        text += &self.stops.finish();
        self.text += &text;
        text
    }

    /// The visible text with the stop string at its end: all of it after [`OutputText::finish`], before that what was
    /// released.
    #[must_use]
    pub fn with_stop(&self) -> String {
        [&*self.text, self.stops.found().unwrap_or_default()].concat()
    }

    /// The visible text before the stop string: all of it after [`OutputText::finish`], before that what was released.
    #[must_use]
    pub fn without_stop(&self) -> &str {
        &self.text
    }
}
