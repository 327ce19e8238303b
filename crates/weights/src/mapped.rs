//! Tensors where their files are mapped.

use crate::checksum::Checksum;
use crate::header::Stored;
use crate::mmap::MappedFile;
use crate::reader::{runs, spans};
use crate::{Progress, WeightsError};
use crc32fast::Hasher;
use half::bf16;
use model::ShardTensor;
use std::ops::Range;
use std::sync::Arc;

/// A rank's part of a tensor of BF16 where its file is mapped. It keeps the file mapped, also when the reader is gone.
pub struct Mapped {
    pub(crate) file: Arc<MappedFile>,
    pub(crate) stored: Stored,
    pub(crate) part: ShardTensor,
    pub(crate) checksum: Arc<Checksum>,
    pub(crate) progress: Arc<Progress>,
}

impl Mapped {
    /// All elements of the stored tensor, row-major. Touching one that is not in memory reads it from the file.
    #[must_use]
    pub fn elements(&self) -> &[bf16] {
        bytemuck::cast_slice(self.bytes())
    }

    /// The rank's part, numbered in what is stored: as in the whole tensor, or all of it where a file holds this part alone.
    #[must_use]
    pub fn part(&self) -> &ShardTensor {
        &self.part
    }

    /// Reads `elements` of the rank's part (row-major numbers in its local matrix) into memory, as far as they are not there,
    /// and counts them as read.
    ///
    /// # Errors
    ///
    /// If they cannot be read, with the file.
    ///
    /// # Panics
    ///
    /// If the part has fewer elements.
    pub fn fetch(&self, elements: Range<usize>) -> Result<(), WeightsError> {
        // One call for many rows: what lies between their parts is another rank's, and in the same pages.
        spans(&self.part, elements.clone()).try_for_each(|span| self.file.fetch(&self.stored.bytes(span)))?;
        let mut piece = Hasher::new();
        for run in runs(&self.part, elements.clone()) {
            piece.update(&self.file.bytes()[self.stored.bytes(run)]);
        }
        self.progress.add(elements.len() * size_of::<bf16>());
        self.checksum.add(elements.start * size_of::<bf16>(), piece);
        Ok(())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.stored.place.clone()]
    }
}
