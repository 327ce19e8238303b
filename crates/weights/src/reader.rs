//! Copies a rank's part of each tensor out of the mapped files.

use crate::checksum::Checksum;
use crate::files::{Files, Located};
use crate::mapped::Mapped;
use crate::{Progress, TensorChecksum, WeightsError};
use crc32fast::Hasher;
use half::{bf16, f16};
use model::{ShardTensor, TensorId};
use safetensors::Dtype;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

const _: () = assert!(cfg!(target_endian = "little"), "safetensors are little-endian and are copied as they are");

const UNREAD: &str = "a checkpoint is opened only if its tensors have types that are read";

/// Bytes of a run that are summed up and copied at a time: few enough to be in the CPU's nearest caches for both.
const BLOCK_BYTES: usize = 16 << 10;

/// Reads the tensors of one rank. Any number of threads may read at once.
pub struct ShardReader<'a> {
    files: &'a Files,
    tensors: Vec<ShardTensor>,
    sources: HashMap<TensorId, Source<'a>>,
    progress: Arc<Progress>,
}

/// Where a tensor is read from, and what was read of it.
struct Source<'a> {
    name: &'a str,
    located: &'a Located,
    /// The rank's part of what is stored: as in the whole model, or all of it where a file holds this part alone.
    part: ShardTensor,
    checksum: Arc<Checksum>,
    /// What must be read, where it is known.
    crc32: Option<u32>,
}

/// How a checkpoint stores a rank's part of a tensor.
pub(crate) struct StoredPart<'a> {
    pub(crate) name: &'a str,
    /// The part, numbered in what is stored.
    pub(crate) part: ShardTensor,
    /// The CRC-32 of the part, where it is known.
    pub(crate) crc32: Option<u32>,
}

impl<'a> ShardReader<'a> {
    /// `stored` says how `files` store the rank's part of a tensor.
    pub(crate) fn new(
        files: &'a Files,
        tensors: Vec<ShardTensor>,
        stored: impl Fn(&ShardTensor) -> StoredPart<'a>,
    ) -> Self {
        let (mut sources, mut total) = (HashMap::new(), 0);
        for tensor in &tensors {
            let StoredPart { name, part, crc32 } = stored(tensor);
            let located = &files.tensors[name];
            let bytes = tensor.local_elements() * located.stored.element_bytes();
            total += bytes as u64;
            sources.insert(tensor.id, Source { name, located, part, checksum: Arc::new(Checksum::new(bytes)), crc32 });
        }
        Self { files, tensors, sources, progress: Arc::new(Progress::new(total)) }
    }

    /// The rank's tensors, in the order in which a forward pass meets them.
    #[must_use]
    pub fn tensors(&self) -> &[ShardTensor] {
        &self.tensors
    }

    /// How much has been read; may be watched from another thread, and outlives the reader.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// A checksum of every tensor, in the order of [`tensors`](Self::tensors), once each element of it has been read once; a
    /// tensor may be read as a whole again. It is the same however the tensor was read: copied, or [`mapped`](Self::mapped)
    /// and fetched.
    #[must_use]
    pub fn checksums(&self) -> Vec<TensorChecksum> {
        let of = |tensor: &ShardTensor| {
            let Source { name, located, checksum, .. } = self.source(tensor);
            let file = self.files.file(located).path.display().to_string();
            TensorChecksum { file, tensor: (*name).to_owned(), crc32: checksum.crc32() }
        };
        self.tensors.iter().map(of).collect()
    }

