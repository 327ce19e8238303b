//! What of a model has been fetched: a journal in its folder, of a line for each piece.

use super::checksum::Algorithm;
use super::client::Object;
use super::{StoreError, StoreUrl};
use crate::Wanted;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const JOURNAL: &str = ".fetched";
const LOCK: &str = ".lock";
/// How often it is looked whether another process has finished.
const LOCK_INTERVAL: Duration = Duration::from_millis(200);

/// What has been fetched into a folder. No other process fetches into it meanwhile.
pub(crate) struct Record {
    dir: PathBuf,
    journal: File,
    objects: BTreeMap<String, Entry>,
    /// All that was wanted is there.
    whole: Option<Wanted>,
    /// And on the disk.
    is_synced: bool,
    _lock: File,
}

/// What there is of an object.
struct Entry {
    about: About,
    /// The sums of the pieces that are there.
    pieces: Vec<Option<u64>>,
}

#[derive(Clone, Serialize, Deserialize)]
struct About {
    name: String,
    size: u64,
    e_tag: Option<String>,
    piece_bytes: u64,
    algorithm: Algorithm,
}

/// A line of the journal. What follows a line that makes no sense, as behind a crash, counts as not written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Object(About),
    Piece { name: String, index: usize, sum: u64 },
    Whole { weights: bool, synced: bool },
}

impl Record {
    /// Of the folder `dir`, which is made if it is not there. Pieces that have come to the disk by a process that did not live to
    /// see all of them there are compared with their sums.
    pub(crate) async fn open(dir: &Path, url: &StoreUrl) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(io_error(dir))?;
        let lock = lock(&dir.join(LOCK), url).await?;
        let dir = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || Self::read(dir, lock)).await;
        opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    fn read(dir: PathBuf, lock: File) -> Result<Self, StoreError> {
        let path = dir.join(JOURNAL);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&path)(error)),
            text => text.unwrap_or_default(),
        };
        let (mut objects, mut whole, mut is_synced) = (BTreeMap::new(), None, false);
        for line in text.lines().map_while(|line| serde_json::from_str(line).ok()) {
            match line {
                Line::Object(about) => {
                    objects.insert(about.name.clone(), Entry::new(about));
                }
                Line::Piece { name, index, sum } => {
                    let piece = objects.get_mut(&name).and_then(|entry: &mut Entry| entry.pieces.get_mut(index));
                    piece.into_iter().for_each(|piece| *piece = Some(sum));
                }
                Line::Whole { weights, synced } => {
                    whole = Some(if weights { Wanted::Model } else { Wanted::Description });
                    is_synced = synced;
                }
            }
        }
        let all = objects.len();
        objects.retain(|name, entry| {
            let len = fs::metadata(dir.join(name)).map(|metadata| metadata.len());
            len.is_ok_and(|len| len == entry.about.size)
        });
        whole = whole.filter(|_| objects.len() == all);
        if whole.is_none() || !is_synced {
            compare(&dir, &mut objects)?;
            whole = whole.filter(|_| objects.values().all(|entry| !entry.pieces.contains(&None)));
        }
        let journal = File::options().append(true).create(true).open(&path).map_err(io_error(&path))?;
        let mut record = Self { dir, journal, objects, whole, is_synced, _lock: lock };
        record.rewrite()?;
        Ok(record)
    }

    /// Whether all that is wanted is there.
    pub(crate) fn has(&self, wanted: Wanted) -> bool {
        self.whole == Some(Wanted::Model) || self.whole == Some(wanted)
    }

    /// Forgets what the store has no more, or other than it was.
    pub(crate) fn keep_unchanged(&mut self, listed: &[Object]) -> Result<(), StoreError> {
        let is_same = |entry: &Entry| {
            let About { name, size, e_tag, .. } = &entry.about;
            listed.iter().any(|object| (&object.name, &object.size, &object.e_tag) == (name, size, e_tag))
        };
        let others = self.objects.values().filter(|entry| !is_same(entry)).map(|entry| entry.about.name.clone());
        others.collect::<Vec<_>>().iter().try_for_each(|name| self.forget(name))
    }

    /// Whether the object has been begun, so that its file is there.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.objects.contains_key(name)
    }

    /// Makes the object's file, of holes.
    pub(crate) fn begin(&mut self, object: &Object, algorithm: Algorithm, piece_bytes: u64) -> Result<(), StoreError> {
        let path = self.dir.join(&object.name);
        // Whoever has mapped an older file of this name keeps that.
        remove(&path)?;
        let made = fs::create_dir_all(path.parent().unwrap_or(&path)).and_then(|()| File::create_new(&path));
        made.and_then(|file| file.set_len(object.size)).map_err(io_error(&path))?;
        let Object { name, size, e_tag } = object.clone();
        let about = About { name: name.clone(), size, e_tag, piece_bytes, algorithm };
        self.append(&Line::Object(about.clone()))?;
        self.objects.insert(name, Entry::new(about));
        (self.whole, self.is_synced) = (None, false);
        Ok(())
    }

    /// The object's algorithm, and the pieces that are not there.
    pub(crate) fn missing(&self, name: &str) -> (Algorithm, Vec<(usize, Range<u64>)>) {
        let entry = &self.objects[name];
        let missing = (0..entry.pieces.len()).filter(|index| entry.pieces[*index].is_none());
        (entry.about.algorithm, missing.map(|index| (index, entry.range(index))).collect())
    }

    /// A piece is there. Returns the sum of the whole object, once all of its pieces are there.
    pub(crate) fn add(&mut self, name: &str, index: usize, sum: u64) -> Result<Option<u64>, StoreError> {
        self.append(&Line::Piece { name: name.to_owned(), index, sum })?;
        let entry = self.objects.get_mut(name).expect("an object that was begun");
        entry.pieces[index] = Some(sum);
        Ok(entry.sum())
    }

    /// Drops what there is of an object.
    pub(crate) fn forget(&mut self, name: &str) -> Result<(), StoreError> {
        remove(&self.dir.join(name))?;
        self.objects.remove(name);
        (self.whole, self.is_synced) = (None, false);
        self.rewrite()
    }

    /// All that is wanted is there. A later process compares sums, unless it knows that all is on the disk, too, which may take a
    /// while.
    pub(crate) fn complete(&mut self, wanted: Wanted) -> Result<(), StoreError> {
        if self.has(wanted) && self.is_synced {
            return Ok(());
        }
        self.whole = self.whole.filter(|_| self.has(wanted)).or(Some(wanted));
        let weights = self.whole == Some(Wanted::Model);
        let line = |synced| Line::Whole { weights, synced };
        self.append(&line(false))?;
        let line = to_line(&line(true));
        let mut journal = self.journal.try_clone().map_err(io_error(&self.dir.join(JOURNAL)))?;
        let files: Vec<PathBuf> = self.objects.keys().map(|name| self.dir.join(name)).collect();
        let sync = move || {
            let synced = files.iter().try_for_each(|path| File::open(path)?.sync_all());
            let _ = synced.and_then(|()| journal.write_all(&line));
        };
        // Without the thread, likewise.
        let _ = std::thread::Builder::new().name("sync".to_owned()).spawn(sync);
        Ok(())
    }

    fn append(&mut self, line: &Line) -> Result<(), StoreError> {
        self.journal.write_all(&to_line(line)).map_err(io_error(&self.dir.join(JOURNAL)))
    }

    /// Writes the journal anew, of what holds.
    fn rewrite(&mut self) -> Result<(), StoreError> {
        let mut text = Vec::new();
        for Entry { about, pieces } in self.objects.values() {
            text.extend(to_line(&Line::Object(about.clone())));
            for (index, sum) in pieces.iter().enumerate() {
                let piece = sum.map(|sum| Line::Piece { name: about.name.clone(), index, sum });
                piece.iter().for_each(|line| text.extend(to_line(line)));
            }
        }
        let whole = self.whole.map(|wanted| Line::Whole { weights: wanted == Wanted::Model, synced: self.is_synced });
        whole.iter().for_each(|line| text.extend(to_line(line)));
        let (path, new) = (self.dir.join(JOURNAL), self.dir.join(format!("{JOURNAL}.new")));
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        let opened = written.and_then(|()| File::options().append(true).open(&path));
        self.journal = opened.map_err(io_error(&path))?;
        Ok(())
    }
}

