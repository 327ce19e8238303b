//! Texts from the standard input.

use anyhow::{Context, Result};
use std::io::Read;

/// The standard input, without the one line end that shells and editors put behind a text.
pub fn read_stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the text from the standard input")?;
    let line = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    text.truncate(line.len());
    Ok(text)
}
