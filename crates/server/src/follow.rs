//! Files that flags name, and that are read again when they change.

use crate::access::KeyError;
use crate::tls::TlsError;
use sha2::{Digest, Sha256};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{error, info};

/// How often files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// A file that a flag names.
#[derive(Clone, Debug)]
pub(crate) struct NamedFile {
    pub(crate) flag: &'static str,
    pub(crate) path: PathBuf,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{flag} {}: {problem}", path.display())]
pub struct FileError {
    flag: &'static str,
    path: PathBuf,
    problem: FileProblem,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileProblem {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl NamedFile {
    pub(crate) fn error(&self, problem: impl Into<FileProblem>) -> FileError {
        FileError { flag: self.flag, path: self.path.clone(), problem: problem.into() }
    }

    pub(crate) fn read(&self) -> Result<Vec<u8>, FileError> {
        std::fs::read(&self.path).map_err(|error| self.error(error))
    }
}

/// Makes a value of files and what is in them.
type Make<T> = fn(&[NamedFile], &[Vec<u8>]) -> Result<T, FileError>;

/// What was made of some files, brought up to date while it is used.
pub(crate) struct Followed<T>(watch::Receiver<Arc<T>>);

impl<T> Clone for Followed<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + Sync + 'static> Followed<T> {
    /// Reads `files`, and reads them again whenever they change. If nothing can be made of them then, what was made before stays.
    ///
    /// Must be called within a tokio runtime.
    pub(crate) fn start(files: Vec<NamedFile>, make: Make<T>) -> Result<Self, FileError> {
        let contents = read_all(&files);
        let seen = fingerprint(&contents);
        let (newest, followed) = watch::channel(Arc::new(make(&files, &contents?)?));
        tokio::spawn(follow(files, make, seen, newest));
        Ok(Self(followed))
    }

    pub(crate) fn newest(&self) -> Arc<T> {
        self.0.borrow().clone()
    }
}

async fn follow<T>(files: Vec<NamedFile>, make: Make<T>, mut seen: Fingerprint, newest: watch::Sender<Arc<T>>) {
    let mut used = seen;
    loop {
        tokio::select! {
            () = newest.closed() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        // A file may lie on a disk that does not answer.
        let all = files.clone();
        let Ok(contents) = tokio::task::spawn_blocking(move || read_all(&all)).await else { return };
        let now = fingerprint(&contents);
        // What has changed since the last look may be half written.
        let is_written = std::mem::replace(&mut seen, now) == now;
        if !is_written || used == now {
            continue;
        }
        used = now;
        let paths: Vec<_> = files.iter().map(|file| format!("{} {}", file.flag, file.path.display())).collect();
        match contents.and_then(|contents| make(&files, &contents)) {
            Ok(value) => {
                newest.send_replace(Arc::new(value));
                info!("{}: has changed, and was read again", paths.join(", "));
            }
            Err(error) => error!("{error}. What was read before stays in use"),
        }
    }
}

fn read_all(files: &[NamedFile]) -> Result<Vec<Vec<u8>>, FileError> {
    files.iter().map(NamedFile::read).collect()
}

/// Tells states of files apart, without keeping what is in them.
type Fingerprint = [u8; 32];

fn fingerprint(contents: &Result<Vec<Vec<u8>>, FileError>) -> Fingerprint {
    let mut hash = Sha256::new();
    match contents {
        Ok(files) => files.iter().for_each(|bytes| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }),
        Err(error) => hash.update(error.to_string()),
    }
    hash.finalize().into()
}
