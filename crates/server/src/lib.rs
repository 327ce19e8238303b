//! The public APIs of a running model.
//!
//! * [`Service`]: what every API calls: validate, tokenize, generate, turn tokens into text.
//! * [`GrpcApi`]: `peregrine.v1.Generation`, with [`convert`] between its messages and the types of `api`.
//! * [`serve`]: serves the APIs on listeners, with the standard health and reflection services, and ends them.
//!
//! **Invariant:** an API only translates; it decides nothing about a request.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod accept;
mod admission;
mod completion;
pub mod convert;
mod descriptors;
mod error;
mod grpc;
mod http;
mod incoming;
mod limits;
mod listen;
mod metrics;
mod service;
mod socket;
mod token_stream;
mod tokenizing;

pub use completion::Completion;
pub use descriptors::raise_descriptor_limit;
pub use error::Error;
pub use grpc::GrpcApi;
pub use limits::DEFAULT_STALL_LIMIT;
pub use listen::{Listeners, serve};
pub use service::{Info, Service};
pub use token_stream::{TokenEvent, TokenStream};
pub use tokenizing::TokenizerPool;
