//! Models in object stores: a real server on loopback, and all that can go wrong between it and us.

mod fetching;
mod refusals;
mod server;

use server::S3;
use source::{Progress, Source, StoreError, StoreSettings, StoreUrl, Uploads, Wanted};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// So that a small model has many.
const PIECE_BYTES: u64 = 1 << 16;
const URL: &str = "s3://models/falcon/tiny";
const PREFIX: &str = "falcon/tiny";

/// A machine with an empty cache.
struct Node {
    cache: TempDir,
    settings: StoreSettings,
}

impl Node {
    fn new(s3: &S3) -> Self {
        let cache = TempDir::new().expect("a temporary folder");
        let mut settings = StoreSettings::from_environment(Some(cache.path()), s3.variables());
        (settings.piece_bytes, settings.retry_limit) = (PIECE_BYTES, Duration::from_secs(20));
        Self { cache, settings }
    }

    /// Brings the model, as a new process would.
    async fn bring(&self, wanted: Wanted) -> Result<PathBuf, StoreError> {
        self.bring_with(wanted, &Arc::default()).await
    }

    async fn bring_with(&self, wanted: Wanted, progress: &Arc<Progress>) -> Result<PathBuf, StoreError> {
        let Ok(Source::Store(url)) = Source::parse(Path::new(URL)) else { panic!("{URL} is a store's") };
        url.bring(wanted, &self.settings, progress).await
    }
}

/// Puts a folder's files there, as `peregrine shard` does.
async fn put(s3: &S3, dir: &Path) {
    let url = StoreUrl::parse(URL).expect("a URL").expect("a store");
    let settings = StoreSettings::from_environment(None, s3.variables());
    let uploads = Uploads::open(&url, &settings).await.expect("a place");
    let dir = dir.to_owned();
    let sent = tokio::task::spawn_blocking(move || {
        for entry in std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry")) {
            let bytes = std::fs::read(entry.path()).expect("a file");
            let name = entry.file_name().into_string().expect("UTF-8");
            let mut upload = uploads.create(&name, bytes.len() as u64).expect("an object");
            upload.write_all(&bytes).expect("it is sent");
            upload.finish().expect("it is sent");
        }
    });
    sent.await.expect("no panic");
    s3.asked();
}

/// All files of a folder but for our own, with their names.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry"));
    let named = entries.map(|entry| (entry.file_name().into_string().expect("UTF-8"), entry.path()));
    let mut files: Vec<_> = named
        .filter(|(name, _)| !name.starts_with('.'))
        .map(|(name, path)| (name, std::fs::read(path).expect("a file")))
        .collect();
    files.sort_unstable();
    files
}
