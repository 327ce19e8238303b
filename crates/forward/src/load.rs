//! Weights into the device.

use crate::falcon::{Body, Falcon, Layer, Workspace};
use crate::heads::Heads;
use backend::{AttentionShape, Backend, BackendError, KvGroup, Linear, MappedWeight, Norm, Positions, StepLimits};
use half::bf16;
use model::{FalconConfig, LayerNorms, Part, Partition, Role, ShardTensor, TensorId, cut_range};
use std::collections::HashMap;
use std::ops::Range;

/// Where a rank's weights come from.
pub trait WeightSource: Sync {
    /// Reads elements (row-major indices into the rank's part) of a tensor; `out` is as long as the range. Called from
    /// several threads at once.
    fn read(&self, tensor: &ShardTensor, elements: Range<usize>, out: &mut [bf16]);

    /// Reads the rank's whole part of a small tensor in full precision.
    fn read_f32(&self, tensor: &ShardTensor, out: &mut [f32]);

    /// A tensor where its file is mapped, for a backend that can use it there; `None` if it is to be read.
    fn mapped(&self, tensor: &ShardTensor) -> Option<MappedWeight> {
        let _ = tensor;
        None
    }

    /// The tensor has been read and is not needed again.
    fn release(&self, tensor: &ShardTensor);
}

/// How much a rank makes room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Blocks of the KV cache, each of `step::BLOCK_TOKENS` tokens in all layers.
    pub kv_blocks: usize,
    /// The most rows of one step.
    pub rows_max: usize,
    /// The most rows of logits at a time; a step that needs more takes them in turns.
    pub logits_rows_max: usize,
}

impl Capacity {
    /// The most sequences that a rank knows at a time. Each has a block or more; at most a row of a step runs each, and as
    /// many may have ended while the step after the one in which they did is on its way.
    #[must_use]
    pub fn sequences_max(&self) -> usize {
        self.kv_blocks.min(2 * self.rows_max)
    }
}

impl<B: Backend> Falcon<B> {
    /// Makes room on the device and reads the rank's part of the model into it.
    ///
    /// # Errors
    ///
    /// [`BackendError`], when the device has no room.
    pub fn load(
        mut backend: B,
        config: &FalconConfig,
        partition: &Partition,
        capacity: Capacity,
        source: &dyn WeightSource,
    ) -> Result<Self, BackendError> {
        if !config.hidden.is_multiple_of(B::HIDDEN_MULTIPLE) {
            let message =
                format!("the hidden size is {}, expected a multiple of {}", config.hidden, B::HIDDEN_MULTIPLE);
            return Err(BackendError::Device { operation: "loading the model", message });
        }
        let shard = model::shard(config, partition).into_iter().map(|tensor| (tensor.id, tensor)).collect();
        let attention = attention_shape::<B>(config, partition);
        let heads = Heads { head_dim: attention.head_dim, width: attention.head_width };
        let mut loader = Loader { backend: &mut backend, config, shard, source, heads };
        let embeddings = loader.linear(None, Role::WordEmbeddings)?;
        let layers = (0..config.layers).map(|layer| loader.layer(layer)).collect::<Result<_, _>>()?;
        let final_norm = loader.norm(None, Role::FinalNorm)?;
        let lm_head = if config.tied { None } else { Some(loader.linear(None, Role::LmHead)?) };
        let workspace = Workspace::new(&mut backend, config, partition, &attention, capacity)?;
        let kv_cache = backend.kv_cache(&attention, config.layers, capacity.kv_blocks)?;
        let world = partition.world;
        let vocab: Vec<usize> = (0..world).map(|rank| cut_range(config.vocab, rank, world).len()).collect();
        backend.ready(&StepLimits {
            rows: capacity.rows_max,
            logits_rows: capacity.logits_rows_max,
            hidden: config.hidden,
            vocab: vocab.clone(),
            positions: config.max_positions,
            sequences: capacity.sequences_max(),
        })?;
        let body = Body {
            sequential: config.norms == LayerNorms::Sequential,
            first_token: partition.vocab.start,
            vocab,
            capacity,
            embeddings,
            layers,
            final_norm,
            lm_head,
            kv_cache,
            workspace,
        };
        let mut falcon = Self { backend, body };
        falcon.record()?;
        Ok(falcon)
    }
}

