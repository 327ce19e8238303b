//! Benchmarks against servers that answer by heart, and break off by heart.
//!
//! * [`stand_in`]: the servers. * [`http`], [`grpc`]: what is made of one answer. * [`serve`]: `bench serve` as a whole.

mod grpc;
mod http;
mod serve;
mod stand_in;

use bench::{Dialect, Parameters, Prompt, Request, TargetOptions};
use std::time::Duration;

/// A request for three tokens.
fn request(text: &str) -> Request {
    let parameters = Parameters { max_new_tokens: 3, ..Parameters::default() };
    Request { prompt: Prompt::Text(text.to_owned()), parameters, ignore_eos: true, cancel_after: None }
}

/// Streams of the server there.
fn options(address: String, dialect: Dialect) -> TargetOptions {
    TargetOptions {
        address,
        dialect,
        model: None,
        api_key: None,
        ca: None,
        stream: true,
        limit: Duration::from_secs(30),
    }
}
