//! Weights that lie in memory already, where a file is mapped.

use crate::BackendError;
use half::bf16;
use std::ops::Range;
use std::sync::Arc;

/// A tensor of bf16 in a mapped file. Whoever holds it keeps the file mapped.
pub trait MappedTensor: Send + Sync {
    /// All elements, row-major. Touching one that is not in memory reads it from the file.
    fn elements(&self) -> &[bf16];

    /// Reads these into memory, as far as they are not there. Any number of threads may do that at once.
    ///
    /// # Errors
    ///
    /// [`BackendError`] with the file's name, if it cannot be read.
    fn fetch(&self, elements: Range<usize>) -> Result<(), BackendError>;
}

/// A rank's part of a mapped tensor.
#[derive(Clone)]
pub struct MappedWeight {
    /// The whole tensor.
    pub tensor: Arc<dyn MappedTensor>,
    /// Columns of the tensor.
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

    /// Reads rows of the part into memory.
    ///
    /// # Errors
    ///
    /// As [`MappedTensor::fetch`].
    pub fn fetch(&self, rows: Range<usize>) -> Result<(), BackendError> {
        let mut first = 0;
        for whole in &self.rows {
            // Those of `rows` that this range of the tensor has.
            let (from, to) = (rows.start.max(first), rows.end.min(first + whole.len()));
            if from < to {
                self.fetch_of_tensor(whole.start + from - first..whole.start + to - first)?;
            }
            first += whole.len();
        }
        Ok(())
    }

    fn fetch_of_tensor(&self, rows: Range<usize>) -> Result<(), BackendError> {
        if self.columns.len() == self.columns_total {
            return self.tensor.fetch(rows.start * self.columns_total..rows.end * self.columns_total);
        }
        rows.map(|row| row * self.columns_total)
            .try_for_each(|start| self.tensor.fetch(start + self.columns.start..start + self.columns.end))
    }
}
