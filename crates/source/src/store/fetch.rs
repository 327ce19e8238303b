//! Ranges of objects into files.

use super::StoreError;
use super::checksum::{Algorithm, Sum};
use super::client::{Client, Object};
use super::record::{Record, io_error};
use crate::Progress;
use futures_util::TryStreamExt;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Requests in flight, at most. One connection brings some tens of MB/s from far; this fills the fastest network of a node.
const REQUESTS_MAX: usize = 64;
/// How often a piece is begun anew when it broke off for good, beside what a request is repeated by itself.
const ATTEMPTS: usize = 3;

/// Fetches objects into a folder.
pub(crate) struct Fetch<'a> {
    pub(crate) client: &'a Arc<Client>,
    pub(crate) dir: &'a Path,
    pub(crate) piece_bytes: u64,
    pub(crate) progress: &'a Arc<Progress>,
}

/// A piece of an object.
struct Piece {
    object: Arc<Object>,
    file: Arc<File>,
    algorithm: Algorithm,
    index: usize,
    range: Range<u64>,
}

impl Fetch<'_> {
    /// Fetches what is missing of `objects`, and holds each against its sum: of `sums`, or else of the store.
    pub(crate) async fn whole(
        &self,
        record: &mut Record,
        objects: Vec<Object>,
        sums: &BTreeMap<String, Sum>,
    ) -> Result<(), StoreError> {
        let expected = self.begin(record, &objects, sums).await?;
        let mut pieces = Vec::new();
        for object in objects {
            let (algorithm, missing) = record.missing(&object.name);
            self.progress.expect(object.size);
            self.progress.add(object.size - missing.iter().map(|(_, range)| range.end - range.start).sum::<u64>());
            let path = self.dir.join(&object.name);
            let file = Arc::new(File::options().write(true).open(&path).map_err(io_error(&path))?);
            let object = Arc::new(object);
            pieces.extend(missing.into_iter().map(|(index, range)| Piece {
                object: Arc::clone(&object),
                file: Arc::clone(&file),
                algorithm,
                index,
                range,
            }));
        }
        self.check_room(pieces.iter().map(|piece| piece.range.end - piece.range.start).sum())?;
        self.pieces(record, pieces, &expected).await
    }

    /// Makes the files of objects of which there is nothing. Returns what each of those must add up to, where that is known.
    async fn begin(
        &self,
        record: &mut Record,
        objects: &[Object],
        sums: &BTreeMap<String, Sum>,
    ) -> Result<BTreeMap<String, Sum>, StoreError> {
        let mut asked = JoinSet::new();
        for object in objects {
            let (client, object) = (Arc::clone(self.client), object.clone());
            let known = sums.get(&object.name).copied();
            // A sum is asked for again where a fetch is resumed.
            let is_whole = record.knows(&object.name) && record.missing(&object.name).1.is_empty();
            if !is_whole {
                asked.spawn(async move {
                    let sum = if known.is_some() { known } else { client.checksum(&object).await? };
                    Ok::<_, StoreError>((object, sum))
                });
            }
        }
        let mut expected = BTreeMap::new();
        while let Some(answer) = asked.join_next().await {
            let (object, sum) = answer.expect("the task does not panic")?;
            if !record.knows(&object.name) {
                let algorithm = sum.map(|sum| sum.algorithm).unwrap_or_default();
                record.begin(&object, algorithm, self.piece_bytes)?;
            }
            expected.extend(sum.map(|sum| (object.name, sum)));
        }
        Ok(expected)
    }

    /// Fetches pieces, many at once.
    async fn pieces(
        &self,
        record: &mut Record,
        pieces: Vec<Piece>,
        expected: &BTreeMap<String, Sum>,
    ) -> Result<(), StoreError> {
        let (mut left, mut running) = (pieces.into_iter(), JoinSet::new());
        loop {
            while running.len() < REQUESTS_MAX
                && let Some(piece) = left.next()
            {
                running.spawn(fetch(Arc::clone(self.client), piece, Arc::clone(self.progress)));
            }
            let Some(fetched) = running.join_next().await else { return Ok(()) };
            let (piece, sum) = fetched.expect("the task does not panic")?;
            let name = &piece.object.name;
            let whole = record.add(name, piece.index, sum)?;
            let whole = whole.map(|value| Sum { algorithm: piece.algorithm, value });
            if let (Some(found), Some(expected)) = (whole, expected.get(name))
                && found != *expected
            {
                record.forget(name)?;
                let object = self.client.url.object(name);
                return Err(StoreError::Checksum { object, expected: expected.to_string(), found: found.to_string() });
            }
        }
    }

    fn check_room(&self, needed: u64) -> Result<(), StoreError> {
        let disk = rustix::fs::statvfs(self.dir).map_err(|error| io_error(self.dir)(error.into()))?;
        let free = disk.f_bavail * disk.f_frsize;
        if free >= needed {
            return Ok(());
        }
        let (url, cache) = (self.client.url.clone(), self.dir.to_owned());
        Err(StoreError::Room { url, needed, free, cache })
    }
}

/// Fetches a piece. Returns its sum.
async fn fetch(client: Arc<Client>, piece: Piece, progress: Arc<Progress>) -> Result<(Piece, u64), StoreError> {
    let mut attempt = 1;
    loop {
        let mut come = 0;
        match fetch_once(&client, &piece, |bytes| {
            come += bytes;
            progress.add(bytes);
        })
        .await
        {
            Ok(sum) => return Ok((piece, sum)),
            Err(error @ (StoreError::Failed { .. } | StoreError::Length { .. })) if attempt < ATTEMPTS => {
                tracing::warn!("{error}; asking again");
                progress.take_back(come);
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn fetch_once(client: &Client, piece: &Piece, mut come: impl FnMut(u64)) -> Result<u64, StoreError> {
    let Piece { object, file, algorithm, range, .. } = piece;
    let url = || client.url.object(&object.name);
    let mut answer = client.get(object, range.clone()).await?;
    let (mut digest, mut at) = (algorithm.digest(), range.start);
    while let Some(bytes) = answer.try_next().await.map_err(|error| client.error(url(), error))? {
        let bytes = &bytes[..];
        if bytes.len() as u64 > range.end - at {
            break;
        }
        // To the page cache: a thread of its own would cost more than it takes.
        file.write_all_at(bytes, at).map_err(io_error(Path::new(&object.name)))?;
        digest.update(bytes);
        at += bytes.len() as u64;
        come(bytes.len() as u64);
    }
    if at != range.end {
        let (expected, found) = (range.end - range.start, at - range.start);
        return Err(StoreError::Length { object: url(), expected, found });
    }
    Ok(digest.finalize())
}
