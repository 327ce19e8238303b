//! Models in object stores: Amazon S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.
//!
//! * [`StoreUrl`]: a bucket and a prefix. [`StoreSettings`]: where models are kept, and who asks.
//! * `client`: what is asked of a store; `checksum`: what it says of an object's bytes; `manifest`: what `peregrine shard` said.
//! * `record`: what has been fetched; `fetch`: pieces of objects into files.
//! * [`Uploads`]: files that are written to a store.
//!
//! One process of a node fetches for all of its ranks, into files of holes that are laid out as the objects: each byte once,
//! however tensors are cut over the ranks, which map the files.

mod checksum;
mod client;
mod error;
mod fetch;
mod manifest;
mod record;
mod settings;
mod upload;
mod url;

pub use error::StoreError;
pub use settings::StoreSettings;
pub use upload::{Upload, Uploads};
pub use url::StoreUrl;

use crate::Progress;
use crate::files::{self, Wanted};
use client::{Client, Object};
use fetch::Fetch;
use manifest::{MANIFEST, Manifest};
use record::Record;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl StoreUrl {
    /// The folder with the files that are wanted, in the cache. What was fetched before is not fetched again, unless the store has
    /// other objects now; if it cannot be reached, what was fetched before will do.
    ///
    /// Must be called within a tokio runtime. If the future is dropped, what has come so far stays, and the next call goes on from
    /// there.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn bring(
        &self,
        wanted: Wanted,
        settings: &StoreSettings,
        progress: &Arc<Progress>,
    ) -> Result<PathBuf, StoreError> {
        bring(self, wanted, settings, progress).await
    }
}

async fn bring(
    url: &StoreUrl,
    wanted: Wanted,
    settings: &StoreSettings,
    progress: &Arc<Progress>,
) -> Result<PathBuf, StoreError> {
    let cache = settings.cache.as_ref().ok_or_else(|| StoreError::NoCache { url: url.clone() })?;
    let dir = url.folder_in(cache);
    let mut record = Record::open(&dir, url).await?;
    let client = Arc::new(Client::open(url, settings)?);
    let listed = match client.list().await {
        Err(error @ StoreError::Failed { .. }) if record.has(wanted) => {
            tracing::warn!("{error}; what was fetched before is used");
            return Ok(dir);
        }
        listed => listed?,
    };
    record.keep_unchanged(&listed)?;
    let fetch = Fetch { client: &client, dir: &dir, piece_bytes: settings.piece_bytes, progress };
    let described = described(url, &listed, wanted)?;
    fetch.whole(&mut record, described.clone(), &BTreeMap::new()).await?;
    if wanted == Wanted::Model {
        let (mut weights, sums) = weights(url, &listed, &dir)?;
        weights.retain(|object| !described.contains(object));
        fetch.whole(&mut record, weights, &sums).await?;
    }
    record.complete(wanted)?;
    Ok(dir)
}

/// The objects that describe the model.
fn described(url: &StoreUrl, listed: &[Object], wanted: Wanted) -> Result<Vec<Object>, StoreError> {
    let names: Vec<String> = listed.iter().map(|object| object.name.clone()).collect();
    let mut described = files::description(&names, wanted);
    let manifest = names.iter().find(|name| wanted == Wanted::Model && *name == MANIFEST);
    described.extend(manifest.cloned());
    if !described.iter().any(|name| name == "config.json") {
        let found = match &names[..] {
            [] => "nothing".to_owned(),
            names => names.join(", "),
        };
        return Err(StoreError::NoModel { url: url.clone(), expected: "a model's config.json".to_owned(), found });
    }
    described.iter().map(|name| find(url, listed, name)).collect()
}

/// The objects with the model's weights, and the sums that are known of them, once `dir` has those that describe it.
fn weights(
    url: &StoreUrl,
    listed: &[Object],
    dir: &Path,
) -> Result<(Vec<Object>, BTreeMap<String, checksum::Sum>), StoreError> {
    let no_model = |found| StoreError::NoModel { url: url.clone(), expected: "a model's weights".to_owned(), found };
    let has = |name: &str| listed.iter().any(|object| object.name == name);
    let (names, sums) = if has(MANIFEST) {
        let manifest = Manifest::read(dir).map_err(|error| no_model(format!("{MANIFEST}: {error}")))?;
        (manifest.names(), manifest.sums())
    } else {
        let names = files::weights(dir, has).map_err(|error| no_model(error.to_string()))?;
        (names, BTreeMap::new())
    };
    let objects = names.iter().map(|name| find(url, listed, name)).collect::<Result<_, _>>()?;
    Ok((objects, sums))
}

fn find(url: &StoreUrl, listed: &[Object], name: &str) -> Result<Object, StoreError> {
    let found = listed.iter().find(|object| object.name == name).cloned();
    found.ok_or_else(|| StoreError::NotFound { object: url.object(name) })
}
