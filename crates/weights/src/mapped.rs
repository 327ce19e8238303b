//! Tensors where their files are mapped.

use crate::mmap::MappedFile;
use crate::{Progress, WeightsError};
use half::bf16;
use std::ops::Range;
use std::sync::Arc;

/// A tensor of BF16 where its file is mapped. It keeps the file mapped, also when the reader is gone.
pub struct Mapped {
    pub(crate) file: Arc<MappedFile>,
    /// In the file, in bytes.
    pub(crate) place: Range<usize>,
    pub(crate) progress: Arc<Progress>,
}

impl Mapped {
    /// All elements, row-major. Touching one that is not in memory reads it from the file.
    #[must_use]
    pub fn elements(&self) -> &[bf16] {
        bytemuck::cast_slice(self.bytes())
    }

    /// Reads elements into memory, as far as they are not there, and counts them as read.
    ///
    /// # Errors
    ///
    /// The system's, with the file.
    ///
    /// # Panics
    ///
    /// If the tensor has fewer elements.
    pub fn fetch(&self, elements: Range<usize>) -> Result<(), WeightsError> {
        let bytes = size_of_val(&self.elements()[elements.clone()]);
        let start = self.place.start + elements.start * size_of::<bf16>();
        self.file.fetch(&(start..start + bytes))?;
        self.progress.add(bytes);
        Ok(())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.place.clone()]
    }
}
