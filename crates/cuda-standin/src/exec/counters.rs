//! What a kernel does to memory, counted: bytes and sectors of global memory, wavefronts of shared memory.

use super::lanes_of;
use std::collections::HashMap;

/// Bytes of global memory that one transaction moves.
const SECTOR_BYTES: u64 = 32;
/// Bytes of a bitmap's page.
const PAGE_BYTES: u64 = 4096;

/// Sums over the launches of a kernel.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct KernelCounters {
    /// How often it ran.
    pub launches: u64,
    /// Warp instructions.
    pub instructions: u64,
    /// Bytes that lanes read from global memory, each as often as it was read.
    pub read_bytes: u64,
    /// Bytes that lanes wrote to global memory, each as often as it was written.
    pub written_bytes: u64,
    /// Bytes of global memory that were read, each once a launch.
    pub distinct_read_bytes: u64,
    /// Bytes of global memory that were written, each once a launch.
    pub distinct_written_bytes: u64,
    /// Sectors of 32 bytes that each warp's read touched, summed.
    pub read_sectors: u64,
    /// Sectors of 32 bytes that each warp's write touched, summed.
    pub written_sectors: u64,
    /// Wavefronts that accesses to shared memory took.
    pub shared_wavefronts: u64,
    /// Of those, how many there were for bank conflicts alone.
    pub shared_conflicts: u64,
    /// Bytes of global memory that were read more than once, each counted once a launch.
    pub reread_bytes: u64,
}

impl KernelCounters {
    /// Adds another sum.
    pub fn add(&mut self, other: &Self) {
        self.launches += other.launches;
        self.instructions += other.instructions;
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
        self.distinct_read_bytes += other.distinct_read_bytes;
        self.distinct_written_bytes += other.distinct_written_bytes;
        self.read_sectors += other.read_sectors;
        self.written_sectors += other.written_sectors;
        self.shared_wavefronts += other.shared_wavefronts;
        self.shared_conflicts += other.shared_conflicts;
        self.reread_bytes += other.reread_bytes;
    }
}

/// What one thread has counted of one launch.
#[derive(Default)]
pub(crate) struct LaunchCounters {
    sums: KernelCounters,
    read: Bitmap,
    read_again: Bitmap,
    written: Bitmap,
}

impl LaunchCounters {
    pub(super) fn read(&mut self, at: &[u64; 32], m: u32, bytes: usize) {
        self.sums.read_bytes += u64::from(m.count_ones()) * bytes as u64;
        self.sums.read_sectors += sectors(at, m, bytes);
        for lane in lanes_of(m) {
            let again = self.read.set(at[lane], bytes);
            if again != 0 {
                self.read_again.set_bits(at[lane], again);
            }
        }
    }

    pub(super) fn write(&mut self, at: &[u64; 32], m: u32, bytes: usize) {
        self.sums.written_bytes += u64::from(m.count_ones()) * bytes as u64;
        self.sums.written_sectors += sectors(at, m, bytes);
        for lane in lanes_of(m) {
            self.written.set(at[lane], bytes);
        }
    }

    pub(super) fn read_and_write(&mut self, at: &[u64; 32], m: u32, bytes: usize) {
        self.read(at, m, bytes);
        self.write(at, m, bytes);
    }

    /// An access of shared memory. 128 bytes go in one wavefront: wider accesses are cut into parts of the warp.
    pub(super) fn shared(&mut self, at: &[u64; 32], m: u32, bytes: usize) {
        let lanes_at_once = (128 / bytes.max(4)).min(32);
        for first in (0..32).step_by(lanes_at_once) {
            let part = (((1u64 << lanes_at_once) - 1) << first) as u32 & m;
            self.shared_part(lanes_of(part).map(|lane| (at[lane], bytes)));
        }
    }

    /// `ldmatrix`: a wavefront for each matrix, if its rows are in different banks.
    pub(super) fn matrix(&mut self, at: &[u64; 32], matrices: usize) {
        for nth in 0..matrices {
            self.shared_part((8 * nth..8 * nth + 8).map(|lane| (at[lane], 16)));
        }
    }

    /// Words in the same bank that are not the same word take a wavefront each.
    fn shared_part(&mut self, accesses: impl Iterator<Item = (u64, usize)>) {
        let mut words: Vec<u64> = accesses.flat_map(|(at, bytes)| at / 4..(at + bytes as u64).div_ceil(4)).collect();
        words.sort_unstable();
        words.dedup();
        let mut banks = [0u64; 32];
        for word in words {
            banks[(word % 32) as usize] += 1;
        }
        let wavefronts = banks.into_iter().max().unwrap_or(0);
        self.sums.shared_wavefronts += wavefronts;
        self.sums.shared_conflicts += wavefronts.saturating_sub(1);
    }

