//! The dialects: how clients ask, and how they are answered.
//!
//! **Invariant:** a dialect translates; it decides nothing about a request.

pub mod grpc;
pub mod openai;
pub(crate) mod sagemaker;
pub mod tgi;
