//! Texts from the standard input.

use anyhow::{Context, Result};
use std::io::Read;

/// The standard input, without the line end that shells and editors put behind a text.
pub fn read_stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the text from the standard input")?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}
