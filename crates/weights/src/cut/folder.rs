//! A folder of the file system for the files of a cut model.

use super::{CutFile, CutTarget};
use crate::WeightsError;
use crate::files::io_error;
use crate::layout;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Runs of a tensor that is cut by columns are short; they are written together.
const BUFFER_BYTES: usize = 4 << 20;
/// What files are called until all are there.
const UNFINISHED: &str = ".unfinished";

/// A folder. Its files get their names once all have been written and are on the disk, the last one last, so that a run that
/// is interrupted leaves nothing that could be taken for a model.
pub struct CutFolder {
    dir: PathBuf,
    names: Vec<String>,
}

impl CutFolder {
    /// Makes the folder `dir` if it is not there. What an earlier run left unfinished is overwritten.
    ///
    /// # Errors
    ///
    /// If it holds a model already, or cannot be made.
    pub fn new(dir: &Path) -> Result<Self, WeightsError> {
        fs::create_dir_all(dir).map_err(io_error(dir))?;
        for entry in fs::read_dir(dir).map_err(io_error(dir))? {
            let name = entry.map_err(io_error(dir))?.file_name().to_string_lossy().into_owned();
            if layout::is_of_weights(&name) || name == layout::CONFIG {
                let reason =
                    io::Error::new(io::ErrorKind::AlreadyExists, "the folder holds a model already; name a new one");
                return Err(WeightsError::Io { path: dir.join(name), reason });
            }
        }
        Ok(Self { dir: dir.to_owned(), names: Vec::new() })
    }

    /// Gives the files their names.
    ///
    /// # Errors
    ///
    /// If one cannot be renamed.
    pub fn finish(self) -> Result<(), WeightsError> {
        for name in &self.names {
            let path = self.dir.join(name);
            fs::rename(unfinished(&path), &path).map_err(io_error(&path))?;
        }
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io_error(&self.dir))
    }
}

impl CutTarget for CutFolder {
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<Box<dyn CutFile>> {
        let file = File::create(unfinished(&self.dir.join(name)))?;
        file.set_len(bytes)?;
        self.names.push(name.to_owned());
        Ok(Box::new(OnDisk(BufWriter::with_capacity(BUFFER_BYTES, file))))
    }
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

struct OnDisk(BufWriter<File>);

impl Write for OnDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl CutFile for OnDisk {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.0.flush()?;
        self.0.get_ref().sync_all()
    }
}