    /// Holds what was read against the CRC-32s that `peregrine shard` wrote down, if the model was cut by it; as with
    /// [`checksums`](Self::checksums), once each element has been read.
    ///
    /// # Errors
    ///
    /// The first tensor that differs, with its file.
    pub fn verify(&self) -> Result<(), WeightsError> {
        for tensor in &self.tensors {
            let Source { name, located, checksum, crc32, .. } = self.source(tensor);
            match (crc32, checksum.crc32()) {
                (Some(expected), found) if *expected != found => {
                    let path = self.files.file(located).path.clone();
                    let tensor = (*name).to_owned();
                    return Err(WeightsError::TensorChanged { path, tensor, expected: *expected, found });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Copies `elements` of the rank's part of `tensor` (row-major numbers in its local matrix) to `out`. BF16 is
    /// copied as it is, in runs as long as the cut allows; F16 and F32 are rounded to the nearest, ties to even, a NaN
    /// staying a NaN.
    ///
    /// # Panics
    ///
    /// If `tensor` is not one of [`tensors`](Self::tensors), if `elements` are not all within its local matrix, or if
    /// `out` has another length.
    pub fn read(&self, tensor: &ShardTensor, elements: Range<usize>, out: &mut [bf16]) {
        self.copy_runs(tensor, elements, out, |dtype, bytes, out| match dtype {
            Dtype::BF16 => bytemuck::cast_slice_mut(out).copy_from_slice(bytes),
            Dtype::F16 => convert(bytes, out, bf16_of_f16),
            Dtype::F32 => convert(bytes, out, bf16_of_f32),
            _ => unreachable!("{UNREAD}"),
        });
    }

    /// Copies the rank's whole part of `tensor` to `out` in full precision: for norms and biases, which an F32
    /// checkpoint holds more precisely than bf16. Every stored type widens to f32 exactly.
    ///
    /// # Panics
    ///
    /// If `tensor` is not one of [`tensors`](Self::tensors), or if `out` has another length than its local elements.
    pub fn read_f32(&self, tensor: &ShardTensor, out: &mut [f32]) {
        self.copy_runs(tensor, 0..tensor.local_elements(), out, |dtype, bytes, out| match dtype {
            Dtype::BF16 => convert(bytes, out, |pair| bf16::from_le_bytes(pair).to_f32()),
            Dtype::F16 => convert(bytes, out, |pair| f16::from_le_bytes(pair).to_f32()),
            Dtype::F32 => bytemuck::cast_slice_mut(out).copy_from_slice(bytes),
            _ => unreachable!("{UNREAD}"),
        });
    }

    /// The tensor that `tensor` is a part of, to be used where its file is mapped. `None` if it is not stored as BF16 at
    /// an even address, or if reading it there again and again would be slower than from other memory, since the page cache has
    /// the file in small pages.
    ///
    /// # Panics
    ///
    /// If `tensor` is not one of [`tensors`](Self::tensors).
    #[must_use]
    pub fn mapped(&self, tensor: &ShardTensor) -> Option<Mapped> {
        let Source { located, part, checksum, .. } = self.source(tensor);
        let mapped = Mapped {
            file: Arc::clone(self.files.file(located)),
            stored: located.stored.clone(),
            part: part.clone(),
            checksum: Arc::clone(checksum),
            progress: self.progress(),
        };
        let is_bf16 = located.stored.dtype == Dtype::BF16;
        let usable = is_bf16 && bytemuck::try_cast_slice::<u8, bf16>(mapped.bytes()).is_ok();
        (usable && mapped.file.has_few_tlb_misses()).then_some(mapped)
    }

    /// Asks the system to read `tensor` ahead from the disk: worth it for the next tensor while this one is copied.
    ///
    /// # Panics
    ///
    /// If `tensor` is not one of [`tensors`](Self::tensors).
    pub fn prefetch(&self, tensor: &ShardTensor) {
        let file = self.files.file(self.source(tensor).located);
        self.spans(tensor).for_each(|span| file.prefetch(&span));
    }

    /// Gives back the memory of the pages that held `tensor`, once it has been read: without it, a shard is resident
    /// twice while it is loaded. Reading the tensor again is allowed, and slower.
    ///
    /// # Panics
    ///
    /// If `tensor` is not one of [`tensors`](Self::tensors).
    pub fn release(&self, tensor: &ShardTensor) {
        let file = self.files.file(self.source(tensor).located);
        self.spans(tensor).for_each(|span| file.release(&span));
    }

    /// Hands all stored bytes of `elements`, in contiguous blocks with the part of `out` that each fills, to `copy`.
    fn copy_runs<T>(
        &self,
        tensor: &ShardTensor,
        elements: Range<usize>,
        out: &mut [T],
        copy: impl Fn(Dtype, &[u8], &mut [T]),
    ) {
        assert_eq!(out.len(), elements.len(), "{}: length of the output for elements {elements:?}", tensor.id);
        let Source { located, part, checksum, .. } = self.source(tensor);
        let (dtype, element_bytes) = (located.stored.dtype, located.stored.element_bytes());
        let bytes = self.files.bytes(located);
        let (mut piece, mut rest) = (Hasher::new(), out);
        for run in runs(part, elements.clone()) {
            for block in bytes[run.start * element_bytes..run.end * element_bytes].chunks(BLOCK_BYTES) {
                let filled = rest.split_off_mut(..block.len() / element_bytes).expect("a block is within the elements");
                piece.update(block);
                copy(dtype, block, filled);
            }
        }
        checksum.add(elements.start * element_bytes, piece);
        self.progress.add(elements.len() * element_bytes);
    }

    /// Bytes of the file between the first and the last element of each of the tensor's ranges of rows.
    fn spans(&self, tensor: &ShardTensor) -> impl Iterator<Item = Range<usize>> {
        let Source { located, part, .. } = self.source(tensor);
        spans(part, 0..tensor.local_elements()).map(|span| located.stored.bytes(span))
    }

    fn source(&self, tensor: &ShardTensor) -> &Source<'a> {
        self.sources.get(&tensor.id).unwrap_or_else(|| panic!("{} is not in this shard", tensor.id))
    }
}

/// The elements `local` of the rank's part, as runs of elements that are numbered in the whole tensor.
pub(crate) fn runs(tensor: &ShardTensor, local: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut rest = local;
    std::iter::from_fn(move || {
        let longest = (!rest.is_empty()).then(|| run_at(tensor, rest.start))?;
        let run = longest.start..longest.end.min(longest.start + rest.len());
        rest.start += run.len();
        Some(run)
    })
}

/// The longest run of elements, numbered in the whole tensor, that starts with the local element `local`: to the end of
/// its row, or of its range of rows where the columns are uncut.
fn run_at(tensor: &ShardTensor, local: usize) -> Range<usize> {
    let (mut row, column) = (local / tensor.local_columns(), local % tensor.local_columns());
    for rows in &tensor.rows {
        if row < rows.len() {
            row += rows.start;
            let start = row * tensor.columns_total + tensor.columns.start + column;
            let last_row = if tensor.local_columns() == tensor.columns_total { rows.end - 1 } else { row };
            return start..last_row * tensor.columns_total + tensor.columns.end;
        }
        row -= rows.len();
    }
    panic!("{}: element {local} of {}", tensor.id, tensor.local_elements());
}

/// What lies between the first and the last of the elements `local` of the rank's part, in each of the tensor's ranges of rows:
/// elements that are numbered in the whole tensor.
pub(crate) fn spans(tensor: &ShardTensor, local: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut first = 0;
    tensor.rows.iter().filter_map(move |rows| {
        let before = first;
        first += rows.len() * tensor.local_columns();
        let (start, end) = (local.start.max(before), local.end.min(first));
        let place = |element: usize| {
            let (row, column) = (element / tensor.local_columns(), element % tensor.local_columns());
            (rows.start + row) * tensor.columns_total + tensor.columns.start + column
        };
        (start < end).then(|| place(start - before)..place(end - 1 - before) + 1)
    })
}

/// The elements of a tensor as they are read to bf16.
pub(crate) fn bf16s(dtype: Dtype, bytes: &[u8]) -> Box<dyn Iterator<Item = bf16> + '_> {
    match dtype {
        Dtype::BF16 => Box::new(bytes.as_chunks().0.iter().map(|pair| bf16::from_le_bytes(*pair))),
        Dtype::F16 => Box::new(bytes.as_chunks().0.iter().map(|pair| bf16_of_f16(*pair))),
        Dtype::F32 => Box::new(bytes.as_chunks().0.iter().map(|quad| bf16_of_f32(*quad))),
        _ => unreachable!("{UNREAD}"),
    }
}

fn bf16_of_f16(bytes: [u8; 2]) -> bf16 {
    bf16::from_f32(f16::from_le_bytes(bytes).to_f32())
}

fn bf16_of_f32(bytes: [u8; 4]) -> bf16 {
    bf16::from_f32(f32::from_le_bytes(bytes))
}

fn convert<T, const N: usize>(bytes: &[u8], out: &mut [T], element: impl Fn([u8; N]) -> T) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = element(*bytes);
    }
}
