//! Tokenizer, incremental detokenizer, stop strings and chat templates.
//!
//! * [`Tokenizer`] turns text into token ids and back.
//! * [`EndOfText`] says which tokens end a text.
//! * [`Detokenizer`] does the way back token by token, and never emits half a character.
//! * [`StopMatcher`] finds stop strings in text that arrives in pieces.
//! * [`OutputText`] joins them: what the task of one request puts its tokens through.
//! * [`ChatTemplate`] makes prompts of conversations.
//!
//! **Invariant:** no socket, clock or tensor; the only files read are the tokenizer's and its chat templates.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod chat;
mod cut;
mod detokenizer;
mod eos;
mod error;
mod lfs;
mod open;
mod output;
mod settings;
mod special_tokens;
mod stop;
mod tokenizer;

pub use chat::{ChatError, ChatTemplate, ChatTemplateError, Conversation};
pub use detokenizer::Detokenizer;
pub use eos::{EndOfText, EosError, EosToken};
pub use error::TokenizerError;
pub use output::{OutputText, StopText, TokenText};
pub use stop::{StopMatch, StopMatcher};
pub use tokenizer::{Token, Tokenizer};
