//! How far loading is.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many of a shard's bytes have been read, for another thread to show.
#[derive(Debug)]
pub struct Progress {
    done: AtomicU64,
    total: u64,
}

impl Progress {
    pub(crate) fn new(total: u64) -> Self {
        Self { done: AtomicU64::new(0), total }
    }

    /// Bytes read so far, as stored in the files. Equals [`total`](Self::total) once every element has been read once.
    #[must_use]
    pub fn done(&self) -> u64 {
        // Relaxed, as the count orders nothing else.
        self.done.load(Ordering::Relaxed)
    }

    /// Bytes of the whole shard, as stored in the files.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.done.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