impl Entry {
    fn new(about: About) -> Self {
        let pieces = about.size.div_ceil(about.piece_bytes.max(1)) as usize;
        Self { about, pieces: vec![None; pieces] }
    }

    fn range(&self, index: usize) -> Range<u64> {
        let About { piece_bytes, size, .. } = self.about;
        let start = index as u64 * piece_bytes;
        start..size.min(start + piece_bytes)
    }

    /// Of all pieces, if they are there.
    fn sum(&self) -> Option<u64> {
        let pieces = self.pieces.iter().enumerate().map(|(index, sum)| {
            let range = self.range(index);
            Some(((*sum)?, range.end - range.start))
        });
        Some(self.about.algorithm.combine(pieces.collect::<Option<Vec<_>>>()?))
    }
}

fn to_line(line: &Line) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).expect("names and numbers");
    text.push(b'\n');
    text
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => Ok(()),
    }
}

/// Keeps others from fetching into the same folder. Waits for one who does.
async fn lock(path: &Path, url: &StoreUrl) -> Result<File, StoreError> {
    let file = File::options().create(true).append(true).open(path).map_err(io_error(path))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(io_error(path)(error)),
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!("{url}: another process is fetching it; waiting");
                }
                tokio::time::sleep(LOCK_INTERVAL).await;
            }
        }
    }
}

/// Drops the sums of pieces whose bytes are others, on all cores.
fn compare(dir: &Path, objects: &mut BTreeMap<String, Entry>) -> Result<(), StoreError> {
    for (name, entry) in objects {
        let path = dir.join(name);
        let file = File::open(&path).map_err(io_error(&path))?;
        let (next, differing) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            let mut bytes = vec![0; entry.about.piece_bytes.min(entry.about.size) as usize];
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(sum) = entry.pieces.get(index) else { break };
                let Some(sum) = sum else { continue };
                let range = entry.range(index);
                let bytes = &mut bytes[..(range.end - range.start) as usize];
                let mut digest = entry.about.algorithm.digest();
                let read = file.read_exact_at(bytes, range.start);
                digest.update(bytes);
                if read.is_err() || digest.finalize() != *sum {
                    differing.lock().expect("no panic").push(index);
                }
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| (0..cores.min(entry.pieces.len())).for_each(|_| drop(scope.spawn(work))));
        for index in differing.into_inner().expect("no panic") {
            entry.pieces[index] = None;
        }
    }
    Ok(())
}

pub(crate) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |reason| StoreError::Io { path, reason }
}
