//! The cache, laid out as huggingface_hub does it, so that either reads what the other wrote:
//!
//! * `models--ORG--NAME/blobs/HASH`: each file once, by its ETag, which is a SHA-256 or git's hash.
//! * `models--ORG--NAME/snapshots/COMMIT/FILE`: links to them.
//! * `models--ORG--NAME/refs/REVISION`: the commit of a branch or a tag.
//! * `.locks/models--ORG--NAME/HASH.lock`: locked with flock(2) by whoever downloads.

use crate::repository::is_commit;
use crate::{Repository, SourceError};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// What the cache has of one repository.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    root: PathBuf,
    folder: String,
}

impl Cache {
    pub(crate) fn new(root: &Path, repository: &Repository) -> Self {
        Self { root: root.to_owned(), folder: format!("models--{}", repository.id().replace('/', "--")) }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn dir(&self) -> PathBuf {
        self.root.join(&self.folder)
    }

    /// The commit of a revision, where the cache knows it.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.dir().join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Keeps the commit of a branch or a tag.
    pub(crate) fn set_commit(&self, revision: &str, commit: &str) -> Result<(), SourceError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.dir().join("refs").join(revision);
        make_parent(&path)?;
        fs::write(&path, commit).map_err(at(&path))
    }

    /// The folder of a commit's files.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir().join("snapshots").join(commit)
    }

    /// Where a file with this hash is once it is whole.
    pub(crate) fn blob(&self, hash: &str) -> PathBuf {
        self.dir().join("blobs").join(hash)
    }

    /// Where it is until then. No other tool looks there: those of Python have a name of their own for each try.
    pub(crate) fn part(&self, hash: &str) -> PathBuf {
        self.dir().join("blobs").join(format!("{hash}.incomplete"))
    }

    /// Waits until nobody else downloads this file, and keeps others from it as long as the result lives.
    pub(crate) async fn lock(&self, hash: &str) -> Result<File, SourceError> {
        let path = self.root.join(".locks").join(&self.folder).join(format!("{hash}.lock"));
        make_parent(&path)?;
        let file = File::options().create(true).append(true).open(&path).map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => tracing::info!("another process downloads {hash}"),
            Err(fs::TryLockError::Error(error)) => return Err(at(&path)(error)),
        }
        let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
        locked.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(at(&path))
    }

    /// Makes `name` of a commit lead to the blob.
    pub(crate) fn link(&self, commit: &str, name: &str, hash: &str) -> Result<(), SourceError> {
        let path = self.snapshot(commit).join(name);
        make_parent(&path)?;
        // From the file's folder up to that of the repository: `snapshots`, the commit, and folders within the name.
        let up = "../".repeat(2 + name.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{hash}"));
        if fs::read_link(&path).is_ok_and(|found| found == target) {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
            _ => {}
        }
        match symlink(&target, &path) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked.map_err(at(&path)),
        }
    }

    /// Bytes that may still be written.
    pub(crate) fn free_bytes(&self) -> Result<u64, SourceError> {
        let dir = self.dir();
        fs::create_dir_all(&dir).map_err(at(&dir))?;
        let stat = rustix::fs::statvfs(&dir).map_err(|error| at(&dir)(error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn make_parent(path: &Path) -> Result<(), SourceError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(at(parent))
}

/// An error of the file system, with its place.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    let path = path.to_owned();
    |reason| SourceError::Io { path, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "898df1396f35e447d5fe44e0a3ccaaaa69f30d36";

    #[test]
    fn the_layout_is_that_of_huggingface_hub() {
        let root = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(root.path(), &Repository::parse("tiiuae/falcon-7b").expect("a name"));
        assert_eq!(cache.commit("main"), None);
        cache.set_commit("main", COMMIT).expect("a file");
        cache.set_commit("refs/pr/3", COMMIT).expect("a file");
        cache.set_commit(COMMIT, COMMIT).expect("nothing to do");
        assert_eq!(
            (cache.commit("refs/pr/3").as_deref(), cache.commit(COMMIT).as_deref()),
            (Some(COMMIT), Some(COMMIT))
        );

        let blob = cache.blob("abc");
        make_parent(&blob).expect("a folder");
        fs::write(&blob, "text").expect("a file");
        for name in ["config.json", "additional_chat_templates/x.jinja"] {
            cache.link(COMMIT, name, "gone").expect("a link");
            cache.link(COMMIT, name, "abc").expect("a link instead");
            cache.link(COMMIT, name, "abc").expect("it is there");
            assert_eq!(fs::read_to_string(cache.snapshot(COMMIT).join(name)).expect("it leads there"), "text");
        }
        let repository = root.path().join("models--tiiuae--falcon-7b");
        let link = fs::read_link(repository.join("snapshots").join(COMMIT).join("config.json")).expect("a link");
        assert_eq!(link, Path::new("../../blobs/abc"));
        assert_eq!(fs::read_to_string(repository.join("refs/main")).expect("a file"), COMMIT);
        assert!(cache.free_bytes().expect("a file system") > 0);
    }
}
