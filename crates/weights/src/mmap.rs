//! A file mapped for reading: the one place of this crate with unsafe code.

#![expect(unsafe_code, reason = "mapping a file, dropping mapped pages and handling a signal are unsafe calls")]

mod faults;

pub use faults::{Fault, report_faults};

use crate::WeightsError;
use crate::files::io_error;
use faults::Watch;
use memmap2::{Advice, Mmap, UncheckedAdvice};
use std::fs::{self, File};
use std::hint::black_box;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The smallest page in use. Where pages are larger, the advice covers those that `range` ends in as well, which is
/// harmless.
const PAGE_BYTES: usize = 4096;
/// What the CPU's page table maps by one entry, at best.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// At how many places of a file is looked whether the page cache has it in huge pages.
const PROBES: usize = 32;
/// Files up to this size take so few pages of any size that TLB misses cost nothing.
const FEW_PAGES_BYTES: usize = 64 << 20;

pub(crate) struct MappedFile {
    pub(crate) path: PathBuf,
    file: File,
    map: Watched,
    few_tlb_misses: OnceLock<bool>,
}

/// A mapping whose faults are reported. It is forgotten before it goes.
struct Watched {
    watch: Watch,
    map: Mmap,
}

impl MappedFile {
    pub(crate) fn open(path: PathBuf) -> Result<Self, WeightsError> {
        let opened = File::open(&path).and_then(|file| Ok((map(&path, &file)?, file)));
        let (map, file) = opened.map_err(io_error(&path))?;
        Ok(Self { path, file, map, few_tlb_misses: OnceLock::new() })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map.map
    }

    /// True if TLB misses will not matter: the file is small, or at least ¾ of the probed places are huge pages in the page
    /// cache. With small pages, misses cost a stream of reads up to a fifth. From then on, what is not in the page cache yet
    /// is read into huge pages, if the file system has them.
    pub(crate) fn has_few_tlb_misses(&self) -> bool {
        *self.few_tlb_misses.get_or_init(|| {
            advise_huge_pages(&self.map.map);
            self.bytes().len() <= FEW_PAGES_BYTES
                || huge_pages_of(&self.path, &self.file).is_ok_and(|huge| 4 * huge >= 3 * PROBES)
        })
    }

    /// Asks the system to read ahead what lies in `range`.
    pub(crate) fn prefetch(&self, range: &Range<usize>) {
        // Where the advice is refused, the pages are read when they are touched.
        let _ = self.map.map.advise_range(Advice::WillNeed, range.start, range.len());
    }

    /// Reads what lies in `range` into memory, and returns once it is there.
    ///
    /// # Errors
    ///
    /// If it cannot be read, with the file and the place.
    pub(crate) fn fetch(&self, range: &Range<usize>) -> Result<(), WeightsError> {
        #[cfg(target_os = "linux")]
        match self.map.map.advise_range(Advice::PopulateRead, range.start, range.len()) {
            // Linux before 5.14 does not know how.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            // To touch it would be a SIGBUS.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => return Err(self.unreadable(range)),
            done => return done.map_err(io_error(&self.path)),
        }
        self.bytes()[range.clone()].iter().step_by(PAGE_BYTES).for_each(|byte| _ = black_box(*byte));
        Ok(())
    }

    fn unreadable(&self, range: &Range<usize>) -> WeightsError {
        let now = self.file.metadata().ok().map(|metadata| metadata.len());
        let (start, mapped) = (range.start as u64, self.bytes().len() as u64);
        let offset = now.map_or(start, |now| if now < mapped { start.max(now) } else { start });
        WeightsError::Unreadable { path: self.path.clone(), fault: Fault { offset, mapped, now } }
    }