/// The rank's heads, as the backend wants to know them.
fn attention_shape<B: Backend>(config: &FalconConfig, partition: &Partition) -> AttentionShape {
    AttentionShape {
        head_dim: config.head_dim,
        head_width: B::head_width(config.head_dim),
        groups: partition.groups.iter().map(|group| KvGroup { queries: group.q_count }).collect(),
        positions: positions(config, partition.q_heads.clone()),
        max_positions: config.max_positions,
    }
}

/// How positions enter attention, for a range of the model's query heads.
#[must_use]
pub fn positions(config: &FalconConfig, q_heads: Range<usize>) -> Positions {
    match config.positions {
        model::Positions::Rotary(rope) => Positions::Rotary {
            inverse_frequencies: rope.inverse_frequencies(config.head_dim),
            factor: rope.attention_factor(),
        },
        model::Positions::Alibi => Positions::Alibi { slopes: alibi_slopes(config.q_heads)[q_heads].to_vec() },
    }
}

/// An element of a step's tensors is an f32, and where it enters a product it is packed for that beside.
const ELEMENT_BYTES: usize = 8;

/// Bytes that a step takes for each of its rows, at most.
#[must_use]
pub fn row_bytes<B: Backend>(config: &FalconConfig, partition: &Partition) -> usize {
    let attention = attention_shape::<B>(config, partition);
    let elements: usize = wide_columns(config, partition, &attention).iter().sum();
    elements * ELEMENT_BYTES
}

/// Columns of the tensors that have a row for each row of a step: those of [`Workspace`], in their order.
fn wide_columns(config: &FalconConfig, partition: &Partition, attention: &AttentionShape) -> [usize; 6] {
    let hidden = config.hidden;
    [hidden, hidden, hidden, attention.qkv_columns(), attention.attended_columns(), partition.ffn.len()]
}

/// The slopes of all heads (the ALiBi paper, "Train Short, Test Long", 2022): a geometric series for a power of two of heads;
/// otherwise that of the next lower power, then every other slope of the next higher one. Rounded to bf16, as Falcon's
/// original code has them.
fn alibi_slopes(heads: usize) -> Vec<f32> {
    let lower = 1 << heads.ilog2();
    let series = |count: usize| (1..=count).map(move |i| 2f64.powf(-8.0 * i as f64 / count as f64));
    let slopes = series(lower).chain(series(2 * lower).step_by(2)).take(heads);
    slopes.map(|slope| bf16::from_f64(slope).to_f32()).collect()
}

struct Loader<'a, B: Backend> {
    backend: &'a mut B,
    config: &'a FalconConfig,
    shard: HashMap<TensorId, ShardTensor>,
    source: &'a dyn WeightSource,
    heads: Heads,
}

