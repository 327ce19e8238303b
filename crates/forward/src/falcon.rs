//! The model on one rank.

use crate::shapes::Capacity;
use backend::{Backend, BackendError, Batch, Linear, Norm, NormLinear, SampleOutput, SampleRequest, StepInput};
use std::time::Duration;

/// Falcon on one rank: weights, KV cache, and room for the activations of one step.
pub struct Falcon<B: Backend> {
    pub(crate) backend: B,
    pub(crate) body: Body<B>,
}

/// All but the backend.
pub(crate) struct Body<B: Backend> {
    pub(crate) sequential: bool,
    /// The first token whose embedding this rank holds.
    pub(crate) first_token: usize,
    /// Columns of logits that each rank computes.
    pub(crate) vocab: Vec<usize>,
    pub(crate) capacity: Capacity,
    pub(crate) embeddings: Linear<B>,
    pub(crate) layers: Vec<Layer<B>>,
    pub(crate) final_norm: Norm<B>,
    /// `None`: the embedding table serves.
    pub(crate) lm_head: Option<Linear<B>>,
    pub(crate) kv_cache: B::KvCache,
    pub(crate) workspace: Workspace<B>,
}

/// Is shown the residual stream after each layer, with the layer's number.
pub type Observe<'a, B> = dyn FnMut(&mut B, usize, &<B as Backend>::Tensor) -> Result<(), BackendError> + 'a;

pub(crate) struct Layer<B: Backend> {
    pub(crate) attention_norm: Norm<B>,
    pub(crate) qkv: Linear<B>,
    pub(crate) dense: Linear<B>,
    /// `None`: the attention's norm serves.
    pub(crate) mlp_norm: Option<Norm<B>>,
    pub(crate) up: Linear<B>,
    pub(crate) down: Linear<B>,
}

/// The activations of one step.
pub(crate) struct Workspace<B: Backend> {
    /// The residual stream: (rows, hidden).
    pub(crate) x: B::Tensor,
    /// (rows, hidden).
    pub(crate) normed: B::Tensor,
    /// This rank's share of a layer's output: (rows, hidden).
    pub(crate) partial: B::Tensor,
    /// (rows, columns of the rank's queries, keys and values).
    pub(crate) qkv: B::Tensor,
    /// (rows, columns of the rank's query heads).
    pub(crate) attended: B::Tensor,
    /// (rows, the rank's feed-forward columns).
    pub(crate) up: B::Tensor,
    /// Rows of `x` whose logits are wanted: (few, hidden).
    pub(crate) last: B::Tensor,
    /// (few, hidden).
    pub(crate) last_normed: B::Tensor,
    /// (few, the rank's part of the vocabulary).
    pub(crate) logits: B::Tensor,
}

impl<B: Backend> Workspace<B> {
    fn set_rows(&mut self, backend: &B, step: &B::Step<'_>) {
        let Self { x, normed, partial, qkv, attended, up, .. } = self;
        for tensor in [x, normed, partial, qkv, attended, up] {
            backend.set_rows(step, tensor);
        }
    }
}

impl<B: Backend> Falcon<B> {
    /// Captures the steps that the backend wants captured.
    ///
    /// # Errors
    ///
    /// [`BackendError`].
    pub(crate) fn capture(&mut self) -> Result<(), BackendError> {
        let Self { backend, body } = self;
        for rows in backend.buckets() {
            let (batch, wanted) = (Batch::of_single_rows(rows), (0..rows).collect::<Vec<_>>());
            let requests = vec![SampleRequest::Score { token: 0 }; rows];
            let step = backend.begin_capture(StepInput { batch: &batch, rows: &wanted, requests: &requests })?;
            let ran = body.run(backend, &step, rows);
            let ended = backend.end_capture(step);
            ran?;
            ended?;
        }
        Ok(())
    }

    /// [`Backend::leave`].
    ///
    /// # Errors
    ///
    /// [`BackendError`].
    pub(crate) fn leave(&mut self) -> Result<(), BackendError> {
        self.backend.leave()
    }

    /// [`Backend::rejoin`], and what follows.
    ///
    /// # Errors
    ///
    /// [`BackendError`].
    pub(crate) fn rejoin(&mut self) -> Result<(), BackendError> {
        self.backend.rejoin()?;
        self.capture()
    }

    /// Begins a step: its batch runs through all layers, which leaves the keys and values of all rows in the KV cache, and
    /// some rows of logits are sampled or scored. All rows may be asked for; only a few at a time are held. The outputs are
    /// in the order of the requests, in one or more parts.
    ///
    /// # Errors
    ///
    /// [`BackendError`]; the KV blocks of the batch are undefined then.
    pub fn begin(&mut self, input: StepInput<'_>) -> Result<Vec<B::Pending>, BackendError> {
        let Self { backend, body } = self;
        let mut step = backend.prepare(input)?;
        let mut pending = match backend.replay(&mut step)? {
            Some(outputs) => vec![outputs],
            None => body.run(backend, &step, input.rows.len())?,
        };
        pending.extend(backend.end(step)?);
        Ok(pending)
    }

    /// Whether the outputs of a step are there.
    ///
    /// # Errors
    ///
    /// [`BackendError`], if they never will be.
    pub fn poll(&mut self, pending: &[B::Pending]) -> Result<bool, BackendError> {
        // They come in this order.
        pending.last().map_or(Ok(true), |last| self.backend.poll(last))
    }

