//! A model that is cut for its ranks: each rank's part of every tensor lies in a file of its own, in the order in which a load
//! reads it.

mod folder;
mod write;

pub use folder::CutFolder;
pub use write::{CutFile, CutTarget, Cutting};

use crate::WeightsError;
use crate::files::Files;
use crate::manifest::Manifest;
use crate::reader::StoredPart;
use model::{FalconConfig, NamesError, Partition, ShardTensor};
use std::path::{Path, PathBuf};

/// The files of a cut model, mapped, with what they must hold.
pub(crate) struct Cut {
    pub(crate) dir: PathBuf,
    manifest: Manifest,
    /// Of each rank.
    pub(crate) ranks: Vec<Files>,
}

impl Cut {
    /// Maps the files that the manifest at `path` names, and checks their lengths and headers, and all of the small files. No
    /// tensor is read. Sets in `config` whether the output projection is tied, which was found out when the model was cut.
    ///
    /// # Errors
    ///
    /// The first file that is missing or other than it was written, as far as that can be told.
    pub(crate) fn open(dir: &Path, path: PathBuf, config: &mut FalconConfig) -> Result<Self, WeightsError> {
        let manifest = Manifest::read(dir)?.ok_or_else(|| WeightsError::NoCheckpoint { dir: dir.to_owned() })?;
        manifest.files.iter().try_for_each(|file| file.check(dir))?;
        manifest.ranks.iter().try_for_each(|rank| rank.file.check_length(dir))?;
        config.tied = manifest.tied;
        let world = manifest.ranks.len();
        let mut ranks = Vec::with_capacity(world);
        for (rank, entry) in manifest.ranks.iter().enumerate() {
            let files = Files::single(dir, dir.join(&entry.file.name))?;
            let shard = model::shard(config, &Partition::new(config, rank, world));
            check(&files, &shard).map_err(|reason| WeightsError::Names { path: dir.join(&entry.file.name), reason })?;
            if let Some(tensor) = shard.iter().find(|tensor| !entry.tensors.contains_key(&tensor.id.to_string())) {
                let reason = format!("`tensors` of rank {rank} has no CRC-32 of `{}`", tensor.id);
                return Err(WeightsError::Manifest { path, reason });
            }
            ranks.push(files);
        }
        Ok(Self { dir: dir.to_owned(), manifest, ranks })
    }

    /// How rank `rank`'s part of a tensor is stored under `name`: whole.
    pub(crate) fn stored<'a>(&'a self, rank: usize, tensor: &ShardTensor, name: &'a str) -> StoredPart<'a> {
        let crc32 = self.manifest.ranks[rank].tensors.get(name).map(|crc32| crc32.0);
        StoredPart { name, part: alone(tensor), crc32 }
    }
}

/// The part as a tensor of its own.
fn alone(tensor: &ShardTensor) -> ShardTensor {
    ShardTensor {
        id: tensor.id,
        columns_total: tensor.local_columns(),
        rows: vec![0..tensor.local_rows()],
        columns: 0..tensor.local_columns(),
    }
}

/// The shape in which a part is stored.
fn shape(tensor: &ShardTensor) -> Vec<usize> {
    match tensor.columns_total {
        1 => vec![tensor.local_rows()],
        _ => vec![tensor.local_rows(), tensor.local_columns()],
    }
}

/// Whether a rank's file holds the parts of `shard`, and nothing else.
fn check(files: &Files, shard: &[ShardTensor]) -> Result<(), NamesError> {
    let mut left = files.tensors.len();
    for tensor in shard {
        let (name, expected) = (tensor.id.to_string(), shape(tensor));
        let Some(located) = files.tensors.get(&name) else { return Err(NamesError::Missing { name, expected }) };
        let found = located.stored.shape.clone();
        if found != expected {
            return Err(NamesError::Shape { name, expected, found });
        }
        left -= 1;
    }
    if left == 0 {
        return Ok(());
    }
    let known = |name: &str| shard.iter().any(|tensor| tensor.id.to_string() == name);
    let (name, located) =
        files.tensors.iter().find(|(name, _)| !known(name)).expect("more tensors than those of `shard`");
    Err(NamesError::Unknown { name: name.clone(), found: located.stored.shape.clone() })
}
