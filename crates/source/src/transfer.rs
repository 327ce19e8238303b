//! One file: from the hub to the cache, resumed where it was cut, and held against its hash.

use crate::cache::{Cache, at};
use crate::hub::{Entry, Hub, causes};
use crate::{Progress, SourceError};
use reqwest::{Response, StatusCode};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// How often a file may come with a wrong hash: what was left of an earlier try may have been damaged, so that all of it comes once more.
const WRONG_MAX: u32 = 2;

/// Brings `entry` of `commit` to the cache, unless it is there, and links it.
pub(crate) async fn fetch(
    hub: &Hub,
    cache: &Cache,
    commit: &str,
    entry: &Entry,
    progress: &Progress,
) -> Result<(), SourceError> {
    let blob = cache.blob(&entry.hash);
    if !is_whole(&blob, entry) {
        let _lock = cache.lock(&entry.hash).await?;
        // Whoever held the lock may have brought it.
        if is_whole(&blob, entry) {
            progress.add(entry.bytes);
        } else {
            download(hub, cache, commit, entry, progress).await?;
        }
    } else {
        progress.add(entry.bytes);
    }
    cache.link(commit, &entry.name, &entry.hash)
}

/// Whether the blob is there. Nobody gives it its name before it has been checked.
pub(crate) fn is_whole(blob: &std::path::Path, entry: &Entry) -> bool {
    fs::metadata(blob).is_ok_and(|found| found.len() == entry.bytes)
}

async fn download(
    hub: &Hub,
    cache: &Cache,
    commit: &str,
    entry: &Entry,
    progress: &Progress,
) -> Result<(), SourceError> {
    let mut wrong = 0;
    loop {
        let mut part = Part::open(cache.part(&entry.hash), entry, progress)?;
        let mut patience = hub.patience();
        while part.bytes < entry.bytes {
            let before = part.bytes;
            let Err(error) = part.go_on(hub, commit).await else { continue };
            if part.bytes > before {
                patience.reset();
            }
            patience.again(error).await?;
        }
        let Err(found) = part.check() else {
            part.file.sync_data().map_err(at(&part.path))?;
            let blob = cache.blob(&entry.hash);
            return fs::rename(&part.path, &blob).map_err(at(&blob));
        };
        part.restart()?;
        wrong += 1;
        if wrong == WRONG_MAX {
            fs::remove_file(&part.path).map_err(at(&part.path))?;
            let (repository, file) = (hub.repository.clone(), entry.name.clone());
            return Err(SourceError::Hash { repository, file, expected: entry.hash.clone(), found });
        }
    }
}

/// A file of which a beginning is there.
struct Part<'a> {
    path: PathBuf,
    file: File,
    entry: &'a Entry,
    progress: &'a Progress,
    /// What is there, which has been hashed.
    bytes: u64,
    hash: Hash,
}

impl<'a> Part<'a> {
    /// Goes on from what an earlier try has left.
    fn open(path: PathBuf, entry: &'a Entry, progress: &'a Progress) -> Result<Self, SourceError> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(at(parent))?;
        }
        let file =
            File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(at(&path))?;
        let mut part = Self { path, file, entry, progress, bytes: 0, hash: Hash::of(entry) };
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = part.file.read(&mut buffer).map_err(at(&part.path))?;
            if count == 0 {
                break;
            }
            part.count(&buffer[..count]);
        }
        if part.bytes > entry.bytes {
            part.restart()?;
        }
        Ok(part)
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.progress.add(bytes.len() as u64);
    }

    /// Throws away what is there.
    fn restart(&mut self) -> Result<(), SourceError> {
        self.file.set_len(0).map_err(at(&self.path))?;
        self.progress.take_back(self.bytes);
        (self.bytes, self.hash) = (0, Hash::of(self.entry));
        Ok(())
    }

    /// Appends what comes, until that ends.
    async fn go_on(&mut self, hub: &Hub, commit: &str) -> Result<(), SourceError> {
        let mut response = hub.open(commit, &self.entry.name, self.bytes).await?;
        if self.bytes > 0 && !continues(&response, self.bytes) {
            self.restart()?;
        }
        loop {
            let reason = match response.chunk().await {
                Ok(Some(bytes)) if bytes.len() as u64 > self.entry.bytes - self.bytes => "more comes".to_owned(),
                Ok(Some(bytes)) => {
                    // Where locks hold nobody (some have Lustre or NFS without them), others write the same bytes to the same place.
                    self.file.write_all_at(&bytes, self.bytes).map_err(at(&self.path))?;
                    self.count(&bytes);
                    continue;
                }
                Ok(None) if self.bytes == self.entry.bytes => return Ok(()),
                Ok(None) => "it ended".to_owned(),
                Err(error) => causes(&error),
            };
            return Err(SourceError::Cut {
                repository: hub.repository.clone(),
                file: self.entry.name.clone(),
                found: self.bytes,
                expected: self.entry.bytes,
                reason,
            });
        }
    }

    /// Fails with another hash than the file should have.
    fn check(&mut self) -> Result<(), String> {
        match std::mem::replace(&mut self.hash, Hash::None).text() {
            Some(found) if found != self.entry.hash.to_lowercase() => Err(found),
            _ => Ok(()),
        }
    }
}

/// Whether what comes begins where it was asked for. Servers may ignore a range, and send all.
fn continues(response: &Response, begin: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_none_or(|range| range.starts_with(&format!("bytes {begin}-")))
}

/// The hash by which the hub knows a file.
enum Hash {
    /// Of a large one.
    Sha256(Sha256),
    /// Of a small one: git's, of a blob.
    Git(Sha1),
    /// Mirrors may have ETags of their own; the length must do then.
    None,
}

impl Hash {
    fn of(entry: &Entry) -> Self {
        let is_hex = entry.hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        match entry.hash.len() {
            64 if is_hex => Self::Sha256(Sha256::new()),
            40 if is_hex => Self::Git(Sha1::new_with_prefix(format!("blob {}\0", entry.bytes))),
            _ => Self::None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
            Self::None => {}
        }
    }

    fn text(self) -> Option<String> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hash) => Some(hex(&hash.finalize())),
            Self::Git(hash) => Some(hex(&hash.finalize())),
            Self::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_told_by_their_form() {
        let of = |hash: &str| {
            let mut it = Hash::of(&Entry { name: "x".to_owned(), hash: hash.to_owned(), bytes: 6 });
            it.update(b"hel");
            it.update(b"lo\n");
            it.text()
        };
        // As `git hash-object` and `sha256sum` say.
        assert_eq!(of(&"0".repeat(40)).as_deref(), Some("ce013625030ba8dba906f756967f9e9ca394464a"));
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(of(&"0".repeat(64)).as_deref(), Some(sha256));
        assert_eq!((of("abc"), of(&"g".repeat(40))), (None, None));
    }
}
