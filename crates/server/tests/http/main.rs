//! The dialects over HTTP, before ranks that say what the tests want.

mod openai;
mod page;
mod sagemaker;
mod scripted;
mod tgi;
