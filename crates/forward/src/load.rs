//! Weights into the device.

use crate::falcon::{Falcon, Layer, Workspace};
use backend::{AttentionShape, Backend, BackendError, KvGroup, Linear, Norm, Positions};
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
        let shard = model::shard(config, partition).into_iter().map(|tensor| (tensor.id, tensor)).collect();
        let attention = attention_shape(config, partition);
        let mut loader = Loader { backend: &mut backend, config, shard, source };
        let embeddings = loader.linear(None, Role::WordEmbeddings)?;
        let layers = (0..config.layers).map(|layer| loader.layer(layer)).collect::<Result<_, _>>()?;
        let final_norm = loader.norm(None, Role::FinalNorm)?;
        let lm_head = if config.tied { None } else { Some(loader.linear(None, Role::LmHead)?) };
        let workspace = Workspace::new(&mut backend, config, partition, &attention, capacity)?;
        let kv_cache = backend.kv_cache(&attention, config.layers, capacity.kv_blocks)?;
        let world = partition.world;
        Ok(Self {
            backend,
            sequential: config.norms == LayerNorms::Sequential,
            first_token: partition.vocab.start,
            vocab: (0..world).map(|rank| cut_range(config.vocab, rank, world).len()).collect(),
            capacity,
            embeddings,
            layers,
            final_norm,
            lm_head,
            kv_cache,
            workspace,
        })
    }
}

/// The rank's heads, as the backend wants to know them.
fn attention_shape(config: &FalconConfig, partition: &Partition) -> AttentionShape {
    AttentionShape {
        head_dim: config.head_dim,
        groups: partition.groups.iter().map(|group| KvGroup { queries: group.q_count }).collect(),
        positions: match config.positions {
            model::Positions::Rotary { theta } => Positions::Rotary { theta },
            model::Positions::Alibi => {
                let slopes = alibi_slopes(config.q_heads);
                Positions::Alibi { slopes: slopes[partition.q_heads.clone()].to_vec() }
            }
        },
        max_positions: config.max_positions,
    }
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
}

impl<B: Backend> Loader<'_, B> {
    fn layer(&mut self, layer: usize) -> Result<Layer<B>, BackendError> {
        let layer = Some(layer);
        let (first, second) = match self.config.norms {
            LayerNorms::ParallelOne => (Role::InputNorm, None),
            LayerNorms::ParallelTwo => (Role::AttentionNorm, Some(Role::MlpNorm)),
            LayerNorms::Sequential => (Role::InputNorm, Some(Role::PostAttentionNorm)),
        };
        Ok(Layer {
            attention_norm: self.norm(layer, first)?,
            qkv: self.linear(layer, Role::QueryKeyValue)?,
            dense: self.linear(layer, Role::Dense)?,
            mlp_norm: second.map(|role| self.norm(layer, role)).transpose()?,
            up: self.linear(layer, Role::DenseHTo4h)?,
            down: self.linear(layer, Role::Dense4hToH)?,
        })
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
        let weight = match self.shard.get(&id) {
            Some(tensor) => {
                let read = |elements: Range<usize>, out: &mut [bf16]| self.source.read(tensor, elements, out);
                let weight = self.backend.matrix(tensor.local_rows(), tensor.local_columns(), &read)?;
                self.source.release(tensor);
                weight
            }
            None => {
                let (rows, columns) = self.shape_without_elements(role);
                self.backend.matrix(rows, columns, &|_, _| {})?
            }
        };
        Ok(Linear { weight, bias: self.vector(TensorId { layer, role, part: Part::Bias })? })
    }

    /// The shape of a product of which this rank owns nothing: it has no outputs, or no inputs.
    fn shape_without_elements(&self, role: Role) -> (usize, usize) {
        match role {
            Role::Dense | Role::Dense4hToH => (self.config.hidden, 0),
            _ => (0, self.config.hidden),
        }
    }

    fn vector(&mut self, id: TensorId) -> Result<Option<B::Vector>, BackendError> {
        let Some(tensor) = self.shard.get(&id) else { return Ok(None) };
        let mut values = vec![0.0; tensor.local_elements()];
        self.source.read_f32(tensor, &mut values);
        self.source.release(tensor);
        self.backend.vector(&values).map(Some)
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
        let (x, normed, partial) = (wide(config.hidden)?, wide(config.hidden)?, wide(config.hidden)?);
        let qkv = wide(attention.qkv_columns())?;
        let attended = wide(attention.queries() * config.head_dim)?;
        let up = wide(partition.ffn.len())?;
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
