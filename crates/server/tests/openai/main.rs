//! OpenAI's dialect over HTTP, before ranks that say what the tests want.

mod completions;
mod errors;
mod models;
mod scripted;
mod streams;
