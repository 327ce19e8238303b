//! Checksums of what a rank has read of each tensor.

use crc32fast::Hasher;
use std::sync::atomic::{AtomicU32, Ordering};

/// What was read of a tensor, in one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorChecksum {
    /// The file that stores the tensor.
    pub file: String,
    /// The tensor's name in the file.
    pub tensor: String,
    /// The CRC-32 (of ISO 3309, as in zip and zlib) of the rank's part of the tensor as it is stored: row-major, without what
    /// lies between its rows.
    pub crc32: u32,
}

/// The CRC-32 of a number of bytes that come in pieces, in any order and from any threads, each once.
///
/// A CRC is linear: that of the whole is the sum, without carries, of what each piece gives with zeros in place of all others.
#[derive(Debug)]
pub(crate) struct Checksum {
    crc32: AtomicU32,
    len: u64,
}

impl Checksum {
    /// Of `len` bytes.
    pub(crate) fn new(len: usize) -> Self {
        Self { crc32: AtomicU32::new(0), len: len as u64 }
    }

    /// Adds a piece that begins with byte `start`. All of the bytes as one piece may come again, and count alone then.
    pub(crate) fn add(&self, start: usize, mut piece: Hasher) {
        // Relaxed, as the sum orders nothing else: who asks for it has waited for those who read.
        if piece.total_len() == self.len {
            return self.crc32.store(piece.finalize(), Ordering::Relaxed);
        }
        let behind = self.len - start as u64 - piece.total_len();
        piece.combine(&Hasher::new_with_initial_len(0, behind));
        self.crc32.fetch_xor(piece.finalize(), Ordering::Relaxed);
    }

    /// Of the whole, once all of it has come.
    pub(crate) fn crc32(&self) -> u32 {
        self.crc32.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(bytes: &[u8]) -> Hasher {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher
    }

    #[test]
    fn pieces_in_any_order_have_the_checksum_of_the_whole() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..1000 {
            let mut bytes = vec![0; rng.usize(1..5000)];
            rng.fill(&mut bytes);
            let mut cuts: Vec<usize> = (0..rng.usize(..9)).map(|_| rng.usize(..=bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut pieces: Vec<_> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
            rng.shuffle(&mut pieces);
            let checksum = Checksum::new(bytes.len());
            pieces.into_iter().for_each(|at| checksum.add(at.start, piece(&bytes[at])));
            assert_eq!(checksum.crc32(), crc32fast::hash(&bytes), "cut at {cuts:?}");
        }
        // The check value of the CRC's definition.
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn the_whole_may_come_again() {
        let checksum = Checksum::new(3);
        (0..2).for_each(|_| checksum.add(0, piece(b"abc")));
        assert_eq!(checksum.crc32(), crc32fast::hash(b"abc"));
    }
}
