//! The dialects over HTTP, before ranks that say what the tests want.

mod access;
mod authority;
mod drains;
mod keep_alive;
mod openai;
mod page;
mod recovery;
mod sagemaker;
mod scripted;
mod telemetry;
mod tgi;
mod tls;
