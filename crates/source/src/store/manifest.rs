//! `shards.json` of a model that was cut for its ranks, as far as it says what is to be fetched.

use super::checksum::{Algorithm, Sum};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) const MANIFEST: &str = "shards.json";

#[derive(Deserialize)]
pub(crate) struct Manifest {
    ranks: Vec<File>,
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    name: String,
    crc32: String,
}

impl Manifest {
    /// That of the folder `dir`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn read(dir: &Path) -> Result<Self, String> {
        let text = std::fs::read(dir.join(MANIFEST)).map_err(|error| error.to_string())?;
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        // It comes with a download and must not lead out of its folder.
        let is_plain = |file: &&File| !file.name.contains('/') && !file.name.starts_with('.');
        let strange = manifest.all().find(|file| !is_plain(file)).map(|file| file.name.clone());
        match strange {
            Some(name) => Err(format!("expected the name of a file, found {name:?}")),
            None => Ok(manifest),
        }
    }

    fn all(&self) -> impl Iterator<Item = &File> {
        self.ranks.iter().chain(&self.files)
    }

    /// All files that it lists.
    pub(crate) fn names(&self) -> Vec<String> {
        self.all().map(|file| file.name.clone()).collect()
    }

    /// What each file's bytes add up to.
    pub(crate) fn sums(&self) -> BTreeMap<String, Sum> {
        let sum = |file: &File| {
            let value = u64::from_str_radix(&file.crc32, 16).ok()?;
            Some((file.name.clone(), Sum { algorithm: Algorithm::Crc32, value }))
        };
        self.all().filter_map(sum).collect()
    }
}
