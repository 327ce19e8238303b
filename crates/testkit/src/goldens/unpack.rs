//! The small models' weights lie compressed in the repository; a model to run is a folder with all of its files.

use flate2::Crc;
use flate2::read::GzDecoder;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The folder of a model with its files as they are, or unpacked where they end in `.gz`. Its name carries the sum of all
/// their sums, so what was unpacked from others is never taken for it.
pub(super) fn model(packed: &Path) -> io::Result<PathBuf> {
    let files = fs::read_dir(packed)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let mut name = packed.file_name().unwrap_or_default().to_owned();
    let mut sums = files.iter().map(|file| sum(file)).collect::<io::Result<Vec<_>>>()?;
    sums.sort_unstable();
    let mut all = Crc::new();
    sums.iter().for_each(|sum| all.update(&sum.to_le_bytes()));
    name.push(format!("-{:08x}", all.sum()));
    let program = std::env::current_exe()?;
    let unpacked = program.parent().unwrap_or(Path::new(".")).join("models").join(name);
    if unpacked.is_dir() {
        return Ok(unpacked);
    }
    // Several tests may do this at once: each writes a folder of its own, and the first to give it its name wins.
    let parent = unpacked.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let folder = tempfile::tempdir_in(parent)?;
    for file in files {
        let name = if is_packed(&file) { file.file_stem() } else { file.file_name() };
        let mut to = File::create(folder.path().join(name.unwrap_or_default()))?;
        let mut from = File::open(&file)?;
        if is_packed(&file) { io::copy(&mut GzDecoder::new(from), &mut to) } else { io::copy(&mut from, &mut to) }?;
    }
    match fs::rename(folder.path(), &unpacked) {
        Err(error) if !unpacked.is_dir() => Err(error),
        _ => Ok(unpacked),
    }
}

fn is_packed(file: &Path) -> bool {
    file.extension() == Some(OsStr::new("gz"))
}

/// The CRC-32 of the contents, which stands eight bytes before the end of a packed file.
fn sum(file: &Path) -> io::Result<u32> {
    let bytes = fs::read(file)?;
    if !is_packed(file) {
        let mut sum = Crc::new();
        sum.update(&bytes);
        return Ok(sum.sum());
    }
    let end = bytes.last_chunk::<8>().ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(u32::from_le_bytes([end[0], end[1], end[2], end[3]]))
}
