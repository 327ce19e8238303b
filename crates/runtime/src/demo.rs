//! The demo model, which comes with the program.

use crate::EngineError;
use std::path::{Path, PathBuf};

/// The folder of the demo model: beside the program where it was installed with one, else in the source tree that the
/// program was built from.
///
/// # Errors
///
/// [`EngineError::NoDemo`]: it is in neither place.
pub fn model_dir() -> Result<PathBuf, EngineError> {
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("falcon-demo")));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("falcon-demo");
    let candidates: Vec<PathBuf> = beside.into_iter().chain([source]).collect();
    let found = candidates.iter().find(|dir| dir.join("config.json").is_file()).cloned();
    found.ok_or(EngineError::NoDemo { candidates })
}
