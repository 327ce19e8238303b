//! The demo model, which comes with the program.

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// The folder of the demo model: beside the program where it was installed with one, else in the source tree that the
/// program was built from.
pub fn model_dir() -> Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("falcon-demo")));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("falcon-demo");
    let candidates: Vec<PathBuf> = beside.into_iter().chain([source]).collect();
    match candidates.iter().find(|dir| dir.join("config.json").is_file()) {
        Some(dir) => Ok(dir.clone()),
        None => bail!("the demo model is in none of {candidates:?}; name a model's folder with --model"),
    }
}
