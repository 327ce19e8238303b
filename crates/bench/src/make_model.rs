//! `peregrine bench make-model`: a model of random weights, as a folder that every command takes.

use crate::shape::Shape;
use forward::WeightSource;
use half::bf16;
use model::{FalconConfig, Partition};
use runtime::{EngineError, demo};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use testkit::RandomWeights;
use weights::WeightsError;

/// What is made, and where.
#[derive(Clone, Debug)]
pub struct MakeModelOptions {
    /// The folder, which is not there yet.
    pub dir: PathBuf,
    /// The model's shape.
    pub shape: Shape,
    /// The tokenizer.json to put beside the weights; the demo model's if `None`. Tokens that it lacks have no text.
    pub tokenizer: Option<PathBuf>,
}

/// Why no model was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum MakeModelError {
    /// Nothing is overwritten.
    #[error("{}: it exists already", .0.display())]
    Exists(PathBuf),
    /// The demo model's tokenizer.json is not there.
    #[error(transparent)]
    Demo(#[from] EngineError),
    /// A file cannot be read or written.
    #[error("{}: {error}", .path.display())]
    File { path: PathBuf, error: io::Error },
    /// The config.json that was written cannot be read.
    #[error(transparent)]
    Config(#[from] WeightsError),
}

/// Writes the folder. Gives the bytes of its weights.
///
/// # Errors
///
/// [`MakeModelError`].
pub fn run(options: &MakeModelOptions) -> Result<usize, MakeModelError> {
    let MakeModelOptions { dir, shape, tokenizer } = options;
    if dir.exists() {
        return Err(MakeModelError::Exists(dir.clone()));
    }
    let tokenizer = match tokenizer {
        Some(tokenizer) => tokenizer.clone(),
        None => demo::model_dir()?.join("tokenizer.json"),
    };
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| MakeModelError::File { path, error }
    };
    std::fs::create_dir_all(dir).map_err(at(dir))?;
    let [config, weights] = ["config.json", "model.safetensors"].map(|name| dir.join(name));
    std::fs::write(&config, format!("{:#}\n", shape.config_json())).map_err(at(&config))?;
    std::fs::copy(&tokenizer, dir.join("tokenizer.json")).map_err(at(&tokenizer))?;
    write_weights(&weights::read_config(dir)?, &weights).map_err(at(&weights))
}

/// Every tensor of the model in bf16, in one file. Says how many bytes they have.
fn write_weights(config: &FalconConfig, path: &Path) -> io::Result<usize> {
    let tensors = model::tensors(config);
    let (mut header, mut bytes) = (serde_json::Map::new(), 0);
    for tensor in &tensors {
        let end = bytes + 2 * tensor.elements();
        let entry = json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [bytes, end]});
        header.insert(tensor.id.to_string(), entry);
        bytes = end;
    }
    let mut header = Value::Object(header).to_string();
    // As everyone else who writes the format, so that tensors begin at a multiple of 8.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut file = Pieces { file: File::create(path)?, next: Vec::new() };
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let random = RandomWeights::new(0);
    // A world of one has every tensor, in the same order.
    for tensor in model::shard(config, &Partition::new(config, 0, 1)) {
        let elements = tensor.local_elements();
        if tensor.columns_total == 1 {
            let mut values = vec![0.0; elements];
            random.read_f32(&tensor, &mut values);
            values.into_iter().try_for_each(|value| file.write_all(&bf16::from_f32(value).to_le_bytes()))?;
            continue;
        }
        for start in (0..elements).step_by(PIECE_BYTES / 2) {
            let range = start..elements.min(start + PIECE_BYTES / 2);
            let mut values = vec![bf16::ZERO; range.len()];
            random.read(&tensor, range, &mut values);
            let bytes: Vec<u8> = values.into_iter().flat_map(bf16::to_le_bytes).collect();
            file.write_all(&bytes)?;
        }
    }
    file.flush()?;
    Ok(bytes)
}

/// A file that is written in large pieces, each at a multiple of its size: so that the page cache takes it in huge pages, as
/// it would take it from the disk.
struct Pieces {
    file: File,
    next: Vec<u8>,
}

const PIECE_BYTES: usize = 8 << 20;

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = bytes.len().min(PIECE_BYTES - self.next.len());
        self.next.extend_from_slice(&bytes[..part]);
        if self.next.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(part)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.next)?;
        self.next.clear();
        Ok(())
    }
}
