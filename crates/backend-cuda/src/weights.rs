//! Weights to the device: two pieces of pinned memory in turns, one of which is filled while the other is copied.

use crate::device::Device;
use crate::memory::Staging;
use crate::tensor::PAD;
use backend::{BackendError, ReadWeights};
use half::bf16;
use std::rc::Rc;

/// Bytes of one piece.
const PIECE_BYTES: usize = 8 << 20;
/// Threads that fill a piece; beyond a few, memory is what limits them.
const READERS: usize = 4;
/// The least number of elements for which a thread is worth starting.
const READER_ELEMENTS_MIN: usize = 1 << 16;

/// Copies weights to the device.
pub(crate) struct WeightUpload(Staging);

impl WeightUpload {
    pub(crate) fn new(device: &Rc<Device>) -> Result<Self, BackendError> {
        Staging::new(device, PIECE_BYTES).map(Self)
    }

    /// Reads a weight of `rows` × `columns` to `to`, which has room for both, padded.
    pub(crate) fn matrix(
        &mut self,
        to: u64,
        rows: usize,
        columns: usize,
        read: &ReadWeights<'_>,
    ) -> Result<(), BackendError> {
        let stride = columns.next_multiple_of(PAD);
        if stride == 0 {
            return Ok(());
        }
        let rows_a_piece = PIECE_BYTES / (stride * size_of::<bf16>());
        assert!(rows_a_piece > 0, "a weight with {columns} columns");
        let rows_padded = rows.next_multiple_of(PAD);
        for first in (0..rows_padded).step_by(rows_a_piece) {
            let count = rows_a_piece.min(rows_padded - first);
            let at = to + (first * stride * size_of::<bf16>()) as u64;
            self.piece(at, count * stride * size_of::<bf16>(), |piece| {
                let piece: &mut [bf16] = bytemuck::cast_slice_mut(piece);
                let per_reader = count.div_ceil(READERS).max(READER_ELEMENTS_MIN / stride).max(1);
                std::thread::scope(|scope| {
                    for (reader, piece) in piece.chunks_mut(per_reader * stride).enumerate() {
                        let rows_from = first + reader * per_reader;
                        scope.spawn(move || fill(piece, rows_from, rows, columns, read));
                    }
                });
            })?;
        }
        Ok(())
    }

    /// Copies f32 to `to`, which has room for a multiple of 8 of them.
    pub(crate) fn vector(&mut self, to: u64, values: &[f32]) -> Result<(), BackendError> {
        let padded = values.len().next_multiple_of(PAD);
        let mut padded_values = values.to_vec();
        padded_values.resize(padded, 0.0);
        let step = PIECE_BYTES / size_of::<f32>();
        for (index, part) in padded_values.chunks(step).enumerate() {
            let at = to + (index * PIECE_BYTES) as u64;
            self.piece(at, size_of_val(part), |piece| piece.copy_from_slice(bytemuck::cast_slice(part)))?;
        }
        Ok(())
    }

    fn piece(&mut self, to: u64, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<(), BackendError> {
        // SAFETY: `to` is memory of a weight that its caller has just made, with room for all pieces.
        unsafe { self.0.send(to, bytes, fill) }
    }
}

/// Reads rows from `first` on into `piece`, with zeros beyond a weight's `rows` and `columns`.
fn fill(piece: &mut [bf16], first: usize, rows: usize, columns: usize, read: &ReadWeights<'_>) {
    let stride = columns.next_multiple_of(PAD);
    let whole = (rows.saturating_sub(first) * stride).min(piece.len());
    let (weights, zeros) = piece.split_at_mut(whole);
    zeros.fill(bf16::ZERO);
    if stride == columns {
        if !weights.is_empty() {
            read(first * columns..first * columns + weights.len(), weights);
        }
        return;
    }
    for (row, weights) in (first..).zip(weights.chunks_exact_mut(stride)) {
        let (weights, zeros) = weights.split_at_mut(columns);
        read(row * columns..(row + 1) * columns, weights);
        zeros.fill(bf16::ZERO);
    }
}
