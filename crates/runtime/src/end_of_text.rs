//! What a model's folder must agree on: the ends of a text, and the vocabulary of tokenizer and model.

use crate::EngineError;
use model::FalconConfig;
use std::path::Path;
use text::{EndOfText, Tokenizer};
use tracing::{info, warn};

/// Tokens that are named in a warning.
const NAMED_MAX: usize = 8;

/// The tokens that end a text. The log says which, and where each is named.
pub(crate) fn end_of_text(dir: &Path, config: &FalconConfig, tokenizer: &Tokenizer) -> Result<Vec<u32>, EngineError> {
    let generation_config = weights::read_generation_eos(dir)?;
    let ends = EndOfText::new(&generation_config, &config.eos, tokenizer.eos(), config.vocab)
        .map_err(|error| EngineError::EndOfText { dir: dir.to_owned(), error })?;
    if ends.ids().is_empty() {
        warn!(
            "no token ends a text: neither generation_config.json, config.json nor the tokenizer names one; every answer \
             goes on to its max_new_tokens or a stop string"
        );
    } else {
        info!("tokens that end a text: {ends}");
    }
    Ok(ends.ids())
}

/// Warns of tokens that the tokenizer has and the model has not. (The other way round is usual: embeddings are padded.)
pub(crate) fn compare_vocabularies(config: &FalconConfig, tokenizer: &Tokenizer) -> Result<(), EngineError> {
    let beyond = tokenizer.tokens_beyond(config.vocab)?;
    if beyond.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = beyond.iter().take(NAMED_MAX).map(|(id, text)| format!("`{text}` ({id})")).collect();
    let more = if beyond.len() > NAMED_MAX { ", ..." } else { "" };
    warn!(
        "the tokenizer has {} tokens that the model does not have, whose vocabulary is {}: {}{more}; prompts with one are \
         refused",
        beyond.len(),
        config.vocab,
        names.join(", ")
    );
    Ok(())
}
