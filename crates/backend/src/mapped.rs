//! Weights that lie in memory already, where a file is mapped.

use crate::BackendError;
use half::bf16;
use std::ops::Range;
use std::sync::Arc;

/// A rank's part of a tensor of bf16 in a mapped file. Whoever holds it keeps the file mapped.
pub trait MappedTensor: Send + Sync {
    /// All elements of the whole tensor, row-major. Touching one that is not in memory reads it from the file.
    fn elements(&self) -> &[bf16];

    /// Reads elements of the rank's part (row-major numbers in its local matrix) into memory, as far as they are not there.
    /// Any number of threads may do that at once.
    ///
    /// # Errors
    ///
    /// [`BackendError`] with the file's name, if it cannot be read.
    fn fetch(&self, elements: Range<usize>) -> Result<(), BackendError>;
}

/// A rank's part of a mapped tensor.
#[derive(Clone)]
pub struct MappedWeight {
    /// The tensor.
    pub tensor: Arc<dyn MappedTensor>,
    /// Columns of the whole tensor.
    pub columns_total: usize,
    /// The part's rows of the tensor, in the part's order.
    pub rows: Vec<Range<usize>>,
    /// The part's columns of the tensor.
    pub columns: Range<usize>,
}

impl MappedWeight {
    /// Rows of the part.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.iter().map(ExactSizeIterator::len).sum()
    }
}
