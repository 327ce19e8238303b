//! The public request, parameter and response types with their validation, shared by gRPC, HTTP and the command line.
//!
//! * [`GenerateRequest`] with its [`Parameters`] is what a client sends.
//! * [`check`] holds all but the prompt's tokens against the [`Limits`], and [`CheckedRequest::encode`] makes a [`ValidRequest`] of
//!   what it returns: the only way to have one, so nothing behind it checks again.
//! * [`GenerateResponse`] is what a client gets; [`ErrorBody`] where that fails.
//!
//! Names, defaults, limits, messages and JSON shapes are those of Text Generation Inference ("TGI"), 0.9.3 and up.
//!
//! **Invariant:** no socket, clock, entropy or tokenizer: what validation needs of them is passed in.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod error;
mod request;
mod response;
mod validation;
mod validation_error;

pub use error::{ErrorBody, ErrorKind};
pub use request::{GenerateRequest, Inputs, Parameters};
pub use response::{BestOfSequence, Details, GenerateResponse, PrefillToken, StreamDetails, Token};
pub use step::{FinishReason, Priority};
pub use validation::{CheckedRequest, Limits, ValidRequest, check};
pub use validation_error::ValidationError;