    /// Waits for the outputs of a step.
    ///
    /// # Errors
    ///
    /// [`BackendError`].
    pub fn wait(&mut self, pending: Vec<B::Pending>) -> Result<Vec<SampleOutput>, BackendError> {
        let parts = pending.into_iter().map(|part| self.backend.wait(part));
        Ok(parts.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// How long all-reduces took since this was asked last, if the backend measures that.
    pub fn all_reduce_time(&mut self) -> Option<Duration> {
        self.backend.all_reduce_time()
    }

    /// How many steps may be on their way at once.
    #[must_use]
    pub fn steps_in_flight_max(&self) -> usize {
        self.backend.steps_in_flight_max()
    }

    /// [`Backend::set_tokens`].
    ///
    /// # Errors
    ///
    /// [`BackendError`].
    pub fn set_tokens(&mut self, slot: usize, start: usize, tokens: &[u32]) -> Result<(), BackendError> {
        self.backend.set_tokens(slot, start, tokens)
    }

    /// Runs a batch through all layers, and shows the residual stream: after the embedding as layer 0, after the first layer
    /// as 1, and so on.
    ///
    /// # Errors
    ///
    /// [`BackendError`], and what `observe` returns.
    pub fn run_observed(&mut self, batch: &Batch, observe: &mut Observe<'_, B>) -> Result<(), BackendError> {
        let step = self.backend.prepare(StepInput::without_logits(batch))?;
        self.body.run_layers(&mut self.backend, &step, observe)
    }

    /// What the rank makes room for.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.body.capacity
    }

    /// Tokens of the vocabulary.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.body.vocab.iter().sum()
    }
}

impl<B: Backend> Body<B> {
    /// All operations of a step, of which `wanted` rows of logits are used.
    fn run(&mut self, backend: &mut B, step: &B::Step<'_>, wanted: usize) -> Result<Vec<B::Pending>, BackendError> {
        self.run_layers(backend, step, &mut |_, _, _| Ok(()))?;
        self.sample_or_score(backend, step, wanted)
    }

    fn run_layers(
        &mut self,
        backend: &mut B,
        step: &B::Step<'_>,
        observe: &mut Observe<'_, B>,
    ) -> Result<(), BackendError> {
        let Self { workspace, kv_cache, .. } = self;
        workspace.set_rows(backend, step);
        backend.embed(&self.embeddings.weight, self.first_token, step, &mut workspace.x)?;
        backend.all_reduce(&mut workspace.x)?;
        observe(backend, 0, &workspace.x)?;
        for (index, layer) in self.layers.iter().enumerate() {
            if self.sequential {
                layer.run_sequential(backend, step, index, kv_cache, workspace)?;
            } else {
                layer.run_parallel(backend, step, index, kv_cache, workspace)?;
            }
            observe(backend, index + 1, &workspace.x)?;
        }
        Ok(())
    }

    fn sample_or_score(
        &mut self,
        backend: &mut B,
        step: &B::Step<'_>,
        wanted: usize,
    ) -> Result<Vec<B::Pending>, BackendError> {
        let head = self.lm_head.as_ref().unwrap_or(&self.embeddings);
        let few = self.capacity.logits_rows_max;
        let mut outputs = Vec::with_capacity(wanted.div_ceil(few));
        for first in (0..wanted).step_by(few) {
            let rows = first..wanted.min(first + few);
            let Workspace { x, last, last_normed, logits, .. } = &mut self.workspace;
            let product = NormLinear { norm: &self.final_norm, linear: head, gelu: false, y: &mut *logits };
            backend.select_norm_linear(x, step, rows.clone(), product, [last, last_normed])?;
            outputs.push(backend.sample_or_score(logits, &self.vocab, step, rows)?);
        }
        Ok(outputs)
    }
}

impl<B: Backend> Layer<B> {
    /// `x += Wd·attention(norm₁(x)) + W2·gelu(W1·norm₂(x))`: four steps, one of them across ranks.
    fn run_parallel(
        &self,
        backend: &mut B,
        step: &B::Step<'_>,
        index: usize,
        kv_cache: &mut B::KvCache,
        workspace: &mut Workspace<B>,
    ) -> Result<(), BackendError> {
        let Workspace { x, normed, partial, qkv, attended, up, .. } = workspace;
        let mlp_norm = self.mlp_norm.as_ref().unwrap_or(&self.attention_norm);
        let mut products = [
            NormLinear { norm: &self.attention_norm, linear: &self.qkv, gelu: false, y: qkv },
            NormLinear { norm: mlp_norm, linear: &self.up, gelu: true, y: up },
        ];
        backend.norm_linear(x, &mut products, normed)?;
        backend.attend(qkv, step, index, kv_cache, attended)?;
        backend.dense_and_down(attended, &self.dense, up, &self.down, partial)?;
        backend.all_reduce_add(partial, x)
    }

    /// `x += Wd·attention(norm₁(x))`, then `x += W2·gelu(W1·norm₂(x))`: the second needs the sum of the first.
    fn run_sequential(
        &self,
        backend: &mut B,
        step: &B::Step<'_>,
        index: usize,
        kv_cache: &mut B::KvCache,
        workspace: &mut Workspace<B>,
    ) -> Result<(), BackendError> {
        let Workspace { x, normed, partial, qkv, attended, up, .. } = workspace;
        let mlp_norm = self.mlp_norm.as_ref().unwrap_or(&self.attention_norm);
        let attention = NormLinear { norm: &self.attention_norm, linear: &self.qkv, gelu: false, y: qkv };
        backend.norm_linear(x, &mut [attention], normed)?;
        backend.attend(qkv, step, index, kv_cache, attended)?;
        backend.linear(attended, &self.dense, partial)?;
        backend.all_reduce_add(partial, x)?;

        let mlp = NormLinear { norm: mlp_norm, linear: &self.up, gelu: true, y: up };
        backend.norm_linear(x, &mut [mlp], normed)?;
        backend.linear(up, &self.down, partial)?;
        backend.all_reduce_add(partial, x)
    }
}
