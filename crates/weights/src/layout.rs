//! What a model directory holds beside what can be read: files of other formats, adapters, and pointers in place of files.

use crate::WeightsError;
use crate::files::io_error;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
pub(crate) const MANIFEST: &str = "shards.json";
const ADAPTER: &str = "adapter_config.json";
/// Files that a model needs or that say how it is used, and that a clone without Git LFS may lack.
const SMALL_FILES: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", ADAPTER];
/// How the text of a Git LFS pointer begins.
const POINTER: &[u8] = b"version https://git-lfs";

/// Where a directory has its weights.
pub(crate) enum Layout {
    /// In this file.
    Single(PathBuf),
    /// In the files that this index names.
    Indexed(PathBuf),
    /// Cut for the ranks, in the files that this manifest names.
    Cut(PathBuf),
}

/// Looks for weights in `dir`, and for what stands in the way of using them.
///
/// # Errors
///
/// An adapter, a Git LFS pointer, weights in another format only, or no weights at all.
pub(crate) fn find(dir: &Path) -> Result<Layout, WeightsError> {
    for name in SMALL_FILES {
        let path = dir.join(name);
        if path.is_file() && is_pointer(&begin_of(&path)?) {
            return Err(WeightsError::LfsPointer { path });
        }
    }
    if dir.join(ADAPTER).is_file() {
        let error = if dir.join(CONFIG).is_file() { WeightsError::AdapterBeside } else { WeightsError::AdapterAlone };
        return Err(error(dir.join(ADAPTER)));
    }
    let (single, index, manifest) = (dir.join(SINGLE), dir.join(INDEX), dir.join(MANIFEST));
    if manifest.is_file() {
        Ok(Layout::Cut(manifest))
    } else if single.is_file() {
        Ok(Layout::Single(single))
    } else if index.is_file() {
        Ok(Layout::Indexed(index))
    } else {
        Err(other_format(dir))
    }
}

/// Why there are no weights that can be read.
fn other_format(dir: &Path) -> WeightsError {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    let find = |is: fn(&str) -> bool| names.iter().find(|name| is(name)).cloned();
    let dir = dir.to_owned();
    if let Some(file) = find(is_variant) {
        WeightsError::Variant { dir, file }
    } else if let Some(file) = find(is_pickled) {
        WeightsError::Pickled { dir, file }
    } else if let Some(file) = find(|name| name.ends_with(".gguf")) {
        WeightsError::Gguf { dir, file }
    } else if let Some(file) = find(|name| name.starts_with("rank-") && name.ends_with(".safetensors")) {
        WeightsError::NoManifest { dir, file }
    } else if let Some(file) = find(|name| name.ends_with(".safetensors")) {
        WeightsError::OtherName { dir, file }
    } else {
        WeightsError::NoCheckpoint { dir }
    }
}

/// `model.VARIANT.safetensors`, or the index or the first file of one.
fn is_variant(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("model.") else { return false };
    rest.strip_suffix(".safetensors")
        .or_else(|| rest.strip_prefix("safetensors.index.")?.strip_suffix(".json"))
        .is_some()
}

/// `pytorch_model.bin`, its files and its index, and those of older tools.
fn is_pickled(name: &str) -> bool {
    [".bin", ".bin.index.json", ".pt", ".pth", ".ckpt"].iter().any(|suffix| name.ends_with(suffix))
        && name != "training_args.bin"
}

/// What names a file comes with a download and must not lead out of its directory.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

/// Reads a small file whole.
///
/// # Errors
///
/// If it cannot be read, or is a Git LFS pointer.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, WeightsError> {
    let bytes = std::fs::read(path).map_err(io_error(path))?;
    if is_pointer(&bytes) { Err(WeightsError::LfsPointer { path: path.to_owned() }) } else { Ok(bytes) }
}

/// Whether a file of this name holds weights, in whatever format, or says where they are.
pub(crate) fn is_of_weights(name: &str) -> bool {
    const ENDS: [&str; 7] = [".safetensors", ".safetensors.index.json", ".gguf", ".h5", ".msgpack", ".onnx", ".ot"];
    name == MANIFEST || is_variant(name) || is_pickled(name) || ENDS.iter().any(|end| name.ends_with(end))
}

pub(crate) fn is_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(POINTER)
}

fn begin_of(path: &Path) -> Result<Vec<u8>, WeightsError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(POINTER.len() as u64).read_to_end(&mut bytes));
    read.map_err(io_error(path))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_the_names_of_their_files() {
        let cases: [(&[&str], &str); 11] = [
            (&[], "no checkpoint"),
            (&["README.md", "training_args.bin"], "no checkpoint"),
            (&["pytorch_model.bin"], "pytorch_model.bin"),
            (&["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], "pytorch_model-00001-of-00002.bin"),
            (&["consolidated.00.pth"], "consolidated.00.pth"),
            (&["model.bf16.safetensors", "pytorch_model.bin"], "model.bf16.safetensors"),
            (&["model.safetensors.index.fp16.json"], "variant"),
            (&["b.Q4_K.gguf", "a.Q4_K.gguf"], "a.Q4_K.gguf"),
            (&["weights.safetensors"], "weights.safetensors"),
            (&["rank-0-of-2.safetensors"], "no shards.json"),
            (&["model-00001-of-00002.safetensors"], "model-00001-of-00002.safetensors"),
        ];
        for (files, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            for file in files {
                std::fs::write(dir.path().join(file), "x").unwrap();
            }
            let text = find(dir.path()).err().unwrap().to_string();
            assert!(text.contains(expected) && text.contains(&*dir.path().to_string_lossy()), "{files:?}: {text}");
        }
    }
}
