//! Where buffers lie in allocations of the device. Pure, so that what a model takes is known before there is a device.

/// Every buffer begins at a multiple of this.
pub(crate) const ALIGN: usize = 256;
/// The driver gives memory in pages of this size.
pub(crate) const PAGE_BYTES: usize = 2 << 20;

/// How buffers are packed: small ones share allocations of one size, the first that has room, and each of at least half that
/// size has an allocation of its own.
#[derive(Clone, Debug)]
pub(crate) struct Packing {
    /// Bytes of a shared allocation; 0: each buffer has its own, so that tools see where one is overrun.
    pub(crate) chunk_bytes: usize,
    /// What is left at the end of each shared allocation.
    left: Vec<usize>,
}

/// Where a buffer goes, with its bytes rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Into an allocation of its own.
    Own { bytes: usize },
    /// To `offset` of a shared one; of a new one, if there is none of this number yet.
    In { chunk: usize, offset: usize, bytes: usize },
}

impl Packing {
    pub(crate) fn new(chunk_bytes: usize) -> Self {
        Self { chunk_bytes, left: Vec::new() }
    }

    /// Places a buffer.
    pub(crate) fn place(&mut self, bytes: usize) -> Place {
        let bytes = bytes.max(1).next_multiple_of(ALIGN);
        if self.chunk_bytes == 0 {
            return Place::Own { bytes };
        }
        if bytes >= self.chunk_bytes / 2 {
            return Place::Own { bytes: bytes.next_multiple_of(PAGE_BYTES) };
        }
        let chunk = self.left.iter().position(|&left| left >= bytes).unwrap_or(self.left.len());
        if chunk == self.left.len() {
            self.left.push(self.chunk_bytes);
        }
        let offset = self.chunk_bytes - self.left[chunk];
        self.left[chunk] -= bytes;
        Place::In { chunk, offset, bytes }
    }

    /// Bytes of the shared allocations.
    pub(crate) fn shared_bytes(&self) -> usize {
        self.left.len() * self.chunk_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_buffers_fill_gaps_and_large_ones_stand_alone() {
        let mut packing = Packing::new(16 << 20);
        let mib = 1 << 20;
        assert_eq!(packing.place(7 * mib), Place::In { chunk: 0, offset: 0, bytes: 7 * mib });
        assert_eq!(packing.place(7 * mib), Place::In { chunk: 0, offset: 7 * mib, bytes: 7 * mib });
        assert_eq!(packing.place(7 * mib), Place::In { chunk: 1, offset: 0, bytes: 7 * mib });
        assert_eq!(packing.place(2 * mib), Place::In { chunk: 0, offset: 14 * mib, bytes: 2 * mib });
        assert_eq!(packing.place(1), Place::In { chunk: 1, offset: 7 * mib, bytes: ALIGN });
        assert_eq!(packing.place(9 * mib), Place::Own { bytes: 10 * mib });
        assert_eq!(packing.shared_bytes(), 32 * mib);
        assert_eq!(Packing::new(0).place(1), Place::Own { bytes: ALIGN });
    }
}
