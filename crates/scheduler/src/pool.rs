//! The blocks of the paged KV cache.

use step::BlockId;

/// Hands out KV blocks against promises. A promise is made before a sequence is admitted and covers every block that it
/// can ever need, so taking a promised block cannot fail.
#[derive(Debug)]
pub struct BlockPool {
    total: usize,
    free: Vec<BlockId>,
    /// Blocks promised but not taken yet; never more than are free.
    promised: usize,
}

impl BlockPool {
    /// A pool of `total` free blocks, numbered from 0.
    #[must_use]
    pub fn new(total: u32) -> Self {
        // Taken from the end, so the lowest numbers go first.
        Self { total: total as usize, free: (0..total).rev().map(BlockId).collect(), promised: 0 }
    }

    /// Blocks in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// Blocks that are neither taken nor promised.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len() - self.promised
    }

    /// Promises `count` blocks if so many are available.
    #[must_use]
    pub fn promise(&mut self, count: usize) -> bool {
        let granted = count <= self.available();
        if granted {
            self.promised += count;
        }
        granted
    }

    /// Takes one block of a promise.
    ///
    /// # Panics
    ///
    /// If nothing is promised.
    pub fn take_promised(&mut self) -> BlockId {
        self.promised = self.promised.checked_sub(1).expect("a block is taken only under a promise");
        self.free.pop().expect("promised blocks are free")
    }

    /// Takes back what is left of a promise, and the blocks taken under it.
    ///
    /// # Panics
    ///
    /// If more is given back than was promised or taken.
    pub fn give_back(&mut self, taken: impl IntoIterator<Item = BlockId>, still_promised: usize) {
        self.promised = self.promised.checked_sub(still_promised).expect("only what was promised is given back");
        self.free.extend(taken);
        assert!(self.free.len() <= self.total, "a block was given back twice");
    }

    /// The free blocks, in no particular order: for checks.
    #[must_use]
    pub fn free(&self) -> &[BlockId] {
        &self.free
    }
}
