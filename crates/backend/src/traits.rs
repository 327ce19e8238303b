//! The operations that a device offers to the forward pass.

use crate::{AttentionShape, BackendError, Footprint, Leaver, MappedWeight, SampleOutput, StepInput, StepLimits};
use half::bf16;
use std::ops::Range;
use std::time::Duration;

/// A matrix of f32 activations on the device, row-major, with room for a fixed number of rows.
pub trait Tensor {
    /// Rows in use.
    fn rows(&self) -> usize;
    /// Number of columns: the elements of a row.
    fn columns(&self) -> usize;
    /// Sets how many rows are in use. The contents of rows that come into use are not defined.
    ///
    /// # Panics
    ///
    /// If the tensor was made with fewer rows.
    fn set_rows(&mut self, rows: usize);
}

/// Reads elements of a weight (row-major indices into the rank's own part) into the slice, which is as long as the range.
/// A backend may call it from several threads at once, for any ranges and in any order.
pub type ReadWeights<'a> = dyn Fn(Range<usize>, &mut [bf16]) + Sync + 'a;

/// `y = x·Wᵀ + b`.
pub struct Linear<B: Backend> {
    /// `W`, of shape (outputs, inputs). Either may be 0 on a rank that owns no part.
    pub weight: B::Matrix,
    /// `b`, of length outputs.
    pub bias: Option<B::Vector>,
}

/// `y = (x − mean(x)) / √(var(x) + eps) · scale + bias`, over a row, with the biased variance.
pub struct Norm<B: Backend> {
    /// Of length columns.
    pub scale: B::Vector,
    /// Of length columns.
    pub bias: B::Vector,
    /// Added to the variance.
    pub eps: f32,
}

/// One rank's device, with its connection to the other ranks. One thread owns it.
///
/// Operations take their outputs as arguments, so that nothing is allocated between the first step and the last; the
/// caller has set the rows of an output. `x`, `y` … are tensors with one row for each row of the batch, and formulas are
/// for each row. Every method may fail with a [`BackendError`]; shapes that do not fit are a bug of the caller and panic.
pub trait Backend: Sized {
    /// Activations: rows by columns, on the device.
    type Tensor: Tensor;
    /// A weight, stored as the device likes it.
    type Matrix;
    /// A bias, or a norm's scale.
    type Vector;
    /// Keys and values of all layers, in blocks of [`step::BLOCK_TOKENS`] tokens.
    type KvCache;
    /// A step whose inputs are where operations read them. It holds until the next one is prepared.
    type Step<'a>;
    /// Outputs of [`Backend::sample_or_score`], which the device may not have made yet.
    type Pending;

    /// Rows of logits that a step computes at a time: enough to keep a product busy, few enough to stay small beside
    /// weights.
    const LOGITS_ROWS_MAX: usize = 32;

    /// Columns of embeddings, of norms and of what they are applied to must be multiples of this.
    const HIDDEN_MULTIPLE: usize = 1;

    /// How wide a head of `head_dim` elements stands in tensors and in the KV cache. Where that is more, each half of the
    /// head is followed by zeros up to half the width; who loads weights puts them there.
    #[must_use]
    fn head_width(head_dim: usize) -> usize {
        head_dim
    }

    /// What the rank allocates.
    fn footprint(&self) -> &dyn Footprint;

    // Loading.

