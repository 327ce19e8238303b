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
    /// The directory holds weights that were cut for ranks, without their manifest.
    #[error(
        "{dir}: no shards.json, but {file}: it is what `peregrine shard` writes last; cut the model again, or copy the whole \
         folder"
    )]
    NoManifest {
        dir: PathBuf,
        /// The first file, by name.
        file: String,
    },
    /// The manifest of a cut model makes no sense.
    #[error("{path}: not a manifest of `peregrine shard`: {reason}; cut the model again")]
    Manifest {
        path: PathBuf,
        /// The field, what was expected and what was found.
        reason: String,
    },
    /// A file of a cut model is not the one that was written.
    #[error(
        "{path}: not the file that shards.json names: expected {expected}, found {found}; copy it again, or cut the model again"
    )]
    FileChanged { path: PathBuf, expected: String, found: String },
    /// A tensor of a cut model is not what was written.
    #[error(
        "{path}: tensor `{tensor}` is damaged: its CRC-32 is {found:08x}, and {expected:08x} by shards.json; copy the file \
         again, or cut the model again"
    )]
    TensorChanged {
        path: PathBuf,
        tensor: String,
        /// By the manifest.
        expected: u32,
        /// Of what was read.
        found: u32,
    },
    /// The weights were cut for another number of ranks.
    #[error(
        "{dir}: these weights are cut for --tensor-parallel {cut}, not {asked}; ask for that, or cut the model again"
    )]
    Degree {
        dir: PathBuf,
        /// Ranks for which they were cut.
        cut: usize,
        /// Ranks that are to load them.
        asked: usize,
    },
    /// The model to be cut is cut already.
    #[error("{dir}: these weights are cut already; cut the model that they were made from")]
    CutAlready { dir: PathBuf },
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
