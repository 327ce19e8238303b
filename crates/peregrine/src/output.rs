//! Texts to the standard output.

use anyhow::{Context, Result};
use std::io::Write;

/// Prints `text`.
///
/// # Errors
///
/// Where nobody reads it any more, or there is no room for it.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to the standard output")
}
