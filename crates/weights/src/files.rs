//! A model directory: its `config.json` and its safetensors files.

use crate::header::{self, Stored};
use crate::mmap::MappedFile;
use crate::{ShardReader, WeightsError, index};
use model::{Checkpoint, CheckpointError, FalconConfig, Partition};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads `config.json` of the model directory `dir`.
///
/// # Errors
///
/// If the file cannot be read, or is not the config of a Falcon model.
pub fn read_config(dir: &Path) -> Result<FalconConfig, WeightsError> {
    let path = dir.join("config.json");
    FalconConfig::from_json(&read(&path)?).map_err(|reason| WeightsError::Config { path, reason })
}

/// The safetensors files of a model directory, mapped into memory, with the place of each of their tensors.
pub struct CheckpointFiles {
    dir: PathBuf,
    files: Vec<Arc<MappedFile>>,
    tensors: BTreeMap<String, Located>,
}

/// A tensor with the number of its file.
pub(crate) struct Located {
    file: usize,
    pub(crate) stored: Stored,
}

impl CheckpointFiles {
    /// Maps `model.safetensors`, or else all files that `model.safetensors.index.json` names, and checks their headers.
    /// No tensor is read yet.
    ///
    /// # Errors
    ///
    /// If there is neither; if a file cannot be mapped, or its header is damaged or does not fit its length; if a
    /// tensor is neither BF16, F16 nor F32; if the index names a file outside of `dir`, a file that is missing, or a
    /// file that does not hold the tensor; if two files hold the same tensor.
    pub fn open(dir: &Path) -> Result<Self, WeightsError> {
        let mut opened = Self { dir: dir.to_owned(), files: Vec::new(), tensors: BTreeMap::new() };
        let (single, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
        if single.is_file() {
            opened.add(single)?;
        } else if index.is_file() {
            opened.add_indexed(&index)?;
        } else {
            return Err(WeightsError::NoCheckpoint { dir: dir.to_owned() });
        }
        Ok(opened)
    }

    /// A reader of the tensors that `partition` holds, once the files hold every tensor of the model in its shape, and
    /// nothing else.
    ///
    /// # Errors
    ///
    /// A tensor that is missing, unknown or of the wrong shape, with the file that stores it.
    pub fn shard(&self, config: &FalconConfig, partition: &Partition) -> Result<ShardReader<'_>, WeightsError> {
        let stored = self.tensors.iter().map(|(name, located)| (&**name, &*located.stored.shape));
        let checkpoint = Checkpoint::match_names(config, stored).map_err(|reason| {
            let path = match &reason {
                CheckpointError::Unknown { name, .. } | CheckpointError::Shape { name, .. } => self.path(name),
                _ => self.dir.clone(),
            };
            WeightsError::Checkpoint { path, reason }
        })?;
        let tensors = model::shard(config, partition);
        Ok(ShardReader::new(self, tensors, |id| &self.tensors[checkpoint.name(id)]))
    }

    pub(crate) fn file(&self, located: &Located) -> &Arc<MappedFile> {
        &self.files[located.file]
    }

    fn path(&self, tensor: &str) -> PathBuf {
        self.file(&self.tensors[tensor]).path.clone()
    }

    fn add_indexed(&mut self, index_path: &Path) -> Result<(), WeightsError> {
        let entries = index::parse(index_path, &read(index_path)?)?;
        for (tensor, file) in &entries {
            if !self.dir.join(file).is_file() {
                let (path, tensor, file) = (index_path.to_owned(), tensor.clone(), file.clone());
                return Err(WeightsError::IndexedFileMissing { path, tensor, file });
            }
        }
        for file in entries.values().collect::<BTreeSet<_>>() {
            self.add(self.dir.join(file))?;
        }
        for (tensor, file) in entries {
            if !self.tensors.contains_key(&tensor) || self.path(&tensor) != self.dir.join(&file) {
                return Err(WeightsError::IndexedTensorMissing { path: index_path.to_owned(), tensor, file });
            }
        }
        Ok(())
    }

    /// Maps one more file, and adds its tensors.
    fn add(&mut self, path: PathBuf) -> Result<(), WeightsError> {
        let map = MappedFile::open(path)?;
        let file = self.files.len();
        for (tensor, stored) in header::parse(&map.path, map.bytes())? {
            if self.tensors.contains_key(&tensor) {
                return Err(WeightsError::Duplicate { first: self.path(&tensor), second: map.path, tensor });
            }
            self.tensors.insert(tensor, Located { file, stored });
        }
        self.files.push(Arc::new(map));
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, WeightsError> {
    std::fs::read(path).map_err(io_error(path))
}

pub(crate) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> WeightsError {
    move |reason| WeightsError::Io { path: path.to_owned(), reason }
}
