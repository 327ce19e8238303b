//! Tokenizer, incremental detokenizer and stop strings.
//!
//! * [`Tokenizer`] turns text into token ids and back.
//! * [`Detokenizer`] does the way back token by token, and never emits half a character.
//! * [`StopMatcher`] finds stop strings in text that arrives in pieces, and holds back what may become one.
//! * [`OutputText`] joins them: what the task of one request puts its tokens through.
//!
//! **Invariant:** no socket, clock or tensor; the only file read is the tokenizer's.

#![forbid(unsafe_code)]

mod detokenizer;
mod output;
mod stop;
mod tokenizer;

pub use detokenizer::Detokenizer;
pub use output::{OutputText, Piece};
pub use stop::StopMatcher;
pub use tokenizer::{Token, Tokenizer, TokenizerError};
