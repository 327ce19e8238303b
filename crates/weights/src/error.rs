//! Why a model directory cannot be read.

use crate::Fault;
use model::{ConfigError, NamesError};
use safetensors::SafeTensorError;
use std::io;
use std::path::PathBuf;

/// Why a model directory cannot be read. Every text names the file, and the tensor where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum WeightsError {
    /// A file cannot be opened, read or mapped.
    #[error("{path}: {reason}")]
    Io { path: PathBuf, reason: io::Error },
    /// A file that is mapped cannot be read any more.
    #[error("{path}: {fault}")]
    Unreadable { path: PathBuf, fault: Fault },
    /// `config.json` is not that of a Falcon model.
    #[error("{path}: {reason}")]
    Config {
        path: PathBuf,
        /// What is wrong with it.
        reason: ConfigError,
    },
    /// The directory holds no weights of any format.
    #[error("{dir}: no checkpoint, expected model.safetensors or model.safetensors.index.json in this directory")]
    NoCheckpoint { dir: PathBuf },
    /// The directory holds weights in PyTorch's pickled format only.
    #[error(
        "{dir}: no model.safetensors, but {file}: pickled PyTorch weights are not read; convert them, by \
         AutoModelForCausalLM.from_pretrained(\"{dir}\").save_pretrained(\"NEW\") in transformers"
    )]
    Pickled {
        dir: PathBuf,
        /// The first file, by name.
        file: String,
    },
    /// The directory holds weights of a variant only.
    #[error(
        "{dir}: no model.safetensors, but {file}: weights of a variant are not looked for; rename its files to \
         model.safetensors, or model.safetensors.index.json and what that names"
    )]
    Variant {
        dir: PathBuf,
        /// The first file, by name.
        file: String,
    },
    /// The directory holds safetensors files of other names only.
    #[error(
        "{dir}: no model.safetensors and no model.safetensors.index.json, but {file}: rename it if it is the only one, or \
         download the index"
    )]
    OtherName {
        dir: PathBuf,
        /// The first file, by name.
        file: String,
    },
    /// The directory holds weights for llama.cpp only.
    #[error(
        "{dir}: no model.safetensors, but {file}: GGUF is not read; take the safetensors files that it was made from"
    )]
    Gguf {
        dir: PathBuf,
        /// The first file, by name.
        file: String,
    },
    /// The directory is an adapter's, without the model.
    #[error(
        "{0}: this directory holds an adapter, and not the model that it is for; merge the two, by AutoPeftModelForCausalLM\
         .from_pretrained(DIR).merge_and_unload().save_pretrained(\"NEW\") in peft"
    )]
    AdapterAlone(PathBuf),
    /// An adapter lies beside a model.
    #[error(
        "{0}: an adapter lies beside the model, and transformers would apply it; merge the two, by AutoPeftModelForCausalLM\
         .from_pretrained(DIR).merge_and_unload().save_pretrained(\"NEW\") in peft, or move this file away to serve the \
         model without it"
    )]
    AdapterBeside(PathBuf),
    /// The weights are those of a model with an adapter in it.
    #[error(
        "{path}: tensor `{tensor}` is an adapter's: save the model after merge_and_unload() of peft, which adds the adapter to \
         the weights"
    )]
    AdapterInside { path: PathBuf, tensor: String },
    /// A pointer of Git LFS lies in place of a file.
    #[error("{path}: a pointer of Git LFS, and not the file itself; run `git lfs pull` in its directory")]
    LfsPointer { path: PathBuf },
    /// The weights are quantized.
    #[error(
        "{path}: the weights are quantized ({method}; tensor `{tensor}` is {found}), which is not supported; take the \
         checkpoint in BF16, F16 or F32"
    )]
    Quantized {
        path: PathBuf,
        /// The first such tensor, by name.
        tensor: String,
        found: safetensors::Dtype,
        /// How, by the config or the tensor's name.
        method: String,
    },
    /// The index is not valid JSON.
    #[error("{path}: not valid JSON: {reason}")]
    IndexJson { path: PathBuf, reason: serde_json::Error },
    /// The index has no usable `weight_map`.
    #[error("{path}: expected an object `weight_map` of at least one tensor name with its file name, found {found}")]
    IndexShape { path: PathBuf, found: &'static str },
    /// The index gives a tensor something else than the name of a file beside it.
    #[error("{path}: tensor `{tensor}`: expected the name of a file in the same directory, found {found}")]
    IndexEntry {
        path: PathBuf,
        tensor: String,
        /// What the index gives, as JSON.
        found: String,
    },
    /// The index names a file that is not there.
    #[error("{path}: tensor `{tensor}` should be in `{file}`, but there is no such file")]
    IndexedFileMissing {
        path: PathBuf,
        /// The first tensor that should be in the file.
        tensor: String,
        file: String,
    },
    /// The index names a file that does not hold the tensor.
    #[error(
        "{path}: tensor `{tensor}` should be in `{file}`, but that file does not hold it; take its line out of the index if the model has no such tensor"
    )]
    IndexedTensorMissing { path: PathBuf, tensor: String, file: String },
    /// Two files hold a tensor of the same name.
    #[error("tensor `{tensor}` is in two files: {first} and {second}")]
    Duplicate { tensor: String, first: PathBuf, second: PathBuf },
    /// The tensors that the header lists do not fill the file.
    #[error(
        "{path}: its {found} bytes are not the sum of its header and tensors: cut short, or not wholly downloaded?"
    )]
    Length { path: PathBuf, found: usize },
    /// The header is damaged.
    #[error("{path}: not a valid safetensors header: {reason} (the file has {bytes} bytes)")]
    Header {
        path: PathBuf,
        /// Bytes that the file has.
        bytes: usize,
        /// What the parser says; it names the tensor where offsets overlap or leave a gap.
        reason: SafeTensorError,
    },
    /// A tensor has elements of a type that is not supported.
    #[error("{path}: tensor `{tensor}`: expected dtype BF16, F16 or F32, found {found}")]
    Dtype { path: PathBuf, tensor: String, found: safetensors::Dtype },
    /// The checkpoint's tensors are not those of the model.
    #[error("{path}: {reason}")]
    Names {
        /// The file that stores the tensor, or the directory where the tensor is missing.
        path: PathBuf,
        /// Which tensor, and what is wrong with it.
        reason: NamesError,
    },
}
