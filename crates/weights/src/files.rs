//! The safetensors files of a model directory.

use crate::header::{self, Stored};
use crate::layout;
use crate::mmap::MappedFile;
use crate::{WeightsError, index};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The safetensors files of a model directory, mapped into memory, with the place of each of their tensors.
pub(crate) struct Files {
    dir: PathBuf,
    files: Vec<Arc<MappedFile>>,
    pub(crate) tensors: BTreeMap<String, Located>,
    /// What an index names and no file holds: the tensor, and where it should be.
    pub(crate) lacking: Vec<(String, String)>,
}

/// A tensor with the number of its file.
pub(crate) struct Located {
    file: usize,
    pub(crate) stored: Stored,
}

impl Files {
    /// Maps the files that `index` names, and checks their headers. No tensor is read yet.
    ///
    /// # Errors
    ///
    /// If a file cannot be mapped, or its header is damaged or does not fit its length; if the index names a file outside
    /// of `dir` or one that is missing; if two files hold the same tensor, or it is in another than the index says.
    pub(crate) fn indexed(dir: &Path, index: &Path) -> Result<Self, WeightsError> {
        let mut opened = Self::none(dir);
        opened.add_indexed(index)?;
        Ok(opened)
    }

    /// Maps one file of `dir`, and checks its header.
    ///
    /// # Errors
    ///
    /// If it cannot be mapped, or its header is damaged or does not fit its length.
    pub(crate) fn single(dir: &Path, path: PathBuf) -> Result<Self, WeightsError> {
        let mut opened = Self::none(dir);
        opened.add(path)?;
        Ok(opened)
    }

    fn none(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), files: Vec::new(), tensors: BTreeMap::new(), lacking: Vec::new() }
    }

    /// Whether every file is small, or mostly in huge pages of the page cache.
    pub(crate) fn in_huge_pages(&self) -> bool {
        self.files.iter().all(|file| file.has_few_tlb_misses())
    }

    pub(crate) fn file(&self, located: &Located) -> &Arc<MappedFile> {
        &self.files[located.file]
    }

    /// The stored bytes of a tensor.
    pub(crate) fn bytes(&self, located: &Located) -> &[u8] {
        &self.file(located).bytes()[located.stored.place.clone()]
    }

    /// The file that holds a tensor, or else the directory.
    pub(crate) fn path(&self, tensor: &str) -> &Path {
        self.tensors.get(tensor).map_or(&self.dir, |located| &self.file(located).path)
    }

    fn add_indexed(&mut self, index_path: &Path) -> Result<(), WeightsError> {
        let entries = index::parse(index_path, &layout::read(index_path)?)?;
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
            if !self.tensors.contains_key(&tensor) {
                self.lacking.push((tensor, file));
            } else if self.path(&tensor) != self.dir.join(&file) {
                return Err(WeightsError::IndexedTensorMissing { path: index_path.to_owned(), tensor, file });
            }
        }
        Ok(())
    }

    /// Maps one more file, and adds its tensors.
    fn add(&mut self, path: PathBuf) -> Result<(), WeightsError> {
        let map = MappedFile::open(path)?;
        if layout::is_pointer(map.bytes()) {
            return Err(WeightsError::LfsPointer { path: map.path });
        }
        let file = self.files.len();
        for (tensor, stored) in header::parse(&map.path, map.bytes())? {
            if self.tensors.contains_key(&tensor) {
                return Err(WeightsError::Duplicate { first: self.path(&tensor).to_owned(), second: map.path, tensor });
            }
            self.tensors.insert(tensor, Located { file, stored });
        }
        self.files.push(Arc::new(map));
        Ok(())
    }
}

pub(crate) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> WeightsError {
    move |reason| WeightsError::Io { path: path.to_owned(), reason }
}