impl<B: Backend> Loader<'_, B> {
    fn layer(&mut self, index: usize) -> Result<Layer<B>, BackendError> {
        let layer = Some(index);
        let (first, second) = match self.config.norms {
            LayerNorms::ParallelOne => (Role::InputNorm, None),
            LayerNorms::ParallelTwo => (Role::AttentionNorm, Some(Role::MlpNorm)),
            LayerNorms::Sequential => (Role::InputNorm, Some(Role::PostAttentionNorm)),
        };
        let mut layer = Layer {
            attention_norm: self.norm(layer, first)?,
            qkv: self.linear(layer, Role::QueryKeyValue)?,
            dense: self.linear(layer, Role::Dense)?,
            mlp_norm: second.map(|role| self.norm(layer, role)).transpose()?,
            up: self.linear(layer, Role::DenseHTo4h)?,
            down: self.linear(layer, Role::Dense4hToH)?,
        };
        // One sum of both products has one bias.
        if self.config.norms != LayerNorms::Sequential && layer.down.bias.take().is_some() {
            layer.dense.bias = self.sum_of_biases(index)?;
        }
        Ok(layer)
    }

    fn norm(&mut self, layer: Option<usize>, role: Role) -> Result<Norm<B>, BackendError> {
        let mut part = |part| {
            let vector = self.vector(TensorId { layer, role, part })?;
            Ok::<_, BackendError>(vector.expect("norms are whole on every rank"))
        };
        Ok(Norm { scale: part(Part::Weight)?, bias: part(Part::Bias)?, eps: self.config.norm_eps })
    }

    fn linear(&mut self, layer: Option<usize>, role: Role) -> Result<Linear<B>, BackendError> {
        let id = TensorId { layer, role, part: Part::Weight };
        let weight = match self.shard.get(&id).cloned() {
            Some(tensor) => match self.mapped_matrix(&tensor)? {
                Some(weight) => weight,
                None => self.read_matrix(&tensor)?,
            },
            None => {
                let (rows, columns) = self.shape_without_elements(role);
                self.backend.matrix(rows, columns, &|_, _| {})?
            }
        };
        Ok(Linear { weight, bias: self.vector(TensorId { layer, role, part: Part::Bias })? })
    }

    /// A weight that is used where its file is mapped; `None` if that cannot be.
    fn mapped_matrix(&mut self, tensor: &ShardTensor) -> Result<Option<B::Matrix>, BackendError> {
        let as_stored = self.heads.width == self.heads.head_dim;
        self.backend.mapped_matrix(|| as_stored.then(|| self.source.mapped(tensor)).flatten())
    }

    fn read_matrix(&mut self, tensor: &ShardTensor) -> Result<B::Matrix, BackendError> {
        let (heads, rows, columns) = (self.heads, tensor.local_rows(), tensor.local_columns());
        let read = |elements: Range<usize>, out: &mut [bf16]| self.source.read(tensor, elements, out);
        let read_rows = |elements, out: &mut [bf16]| heads.read_rows(columns, elements, out, read);
        let read_columns = |elements, out: &mut [bf16]| heads.read_columns(columns, elements, out, read);
        let weight = match tensor.id.role {
            Role::QueryKeyValue => self.backend.matrix(heads.wide(rows), columns, &read_rows)?,
            Role::Dense => self.backend.matrix(rows, heads.wide(columns), &read_columns)?,
            _ => self.backend.matrix(rows, columns, &read)?,
        };
        self.source.release(tensor);
        Ok(weight)
    }

    /// The shape of a product of which this rank owns nothing: it has no outputs, or no inputs.
    fn shape_without_elements(&self, role: Role) -> (usize, usize) {
        match role {
            Role::Dense | Role::Dense4hToH => (self.config.hidden, 0),
            _ => (0, self.config.hidden),
        }
    }

    fn vector(&mut self, id: TensorId) -> Result<Option<B::Vector>, BackendError> {
        self.values(id).map(|values| self.backend.vector(&values)).transpose()
    }

    /// The rank's part of a vector; `None` if it has none.
    fn values(&self, id: TensorId) -> Option<Vec<f32>> {
        let tensor = self.shard.get(&id)?;
        let mut values = vec![0.0; tensor.local_elements()];
        self.source.read_f32(tensor, &mut values);
        if id.role != Role::QueryKeyValue {
            return Some(values);
        }
        let wide = self.heads.wide(values.len());
        let mut spread = vec![0.0; wide];
        self.heads.read_rows(1, 0..wide, &mut spread, |range, out| out.copy_from_slice(&values[range]));
        Some(spread)
    }

    /// Of the two products whose sum is a layer's output.
    fn sum_of_biases(&mut self, layer: usize) -> Result<Option<B::Vector>, BackendError> {
        let values = |role| self.values(TensorId { layer: Some(layer), role, part: Part::Bias });
        let (dense, down) = (values(Role::Dense), values(Role::Dense4hToH));
        let sum = dense.into_iter().flatten().zip(down.into_iter().flatten()).map(|(dense, down)| dense + down);
        self.backend.vector(&sum.collect::<Vec<f32>>()).map(Some)
    }
}

impl<B: Backend> Workspace<B> {
    fn new(
        backend: &mut B,
        config: &FalconConfig,
        partition: &Partition,
        attention: &AttentionShape,
        capacity: Capacity,
    ) -> Result<Self, BackendError> {
        let mut wide = |columns| backend.tensor(capacity.rows_max, columns);
        let [x, normed, partial, qkv, attended, up] = wide_columns(config, partition, attention);
        let (x, normed, partial) = (wide(x)?, wide(normed)?, wide(partial)?);
        let (qkv, attended, up) = (wide(qkv)?, wide(attended)?, wide(up)?);
        let mut few = |columns| backend.tensor(capacity.logits_rows_max, columns);
        let (last, last_normed, logits) = (few(config.hidden)?, few(config.hidden)?, few(partition.vocab.len())?);
        Ok(Self { x, normed, partial, qkv, attended, up, last, last_normed, logits })
    }
}

#[cfg(test)]
mod tests {
    use super::alibi_slopes;

    #[test]
    fn slopes_of_six_heads_are_those_of_four_and_two_of_eight() {
        assert_eq!(alibi_slopes(6), [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]);
    }
}
