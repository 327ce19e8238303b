//! OpenAI's dialect.

mod chat;
mod completions;
mod conversations;
mod errors;
mod models;
mod streams;
mod token_ids;
