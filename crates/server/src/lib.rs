//! The public APIs of a running model.
//!
//! * [`Service`]: what every dialect calls: validate, tokenize, generate, turn tokens into text.
//! * [`dialects`]: how clients ask, and how they are answered.
//! * [`serve`]: serves them on listeners, with the standard health and reflection services, and ends them.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod accept;
mod access;
mod admission;
mod chat;
mod connection;
mod descriptors;
pub mod dialects;
mod drain;
mod error;
mod follow;
mod http;
mod incoming;
mod limits;
mod listen;
mod listener;
mod opening;
mod reader;
mod seldom;
mod sequence;
mod service;
mod socket;
mod state;
mod telemetry;
mod tls;
mod token_stream;
mod tokenizing;

pub use access::{CallerName, Keys, Origin, first_key};
pub use chat::{Chat, ChatOverflow};
pub use descriptors::raise_descriptor_limit;
pub use dialects::grpc::GrpcApi;
pub use error::Error;
pub use follow::FileError;
pub use limits::{DEFAULT_CONNECTIONS_MAX, DEFAULT_PAYLOAD_LIMIT, DEFAULT_STALL_LIMIT};
pub use listen::{Listeners, Settings, serve};
pub use listener::Listener;
pub use service::{Info, Service};
pub use state::{State, StateName};
pub use telemetry::{OtlpProtocol, Sampling, Telemetry, TelemetryOptions, Traces, TracesError};
pub use tls::{Tls, TlsFiles};
pub use token_stream::TokenStream;
pub use tokenizing::TokenizerPool;
