//! What the owner of a checkpoint should know, though it can be used.

use model::{FalconConfig, TensorId, TensorNames};
use safetensors::Dtype;
use std::fmt;

/// Something about a checkpoint that its owner should know, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// The config ties the output projection to the embedding table, but both are stored and differ.
    HeadDiffers {
        /// The name of the output projection.
        head: String,
        /// The name of the embedding table.
        table: String,
    },
    /// Weights are stored in a type that bf16 cannot hold.
    Rounded {
        /// How many matrices.
        matrices: usize,
        /// The type.
        from: Dtype,
    },
    /// The config says that the weights were quantized, and they are not.
    NotQuantized {
        /// The method that the config names.
        method: String,
    },
    /// Stored buffers, which are computed instead.
    Buffers {
        /// How many.
        count: usize,
    },
    /// Keys of config.json that are not known.
    UnknownKeys {
        /// Sorted.
        keys: Vec<String>,
    },
}

impl Note {
    /// Whether it may surprise: the rest is for those who ask.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        matches!(self, Self::HeadDiffers { .. })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeadDiffers { head, table } => write!(
                f,
                "config.json ties the output projection to the embedding table, but `{head}` is stored and differs from \
                 `{table}`: the stored one is used, as by transformers 5 (set `tie_word_embeddings` to false)"
            ),
            Self::Rounded { matrices, from } => {
                let matrices = if *matrices == 1 { "1 matrix".to_owned() } else { format!("{matrices} matrices") };
                write!(f, "{matrices} stored as {from}: rounded to BF16; norms and biases keep their precision")
            }
            Self::NotQuantized { method } => write!(
                f,
                "config.json has a `quantization_config` of method {method}, but the weights are stored unquantized: they are \
                 used as they are"
            ),
            Self::Buffers { count } => {
                write!(f, "{count} stored buffers are not read: they are computed from config.json")
            }
            Self::UnknownKeys { keys } => {
                write!(f, "config.json has keys without a meaning for Falcon: {}", keys.join(", "))
            }
        }
    }
}

/// `dtype` gives the type in which a tensor is stored.
pub(crate) fn of(
    config: &FalconConfig,
    json: &[u8],
    dtype: impl Fn(TensorId) -> Dtype,
    names: &TensorNames,
    quantization: Option<String>,
) -> Vec<Note> {
    let matrices = model::tensors(config).into_iter().filter(|spec| spec.shape.len() > 1);
    let types: Vec<Dtype> = matrices.map(|spec| dtype(spec.id)).collect();
    let rounded = [Dtype::F16, Dtype::F32].into_iter().filter_map(|from| {
        let matrices = types.iter().filter(|dtype| **dtype == from).count();
        (matrices > 0).then_some(Note::Rounded { matrices, from })
    });
    let mut notes: Vec<Note> = rounded.collect();
    notes.extend(quantization.map(|method| Note::NotQuantized { method }));
    if names.buffers() > 0 {
        notes.push(Note::Buffers { count: names.buffers() });
    }
    let keys = FalconConfig::unknown_keys(json);
    if !keys.is_empty() {
        notes.push(Note::UnknownKeys { keys });
    }
    notes
}