    /// Gives back the memory of the whole pages within `range`; touching them again reads them from the file again.
    pub(crate) fn release(&self, range: &Range<usize>) {
        let start = range.start.next_multiple_of(PAGE_BYTES);
        let end = range.end / PAGE_BYTES * PAGE_BYTES;
        if start >= end {
            return;
        }
        assert!(end <= self.bytes().len(), "released up to byte {end} of {}", self.bytes().len());
        // SAFETY: `start..end` is inside the map, as asserted, so its pages are the map's own. The map is backed by a
        // file and never written, so dropped pages come back from the file with the same bytes, also under a slice that
        // another thread is reading.
        let _ = unsafe { self.map.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
    }
}

fn map(path: &Path, file: &File) -> io::Result<Watched> {
    // SAFETY: the map is read-only, and its bytes are only ever copied, parsed or computed with as plain data, for which
    // any value is valid. What remains is a file that another process changes meanwhile, against which no map can be
    // defended, as the crate's documentation says; where it is cut short, the process ends, by `faults`.
    let map = unsafe { Mmap::map(file) }?;
    Ok(Watched { watch: Watch::new(path, file, &map), map })
}

fn advise_huge_pages(map: &Mmap) {
    // A system without them says no, and nothing is lost.
    #[cfg(target_os = "linux")]
    let _ = map.advise(Advice::HugePage);
}

/// At how many of [`PROBES`] places of a file the page cache has a huge page.
fn huge_pages_of(path: &Path, file: &File) -> io::Result<usize> {
    // Of a map of its own, in which nothing else has been touched.
    let Watched { watch: _watch, map } = map(path, file)?;
    advise_huge_pages(&map);
    for probe in 0..PROBES {
        black_box(map[map.len() / PROBES * probe]);
    }
    let bytes = bytes_in_huge_pages(&fs::read_to_string("/proc/self/smaps")?, map.as_ptr().addr());
    Ok(bytes / HUGE_PAGE_BYTES)
}

/// How much of the mapping that begins at `address` is mapped by huge pages of the page cache, by the system's account of
/// this process's mappings.
fn bytes_in_huge_pages(smaps: &str, address: usize) -> usize {
    let header = format!("{address:x}-");
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&header)).skip(1);
    // Each mapping's account ends with its flags.
    let account = lines.by_ref().take_while(|line| !line.starts_with("VmFlags:"));
    let kib = account.filter_map(|line| {
        let kib = line.strip_prefix("FilePmdMapped:").or_else(|| line.strip_prefix("ShmemPmdMapped:"))?;
        kib.trim().strip_suffix(" kB")?.parse::<usize>().ok()
    });
    kib.sum::<usize>() << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_those_of_the_mapping_asked_for() {
        let mapping = |from: &str, file: usize, shmem: usize| {
            format!(
                "{from}-7f00ffff0000 r--s 00000000 fe:00 12 /a file-name\nSize: 4096 kB\nRss: 9 kB\n\
                 ShmemPmdMapped: {shmem:8} kB\nFilePmdMapped: {file:8} kB\nTHPeligible: 1\nVmFlags: rd mr me hg\n"
            )
        };
        let smaps =
            [mapping("7f0000000000", 2048, 0), mapping("7f0010000000", 4096, 2048), mapping("7f0020000000", 0, 0)];
        let bytes = |address| bytes_in_huge_pages(&smaps.concat(), address);
        let found = [0x7f00_0000_0000, 0x7f00_1000_0000, 0x7f00_2000_0000, 0x7f00_3000_0000].map(bytes);
        assert_eq!(found, [2 << 20, 6 << 20, 0, 0]);
    }

    #[test]
    fn a_file_is_fetched_and_small_ones_have_few_tlb_misses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..100_000).map(|i| (i % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let file = MappedFile::open(path).unwrap();
        file.fetch(&(12_345..99_999)).unwrap();
        assert!(file.bytes() == bytes && file.has_few_tlb_misses());
        assert_eq!(huge_pages_of(&file.path, &file.file).unwrap(), 0, "a mapping shorter than a huge page has none");
    }

    #[test]
    fn what_was_cut_off_is_an_error_that_names_the_file_and_the_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vec![1; 100_000]).unwrap();
        let mapped = MappedFile::open(file.path().to_owned()).unwrap();
        mapped.fetch(&(0..100_000)).unwrap();
        file.as_file().set_len(20_000).unwrap();
        mapped.fetch(&(0..20_000)).unwrap();
        for (range, offset) in [(10_000..90_000, 20_000), (50_000..60_000, 50_000)] {
            let error = mapped.fetch(&range).unwrap_err().to_string();
            let path = file.path().display();
            assert_eq!(
                error,
                format!(
                    "{path}: cut short while it was in use, from 100000 to 20000 bytes: byte {offset} cannot be read"
                )
            );
        }
    }
}
