//! A whole model: from the cache, or from the hub to the cache.

use crate::cache::Cache;
use crate::hub::{Entry, Hub};
use crate::repository::is_commit;
use crate::{Freshness, HubSettings, Progress, Repository, SourceError, Wanted, files, transfer};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::fs;
use std::path::PathBuf;

/// Files that come at once.
const PARALLEL: usize = 8;

/// The folder of the repository's files.
pub(crate) async fn bring(
    repository: &Repository,
    wanted: Wanted,
    freshness: Freshness,
    settings: &HubSettings,
    progress: &Progress,
) -> Result<PathBuf, SourceError> {
    let cache = Cache::new(&settings.cache, repository);
    let revision = repository.revision();
    let cached = cache.commit(revision).map(|commit| cache.snapshot(&commit));
    let missing = cached.as_ref().map_or(Some("this revision".to_owned()), |dir| files::missing(dir, wanted));
    // A commit stays what it is.
    let asks = freshness == Freshness::Newest && !is_commit(revision);
    match (cached, missing) {
        (Some(dir), None) if settings.offline || !asks => return Ok(dir),
        (_, Some(missing)) if settings.offline => {
            return Err(SourceError::Offline {
                repository: repository.clone(),
                missing,
                cache: settings.cache.clone(),
            });
        }
        _ => {}
    }
    let hub = Hub::new(settings, repository)?;
    let listing = hub.listing().await?;
    let commit = listing.commit.clone();
    let names = listing.names();
    if wanted == Wanted::Model && !files::has_weights(&names) {
        let other = files::other_weights(&names).cloned();
        return Err(SourceError::NoSafetensors { repository: repository.clone(), other });
    }
    let download = Download { hub: &hub, cache: &cache, commit: &commit, progress };
    download.all(files::description(&names, wanted)).await?;
    let dir = cache.snapshot(&commit);
    if wanted == Wanted::Model {
        // The index, if it is needed, is there by now.
        download.all(files::weights(&dir, |name| names.iter().any(|it| it == name))?).await?;
    }
    cache.set_commit(revision, &commit)?;
    Ok(dir)
}

struct Download<'a> {
    hub: &'a Hub,
    cache: &'a Cache,
    commit: &'a str,
    progress: &'a Progress,
}

impl Download<'_> {
    /// Brings these files, some at once. None is begun if there is no room for all.
    async fn all(&self, mut names: Vec<String>) -> Result<(), SourceError> {
        // A commit's files stay what they are.
        let dir = self.cache.snapshot(self.commit);
        names.retain(|name| !dir.join(name).exists());
        let entries = names.iter().map(|name| self.hub.entry(self.commit, name));
        let entries: Vec<Entry> = stream::iter(entries).buffered(PARALLEL).try_collect().await?;
        self.make_sure_of_room(&entries)?;
        self.progress.expect(entries.iter().map(|entry| entry.bytes).sum());
        let fetches =
            entries.iter().map(|entry| transfer::fetch(self.hub, self.cache, self.commit, entry, self.progress));
        stream::iter(fetches).buffer_unordered(PARALLEL).try_collect::<()>().await
    }

    fn make_sure_of_room(&self, entries: &[Entry]) -> Result<(), SourceError> {
        let lacking = |entry: &Entry| {
            if transfer::is_whole(&self.cache.blob(&entry.hash), entry) {
                return 0;
            }
            let part = fs::metadata(self.cache.part(&entry.hash)).map_or(0, |found| found.len());
            entry.bytes.saturating_sub(part)
        };
        let needed = entries.iter().map(lacking).fold(0, u64::saturating_add);
        let free = self.cache.free_bytes()?;
        if needed <= free {
            return Ok(());
        }
        let gb = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
        let cache = self.cache.root().to_owned();
        let repository = self.hub.repository.clone();
        Err(SourceError::Room { repository, needed: gb(needed), free: gb(free), cache })
    }
}
