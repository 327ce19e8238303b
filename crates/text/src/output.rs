//! From the generated tokens of a request to the texts that it is answered with.

use crate::{Detokenizer, StopMatch, StopMatcher, Tokenizer};
use std::collections::VecDeque;

/// The text of one generated sequence.
///
/// Two texts come from one stream of tokens. *Token text* is what each token shows by itself, special tokens included; it
/// is what stop strings are looked for in, as Text Generation Inference does. So a stop string may be a special token's text,
/// a part of it, or span one. *Visible text* leaves special tokens out, and ends with the first stop string, or before it,
/// even inside a token.
#[derive(Clone, Debug)]
pub struct OutputText {
    tokenizer: Tokenizer,
    tokens: Detokenizer,
    visible: Detokenizer,
    stops: StopMatcher,
    stop_text: StopText,
    /// How many tokens no stop string may end yet.
    min_tokens_left: u32,
    ended: bool,
    /// Visible text so far.
    text: String,
    /// How much of it has been taken, in bytes.
    taken: usize,
    /// Bytes of token text so far.
    token_bytes: usize,
    /// Where the tokens began that a stop string may reach back to.
    starts: VecDeque<Start>,
}

/// Whether the visible text has the stop string that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StopText {
    /// At its end, as Text Generation Inference has it.
    #[default]
    Keep,
    /// It ends before, as OpenAI has it.
    Drop,
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

/// Where a token's text begins, in both texts.
#[derive(Clone, Copy, Debug)]
struct Start {
    token: usize,
    visible: usize,
    /// The most bytes of its text that are visible.
    shown: usize,
}

impl OutputText {
    /// A sequence without tokens, which ends at the first of `stops` in its text.
    #[must_use]
    pub fn new(tokenizer: Tokenizer, stops: StopMatcher, stop_text: StopText) -> Self {
        Self {
            tokens: Detokenizer::new(tokenizer.clone(), false),
            visible: Detokenizer::new(tokenizer.clone(), true),
            tokenizer,
            stops,
            stop_text,
            min_tokens_left: 0,
            ended: false,
            text: String::new(),
            taken: 0,
            token_bytes: 0,
            starts: VecDeque::new(),
        }
    }

    /// The same, but that no stop string counts which ends within the first `tokens` tokens. One that begins there and ends behind them
    /// does, as in vLLM (vllm/v1/engine/detokenizer.py).
    #[must_use]
    pub fn with_min_tokens(self, tokens: u32) -> Self {
        Self { min_tokens_left: tokens, ..self }
    }

    /// Takes the next token. The visible text no longer changes once one has `stopped`.
    #[must_use]
    pub fn push(&mut self, id: u32) -> TokenText {
        let special = self.tokenizer.is_special(id);
        let text = self.tokens.push(id);
        if !self.ended {
            // Of a special token's own text nothing is visible; before it may stand a character that it cut short.
            let shown = text.len() - if special { self.tokenizer.bytes(id).len() } else { 0 };
            let found = self.look_at(&text, shown);
            self.text += &self.visible.push(id);
            if let Some(found) = found {
                self.end_at(found, text.get(found.end..shown).unwrap_or_default(), special);
            }
        }
        TokenText { text, special, stopped: self.ended }
    }

    /// The sequence has ended: returns its visible text, which is complete now. A character that was never completed is U+FFFD.
    pub fn finish(&mut self) -> &str {
        if !self.ended {
            let held = self.tokens.finish();
            let found = self.look_at(&held, held.len()).unwrap_or(StopMatch { end: held.len(), len: 0 });
            self.end_at(found, &held[found.end..], true);
        }
        &self.text
    }

    /// The visible text so far; all of it once the sequence has ended.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The visible text that nobody has taken yet, as far as no stop string can take it back.
    #[must_use]
    pub fn take(&mut self) -> &str {
        let final_bytes = match self.stop_text {
            StopText::Drop if !self.ended => self.visible_at(self.token_bytes - self.stops.pending()),
            _ => self.text.len(),
        };
        let from = self.taken.min(final_bytes);
        self.taken = final_bytes;
        &self.text[from..final_bytes]
    }

    /// Looks for stop strings in the next token's text, of which `shown` bytes at its beginning are visible.
    fn look_at(&mut self, text: &str, shown: usize) -> Option<StopMatch> {
        let begin = self.token_bytes;
        self.token_bytes += text.len();
        let found = match self.min_tokens_left.checked_sub(1) {
            None => self.stops.push(text),
            Some(left) => {
                self.min_tokens_left = left;
                self.stops.pass(text);
                None
            }
        };
        if self.stop_text == StopText::Drop {
            self.starts.push_back(Start { token: begin, visible: self.text.len(), shown });
            let reach = found.map_or(self.token_bytes - self.stops.pending(), |found| begin + found.end - found.len);
            while self.starts.get(1).is_some_and(|next| next.token <= reach) {
                self.starts.pop_front();
            }
        }
        found
    }

    /// The visible text ends with this stop string, or before it. `rest`: what of the last token's text comes behind it and is visible.
    /// `with_held`: bytes that are held come before it.
    fn end_at(&mut self, found: StopMatch, rest: &str, with_held: bool) {
        self.ended = true;
        if with_held {
            self.text += &self.visible.finish();
        }
        if let Some(kept) = self.text.strip_suffix(rest) {
            self.text.truncate(kept.len());
        }
        if self.stop_text == StopText::Drop && found.len > 0 {
            // The last token's text has been counted whole.
            let last = self.starts.back().map_or(0, |start| start.token);
            self.text.truncate(self.visible_at(last + found.end - found.len));
        }
    }

    /// The offset in the visible text of what is at `offset` in the token text.
    fn visible_at(&self, offset: usize) -> usize {
        let Some(start) = self.starts.iter().rev().find(|start| start.token <= offset) else { return self.text.len() };
        let at = start.visible + (offset - start.token).min(start.shown);
        self.text.floor_char_boundary(at)
    }
}