    /// Takes in what another thread has counted of the same launch.
    pub(super) fn merge(&mut self, other: Self) {
        self.sums.add(&other.sums);
        self.read_again.merge(other.read_again);
        self.read_again.merge(self.read.both(&other.read));
        self.read.merge(other.read);
        self.written.merge(other.written);
    }

    /// The launch's sums.
    pub(super) fn total(&self, instructions: u64) -> KernelCounters {
        KernelCounters {
            launches: 1,
            instructions,
            distinct_read_bytes: self.read.count(),
            distinct_written_bytes: self.written.count(),
            reread_bytes: self.read_again.count(),
            ..self.sums
        }
    }
}

fn sectors(at: &[u64; 32], m: u32, bytes: usize) -> u64 {
    let mut list: Vec<u64> =
        lanes_of(m).flat_map(|lane| at[lane] / SECTOR_BYTES..=(at[lane] + bytes as u64 - 1) / SECTOR_BYTES).collect();
    list.sort_unstable();
    list.dedup();
    list.len() as u64
}

/// One bit for each byte of the address space.
#[derive(Default)]
struct Bitmap {
    pages: HashMap<u64, Box<[u64; 64]>>,
}

impl Bitmap {
    /// An access is aligned to its size, so it lies in one page, and in one word. Returns the bits that were set before.
    fn set(&mut self, at: u64, bytes: usize) -> u64 {
        self.set_bits(at, ((1 << bytes) - 1) << (at % 64))
    }

    /// Sets bits of the word in which `at` lies, and returns those that were set before.
    fn set_bits(&mut self, at: u64, bits: u64) -> u64 {
        let page = self.pages.entry(at / PAGE_BYTES).or_insert_with(|| Box::new([0; 64]));
        let word = &mut page[(at % PAGE_BYTES / 64) as usize];
        let before = *word & bits;
        *word |= bits;
        before
    }

    /// What is set in both.
    fn both(&self, other: &Self) -> Self {
        let pages = self.pages.iter().filter_map(|(number, ours)| {
            let theirs = other.pages.get(number)?;
            Some((*number, Box::new(std::array::from_fn(|word| ours[word] & theirs[word]))))
        });
        Self { pages: pages.collect() }
    }

    fn merge(&mut self, other: Self) {
        for (number, theirs) in other.pages {
            let ours = self.pages.entry(number).or_insert_with(|| Box::new([0; 64]));
            ours.iter_mut().zip(theirs.iter()).for_each(|(ours, theirs)| *ours |= theirs);
        }
    }

    fn count(&self) -> u64 {
        self.pages.values().flat_map(|page| page.iter()).map(|word| u64::from(word.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_bytes_and_sectors_are_told_from_all() {
        let mut counters = LaunchCounters::default();
        let same = [4096; 32];
        let apart: [u64; 32] = std::array::from_fn(|lane| 4096 + 64 * lane as u64);
        counters.read(&same, u32::MAX, 4);
        counters.read(&apart, u32::MAX, 4);
        let total = counters.total(0);
        assert_eq!((total.read_bytes, total.distinct_read_bytes, total.read_sectors), (256, 128, 33));
        assert_eq!(total.reread_bytes, 4);
        let mut other = LaunchCounters::default();
        other.read(&std::array::from_fn(|lane| 4096 + 4 * lane as u64), u32::MAX, 4);
        counters.merge(other);
        assert_eq!((counters.total(0).distinct_read_bytes, counters.total(0).reread_bytes), (248, 8));
    }

    #[test]
    fn bank_conflicts_are_counted() {
        let conflicts = |stride: u64, bytes: usize| {
            let mut counters = LaunchCounters::default();
            counters.shared(&std::array::from_fn(|lane| lane as u64 * stride), u32::MAX, bytes);
            (counters.sums.shared_wavefronts, counters.sums.shared_conflicts)
        };
        assert_eq!(conflicts(4, 4), (1, 0));
        assert_eq!(conflicts(0, 4), (1, 0));
        assert_eq!(conflicts(128, 4), (32, 31));
        assert_eq!(conflicts(16, 16), (4, 0));
        assert_eq!(conflicts(2, 2), (1, 0));
    }
}