    /// A weight of `rows` × `columns` (either may be 0), read through `read`.
    fn matrix(&mut self, rows: usize, columns: usize, read: &ReadWeights<'_>) -> Result<Self::Matrix, BackendError>;

    /// Uses a weight in place in its mapped file, which is read into memory first. `None` if `weight` gives none, or if this
    /// backend needs its own layout; then `weight`, which looks at the file, is not called.
    fn mapped_matrix(
        &mut self,
        weight: impl FnOnce() -> Option<MappedWeight>,
    ) -> Result<Option<Self::Matrix>, BackendError> {
        let _ = weight;
        Ok(None)
    }

    /// A vector.
    fn vector(&mut self, values: &[f32]) -> Result<Self::Vector, BackendError>;

    /// A tensor with room for `rows_max` rows, none of them in use.
    fn tensor(&mut self, rows_max: usize, columns: usize) -> Result<Self::Tensor, BackendError>;

    /// A KV cache of `blocks` blocks for each of `layers` layers.
    fn kv_cache(&mut self, shape: &AttentionShape, layers: usize, blocks: usize)
    -> Result<Self::KvCache, BackendError>;

    /// Ends loading: all that steps need has been made, and no step exceeds `limits`. From here on, no operation allocates
    /// memory of the device. All ranks call it, or none.
    fn seal(&mut self, limits: &StepLimits) -> Result<(), BackendError> {
        let _ = limits;
        Ok(())
    }

    /// For how many rows steps are to be captured, after [`Backend::seal`], in which every sequence has one row: between
    /// [`Backend::begin_capture`] and [`Backend::end_capture`], their operations are recorded instead of run, as a CUDA graph does it.
    fn buckets(&self) -> Vec<usize> {
        Vec::new()
    }

    /// Begins to record a step: any of as many rows as `input`, which nobody reads but to count. All ranks do it, or none.
    ///
    /// # Panics
    ///
    /// Where there are no [`Backend::buckets`].
    fn begin_capture<'a>(&mut self, input: StepInput<'a>) -> Result<Self::Step<'a>, BackendError> {
        let _ = input;
        unreachable!("this backend captures nothing")
    }

    /// Ends it, also behind an operation that has failed.
    ///
    /// # Panics
    ///
    /// As [`Backend::begin_capture`].
    fn end_capture(&mut self, step: Self::Step<'_>) -> Result<(), BackendError> {
        let _ = step;
        unreachable!("this backend captures nothing")
    }

    // When other ranks are gone.

    /// What makes operations that wait for other ranks fail. `None`: this backend cannot leave the ranks and rejoin them.
    fn leaver(&self) -> Option<Leaver> {
        None
    }

    /// Leaves the other ranks, whatever state an error or a leaver has left behind. Weights are kept; what the KV cache and
    /// tensors hold, steps on their way and what was captured are lost. Behind an error the device is not sound. It may be
    /// called again.
    ///
    /// # Panics
    ///
    /// Where there is no [`Backend::leaver`].
    fn leave(&mut self) -> Result<(), BackendError> {
        unreachable!("this backend cannot leave the other ranks")
    }

    /// Meets the ranks of another life, as when it was opened and sealed; capturing comes next. All ranks that have left call
    /// it, while the others load.
    ///
    /// # Panics
    ///
    /// As [`Backend::leave`].
    fn rejoin(&mut self) -> Result<(), BackendError> {
        unreachable!("this backend cannot rejoin the other ranks")
    }

    // Steps.

    /// How many steps may be on their way at once; more than 1 only where nothing but [`Backend::wait`] waits for the device.
    fn steps_in_flight_max(&self) -> usize {
        1
    }

    /// The tokens of the sequence in `slot` from position `start` on, where a device keeps tokens.
    fn set_tokens(&mut self, slot: usize, start: usize, tokens: &[u32]) -> Result<(), BackendError> {
        let _ = (slot, start, tokens);
        Ok(())
    }

    /// Prepares a step: what its operations share is worked out, or sent to the device, once.
    fn prepare<'a>(&mut self, input: StepInput<'a>) -> Result<Self::Step<'a>, BackendError>;

    /// Sets the rows in use of a tensor that has one for each row of the step.
    fn set_rows(&self, step: &Self::Step<'_>, x: &mut Self::Tensor);

    /// Begins a prepared step. Where its operations have been captured, all of them run, and this gives their outputs; else they are
    /// to be called.
    fn replay(&mut self, step: &mut Self::Step<'_>) -> Result<Option<Self::Pending>, BackendError> {
        let _ = step;
        Ok(None)
    }

    /// Ends what [`Backend::replay`] has begun, when all of the step has been submitted. What it gives is waited for behind the outputs.
    fn end(&mut self, step: Self::Step<'_>) -> Result<Option<Self::Pending>, BackendError> {
        let _ = step;
        Ok(None)
    }

    /// Whether the outputs are there, so that [`Backend::wait`] returns at once. An error, if they never will be: the device
    /// has failed, or is later than it may be.
    fn poll(&mut self, pending: &Self::Pending) -> Result<bool, BackendError> {
        let _ = pending;
        Ok(true)
    }

    /// Waits for outputs, and returns them. They are taken in the order in which they were asked for.
    fn wait(&mut self, pending: Self::Pending) -> Result<Vec<SampleOutput>, BackendError>;

    /// Sets the rows in use to `values.len() / columns` and fills them: for tests and inspection.
    fn write(&mut self, x: &mut Self::Tensor, values: &[f32]) -> Result<(), BackendError>;

    /// The rows in use, row-major: for tests and inspection.
    fn read(&mut self, x: &Self::Tensor) -> Result<Vec<f32>, BackendError>;

    // Plain operations.

    /// `y = table[token − first]` where that is a row of the table, else 0: a rank's part of a vocabulary-parallel
    /// embedding, to be summed over ranks.
    fn embed(
        &mut self,
        table: &Self::Matrix,
        first: usize,
        step: &Self::Step<'_>,
        y: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// `y = norm(x)`.
    fn layer_norm(&mut self, x: &Self::Tensor, norm: &Norm<Self>, y: &mut Self::Tensor) -> Result<(), BackendError>;

    /// `y = x·Wᵀ + b`.
    fn linear(&mut self, x: &Self::Tensor, linear: &Linear<Self>, y: &mut Self::Tensor) -> Result<(), BackendError>;

    /// `y += x·Wᵀ + b`.
    fn linear_add(&mut self, x: &Self::Tensor, linear: &Linear<Self>, y: &mut Self::Tensor)
    -> Result<(), BackendError>;

    /// `x = x/2 · (1 + erf(x / √2))`, exact to f32.
    fn gelu(&mut self, x: &mut Self::Tensor) -> Result<(), BackendError>;

    /// Rotates queries and keys, stores keys and values of the step's batch in the cache, and attends: for the row at position
    /// `p` and each query head, `y = Σ softmax(q·kⱼ / √head_dim + bias(j)) · vⱼ` over the positions `j ≤ p` of its sequence.
    /// `qkv` has [`AttentionShape::qkv_columns`] columns, `y` has [`AttentionShape::attended_columns`].
    fn attend(
        &mut self,
        qkv: &Self::Tensor,
        step: &Self::Step<'_>,
        layer: usize,
        cache: &mut Self::KvCache,
        y: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// `y[i] = x[rows[i]]`; the rows in use of `y` become `rows.len()`.
    fn select(&mut self, x: &Self::Tensor, rows: &[usize], y: &mut Self::Tensor) -> Result<(), BackendError>;

    /// `x = Σ x` over all ranks, in rank order.
    fn all_reduce(&mut self, x: &mut Self::Tensor) -> Result<(), BackendError>;

    /// `x += Σ partial` over all ranks, in rank order: the same bits on every rank. `partial` may be overwritten.
    fn all_reduce_add(&mut self, partial: &mut Self::Tensor, x: &mut Self::Tensor) -> Result<(), BackendError>;

    /// How long all-reduces took since this was asked last; `None` where that is not measured.
    fn all_reduce_time(&mut self) -> Option<Duration> {
        None
    }

    /// Samples from, or scores, each row of the vocabulary-parallel `logits`, as the step's requests of number `wanted` say. The whole row
    /// is the ranks' parts one behind the other; `vocab[r]` columns are rank `r`'s. Every rank makes the same choice.
    fn sample_or_score(
        &mut self,
        logits: &Self::Tensor,
        vocab: &[usize],
        step: &Self::Step<'_>,
        wanted: Range<usize>,
    ) -> Result<Self::Pending, BackendError>;

    // Fused operations: launches ① and ③ of a layer at decode (② is `attend`, ④ is `all_reduce_add`).

    /// For each of the products, `yᵢ = normᵢ(x)·Wᵢᵀ + bᵢ`, or gelu of that. `normed` is scratch of the shape of `x`. Products that follow
    /// each other under the very same norm share it.
    fn norm_linear(
        &mut self,
        x: &Self::Tensor,
        products: &mut [NormLinear<'_, Self>],
        normed: &mut Self::Tensor,
    ) -> Result<(), BackendError> {
        norm_then_linear(self, x, products, normed)
    }

    /// `y = norm(x[rows[i]])·Wᵀ + b` for each `i` of `wanted`, where `rows` are those of the step whose logits are used: some of these
    /// logits. The rows in use of `y` become as many; `scratch` has as many rows as `y` and the columns of `x`.
    fn select_norm_linear(
        &mut self,
        x: &Self::Tensor,
        step: &Self::Step<'_>,
        wanted: Range<usize>,
        product: NormLinear<'_, Self>,
        scratch: [&mut Self::Tensor; 2],
    ) -> Result<(), BackendError>;

    /// `y = attention·Wdᵀ + bd + up·W2ᵀ`: one product over the concatenated inputs. `up` has its activation already; a bias
    /// of `down` has been added to that of `dense`.
    fn dense_and_down(
        &mut self,
        attention: &Self::Tensor,
        dense: &Linear<Self>,
        up: &Self::Tensor,
        down: &Linear<Self>,
        y: &mut Self::Tensor,
    ) -> Result<(), BackendError> {
        dense_then_down(self, attention, dense, up, down, y)
    }
}

/// [`Backend::norm_linear`] in plain operations.
///
/// # Errors
///
/// The operations'.
pub fn norm_then_linear<B: Backend>(
    backend: &mut B,
    x: &B::Tensor,
    products: &mut [NormLinear<'_, B>],
    normed: &mut B::Tensor,
) -> Result<(), BackendError> {
    let mut last: Option<&Norm<B>> = None;
    for product in products {
        if !last.is_some_and(|norm| std::ptr::eq(norm, product.norm)) {
            backend.layer_norm(x, product.norm, normed)?;
            last = Some(product.norm);
        }
        backend.linear(normed, product.linear, product.y)?;
        if product.gelu {
            backend.gelu(product.y)?;
        }
    }
    Ok(())
}

/// [`Backend::select_norm_linear`] of these rows in plain operations.
///
/// # Errors
///
/// The operations'.
pub fn select_then_norm_linear<B: Backend>(
    backend: &mut B,
    x: &B::Tensor,
    rows: &[usize],
    product: NormLinear<'_, B>,
    [selected, normed]: [&mut B::Tensor; 2],
) -> Result<(), BackendError> {
    backend.select(x, rows, selected)?;
    normed.set_rows(rows.len());
    product.y.set_rows(rows.len());
    backend.norm_linear(selected, &mut [product], normed)
}

/// [`Backend::dense_and_down`] in plain operations.
///
/// # Errors
///
/// The operations'.
pub fn dense_then_down<B: Backend>(
    backend: &mut B,
    attention: &B::Tensor,
    dense: &Linear<B>,
    up: &B::Tensor,
    down: &Linear<B>,
    y: &mut B::Tensor,
) -> Result<(), BackendError> {
    backend.linear(attention, dense, y)?;
    backend.linear_add(up, down, y)
}

/// One of the products of [`Backend::norm_linear`].
pub struct NormLinear<'a, B: Backend> {
    /// Applied to the input first.
    pub norm: &'a Norm<B>,
    /// The product.
    pub linear: &'a Linear<B>,
    /// Whether [`Backend::gelu`] is applied to the product.
    pub gelu: bool,
    /// Where it goes.
    pub y: &'a mut B::Tensor,
}
