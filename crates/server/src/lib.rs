//! The public faces of a running model.
//!
//! * [`Service`]: what every face calls: validate, tokenize, generate, turn tokens into text.
//! * [`GrpcFace`]: `peregrine.v1.Generation`, with [`convert`] between its messages and the types of `api`.
//! * [`serve`]: binds the faces to listeners, with the standard health and reflection services, and ends them.
//!
//! **Invariant:** a face only translates; it decides nothing about a request.

#![forbid(unsafe_code)]

mod answer;
pub mod convert;
mod error;
mod grpc;
mod http;
mod listen;
mod metrics;
mod places;
mod service;

pub use answer::{Answer, Finished, Step};
pub use error::Error;
pub use grpc::GrpcFace;
pub use listen::{Listeners, serve};
pub use service::{Info, Service};
