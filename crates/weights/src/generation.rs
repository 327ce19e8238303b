//! `generation_config.json` of a model directory.

use crate::WeightsError;
use crate::layout::read;
use std::path::Path;

/// The tokens that `generation_config.json` in the model directory `dir` names as the ends of a text; none if there is no
/// such file.
///
/// # Errors
///
/// If the file is there and cannot be read.
pub fn read_generation_eos(dir: &Path) -> Result<Vec<u32>, WeightsError> {
    let path = dir.join("generation_config.json");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    model::generation_eos(&read(&path)?).map_err(|reason| WeightsError::Config { path, reason })
}
