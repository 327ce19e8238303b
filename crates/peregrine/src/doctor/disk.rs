//! How fast the model's files can be read, beside how long a load may take.

use super::check::Check;
use crate::units::gb;
use rustix::fs::{Advice, OFlags, fadvise, fcntl_getfl, fcntl_setfl, fstat, major, minor};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a load should take at most: as long as a platform usually waits for a container.
const LOAD_S_MAX: f64 = 600.0;
/// Read at once, by each of so many threads: what an array of fast disks needs to be busy.
const PIECE_BYTES: usize = 8 << 20;
const THREADS: u64 = 8;
/// Reading ends after so many bytes, or so long.
const BYTES_MAX: u64 = 2 << 30;
const TIME_MAX: Duration = Duration::from_secs(3);
/// What the system should read ahead of a mapped file, in KiB.
const READ_AHEAD_KIB: u64 = 1024;

/// Looks at the folder's weights, on the disk that `sysfs` describes.
pub(super) fn look(dir: &Path, sysfs: &Path, measures: bool) -> Vec<Check> {
    let files = weights_files(dir);
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    let Some((largest, _)) = files.iter().max_by_key(|(_, bytes)| *bytes) else { return Vec::new() };
    let mut checks: Vec<Check> = read_ahead(largest, sysfs).into_iter().collect();
    if measures {
        checks.push(rate(largest, bytes));
    }
    checks
}

fn weights_files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "safetensors"));
    files.filter_map(|path| Some((path.clone(), path.metadata().ok()?.len()))).collect()
}

fn rate(path: &Path, all_bytes: u64) -> Check {
    const NAME: &str = "disk";
    let measured = match read(path) {
        Ok(measured) => measured,
        Err(error) => {
            return Check::fail(NAME, format!("{}: {error}", path.display()), "dmesg says what is wrong with the disk");
        }
    };
    let per_second = measured.bytes as f64 / measured.seconds;
    let load_s = all_bytes as f64 / per_second;
    let from = if measured.is_direct { "past the page cache" } else { "perhaps from the page cache" };
    let found = format!(
        "{:.2} GB/s, {from}: {} GB of weights take {load_s:.0} s to read the first time",
        per_second / 1e9,
        gb(all_bytes)
    );
    if load_s <= LOAD_S_MAX {
        return Check::pass(NAME, found);
    }
    let found = format!("{found}, more than {LOAD_S_MAX:.0} s");
    Check::warn(
        NAME,
        found,
        "put the model onto local NVMe disks, or give the volume more throughput; raise --load-timeout only if it stands still",
    )
}

struct Measured {
    bytes: u64,
    seconds: f64,
    /// The page cache was not asked.
    is_direct: bool,
}

/// Reads pieces of the file for a while, by several threads.
fn read(path: &Path) -> io::Result<Measured> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    // Some file systems cannot read past the page cache; what is in it may go then.
    let is_direct = fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::DIRECT).is_ok() && probe(&file);
    if !is_direct {
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::DIRECT)?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    let pieces = (len / PIECE_BYTES as u64).max(1).min(BYTES_MAX / PIECE_BYTES as u64);
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    let work = || -> io::Result<()> {
        let mut buffer = Aligned::new();
        while start.elapsed() < TIME_MAX {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                break;
            }
            let read = file.read_at(buffer.bytes(), piece * PIECE_BYTES as u64)?;
            done.fetch_add(read as u64, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS.min(pieces)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("reading does not panic"))
    })?;
    Ok(Measured { bytes: done.into_inner(), seconds: start.elapsed().as_secs_f64().max(1e-9), is_direct })
}

/// Whether a read past the page cache works: a file system may take the flag, and refuse the read.
fn probe(file: &File) -> bool {
    file.read_at(Aligned::new().bytes(), 0).is_ok()
}

/// A buffer at a page's boundary, as reads past the page cache want it.
struct Aligned(Vec<u8>);

const PAGE: usize = 4096;

impl Aligned {
    fn new() -> Self {
        Self(vec![0; PIECE_BYTES + PAGE])
    }

    fn bytes(&mut self) -> &mut [u8] {
        let skip = self.0.as_ptr().align_offset(PAGE);
        &mut self.0[skip..][..PIECE_BYTES]
    }
}

/// How far the system reads ahead on the file's device; nothing where it does not say.
fn read_ahead(path: &Path, sysfs: &Path) -> Option<Check> {
    const NAME: &str = "read-ahead";
    let device = fstat(File::open(path).ok()?).ok()?.st_dev;
    let file = sysfs.join(format!("class/bdi/{}:{}/read_ahead_kb", major(device), minor(device)));
    let kib: u64 = std::fs::read_to_string(&file).ok()?.trim().parse().ok()?;
    let found = format!("{kib} KiB on the disk of {}", path.display());
    // 0: memory is the disk.
    Some(if kib == 0 || kib >= READ_AHEAD_KIB {
        Check::pass(NAME, found)
    } else {
        let remedy = format!("as root: echo {} > {}", 4 * READ_AHEAD_KIB, file.display());
        Check::warn(NAME, format!("{found}: mapped weights load in small pieces"), remedy)
    })
}

#[cfg(test)]
mod tests {
    use super::super::check::Verdict;
    use super::*;

    #[test]
    fn all_of_a_file_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        let bytes = 3 * PIECE_BYTES + 5;
        std::fs::write(&path, vec![1; bytes]).expect("a file");
        let measured = read(&path).expect("it can be read");
        // Whole pieces of it.
        assert_eq!(measured.bytes, 3 * PIECE_BYTES as u64);
        std::fs::write(&path, [1; 5]).expect("a file");
        assert_eq!(read(&path).expect("it can be read").bytes, 5);
    }

    #[test]
    fn a_slow_disk_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, [1; 4096]).expect("a file");
        assert_eq!(rate(&path, 4096).verdict, Verdict::Pass);
        let slow = rate(&path, 1 << 62);
        assert!(slow.verdict == Verdict::Warn && slow.found.ends_with("more than 600 s"), "{slow}");
        assert_eq!(rate(&folder.path().join("none"), 1).verdict, Verdict::Fail);
    }

    #[test]
    fn read_ahead_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, [1; 5]).expect("a file");
        let device = fstat(File::open(&path).expect("a file")).expect("known").st_dev;
        let bdi = folder.path().join(format!("class/bdi/{}:{}", major(device), minor(device)));
        std::fs::create_dir_all(&bdi).expect("a folder");
        for (kib, verdict) in [("128\n", Verdict::Warn), ("4096\n", Verdict::Pass), ("0\n", Verdict::Pass)] {
            std::fs::write(bdi.join("read_ahead_kb"), kib).expect("a file");
            let checks = look(folder.path(), folder.path(), false);
            assert_eq!(checks.iter().map(|check| check.verdict).collect::<Vec<_>>(), [verdict], "{kib}");
        }
        assert!(look(folder.path(), Path::new("/nowhere"), false).is_empty());
    }
}
