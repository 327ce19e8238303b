//! `peregrine bench make-model`: a model of random weights, as a folder that every command takes.

use super::{SMALL_CONFIG, falcon_7b};
use crate::output::print;
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use model::{FalconConfig, Part};
use runtime::{EngineError, demo};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Weights are drawn evenly between this and its negative: small enough that no layer overflows.
const LARGEST: f32 = 0.03;

/// Weights are drawn once, and repeated: nothing in the model notices, and a disk is slower than this.
/// Of no length that a row divides, so that rows differ.
const TABLE_LEN: usize = (1 << 20) - 3;

/// 1 in bf16.
const ONE: [u8; 2] = [0x80, 0x3f];

/// Arguments of `peregrine bench make-model`.
#[derive(Args, Debug)]
pub struct MakeModelArgs {
    /// Folder to make.
    dir: PathBuf,
    /// The model's shape.
    #[arg(long, value_enum, default_value_t = Shape::Small)]
    shape: Shape,
    /// A tokenizer.json to put beside the weights; the demo model's if not given. Tokens that it lacks have no text.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

/// Shapes of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// 24 layers of 2,048 columns, 32 query heads, one KV head; 2.6 GB.
    #[value(name = "1.3b")]
    Small,
    /// Falcon-7B; 13.8 GB.
    #[value(name = "7b")]
    Falcon7b,
    /// A few million parameters, for tests.
    #[value(name = "tiny", hide = true)]
    Tiny,
}

impl Shape {
    fn config(self) -> Value {
        let json = match self {
            Self::Small | Self::Tiny => SMALL_CONFIG,
            Self::Falcon7b => falcon_7b().config_json(),
        };
        let mut config: Value = serde_json::from_slice(json).expect("the config is valid");
        if self == Self::Tiny {
            let fewer =
                [("hidden_size", 256), ("num_hidden_layers", 2), ("num_attention_heads", 4), ("vocab_size", 4_096)];
            fewer.into_iter().for_each(|(key, number)| config[key] = json!(number));
        }
        config
    }
}

/// Writes the folder.
pub fn run(args: &MakeModelArgs) -> Result<()> {
    let MakeModelArgs { dir, shape, tokenizer } = args;
    ensure!(!dir.exists(), "{}: it exists already", dir.display());
    let tokenizer =
        tokenizer.clone().map_or_else(|| Ok(demo::model_dir()?.join("tokenizer.json")), Ok::<_, EngineError>)?;
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    std::fs::write(dir.join("config.json"), format!("{:#}\n", shape.config()))?;
    std::fs::copy(&tokenizer, dir.join("tokenizer.json")).with_context(|| tokenizer.display().to_string())?;
    let config = weights::read_config(dir)?;
    let bytes = write_weights(&config, &dir.join("model.safetensors"))?;
    print(&format!("{}: {:.2} GB of random weights\n", dir.display(), bytes as f64 / 1e9))
}

/// Every tensor of the model in bf16, in one file. Says how many bytes they have.
fn write_weights(config: &FalconConfig, path: &Path) -> Result<usize> {
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
    let mut file = Pieces { file: File::create(path).with_context(|| path.display().to_string())?, next: Vec::new() };
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let (table, mut at) = (random_table(), 0);
    for tensor in &tensors {
        let bytes = 2 * tensor.elements();
        match (tensor.shape.len(), tensor.id.part) {
            // Norms scale by 1 and add nothing, as before any training.
            (1, Part::Weight) => file.write_all(&ONE.repeat(bytes / 2))?,
            (1, Part::Bias) => file.write_all(&vec![0; bytes])?,
            _ => at = write_from(&table, at, bytes, &mut file)?,
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
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let part = bytes.len().min(PIECE_BYTES - self.next.len());
        self.next.extend_from_slice(&bytes[..part]);
        if self.next.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(part)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.write_all(&self.next)?;
        self.next.clear();
        Ok(())
    }
}

/// Writes `bytes` of the table, over and over from `at` on, and returns where that ended.
fn write_from(table: &[u8], mut at: usize, bytes: usize, file: &mut impl Write) -> std::io::Result<usize> {
    let mut left = bytes;
    while left > 0 {
        let part = left.min(table.len() - at);
        file.write_all(&table[at..at + part])?;
        (left, at) = (left - part, (at + part) % table.len());
    }
    Ok(at)
}

/// Random numbers as bytes of bf16: the upper halves of f32.
fn random_table() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(0);
    let number = |_| (LARGEST * (2.0 * random.f32() - 1.0)).to_bits().to_le_bytes();
    (0..TABLE_LEN).map(number).flat_map(|[_, _, low, high]| [low, high]).collect()
}
