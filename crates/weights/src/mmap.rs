//! A file mapped for reading: the one place of this crate with unsafe code.

#![expect(unsafe_code, reason = "mapping a file, and dropping mapped pages, are unsafe calls")]

use memmap2::{Advice, Mmap, UncheckedAdvice};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// The smallest page in use. Where pages are larger, the advice covers those that `range` ends in as well, which is
/// harmless.
const PAGE_BYTES: usize = 4096;

pub(crate) struct MappedFile(Mmap);

impl MappedFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is read-only, and its bytes are only ever copied or parsed as plain data, for which any value
        // is valid. What remains is a file that another process changes or cuts short meanwhile, against which no map
        // can be defended; the crate's documentation says so.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self(map))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Asks the system to read ahead what lies in `range`.
    pub(crate) fn prefetch(&self, range: &Range<usize>) {
        // Where the advice is refused, the pages are read when they are touched.
        let _ = self.0.advise_range(Advice::WillNeed, range.start, range.len());
    }

    /// Gives back the memory of the whole pages within `range`; touching them again reads them from the file again.
    pub(crate) fn release(&self, range: &Range<usize>) {
        let start = range.start.next_multiple_of(PAGE_BYTES);
        let end = range.end / PAGE_BYTES * PAGE_BYTES;
        if start >= end {
            return;
        }
        assert!(end <= self.0.len(), "released up to byte {end} of {}", self.0.len());
        // SAFETY: `start..end` is inside the map, as asserted, so its pages are the map's own. The map is backed by a
        // file and never written, so dropped pages come back from the file with the same bytes, also under a slice that
        // another thread is reading.
        let _ = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
    }
}
