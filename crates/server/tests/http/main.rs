//! The dialects over HTTP, before ranks that say what the tests want.

mod access;
mod openai;
mod page;
mod sagemaker;
mod scripted;
mod tgi;
