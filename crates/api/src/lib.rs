//! What a request asks for and what it is answered with, in no protocol's words, and what makes a request valid.
//!
//! * [`Request`] is what a dialect makes of what its client sent.
//! * [`check`] holds all but the prompt's tokens against the [`Limits`], and [`CheckedRequest::encode`] makes a [`ValidRequest`] of
//!   what it returns: the only way to have one, so nothing behind it checks again.
//! * [`Violation`] is the rule that a request breaks: a code with the field and the numbers.
//! * [`TokenEvent`]s and the [`Answer`] are what comes of it.
//!
//! **Invariant:** no socket, clock, entropy or tokenizer: what validation needs of them is passed in.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod answer;
mod limits;
mod request;
mod validation;
mod violation;

pub use answer::{Answer, Completion, PromptToken, Timings, Token, TokenEvent};
pub use limits::Limits;
pub use request::{Grammar, Prompt, Request, Sampling, Stop};
pub use step::{FinishReason, Priority, TokenBias};
pub use text::{ChatError, Conversation};
pub use validation::{CheckedRequest, ValidRequest, check};
pub use violation::{Field, Range, Violation};
