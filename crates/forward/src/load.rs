//! Weights into the device.

use crate::falcon::{Body, Falcon, Layer, Workspace};
use crate::heads::Heads;
use crate::shapes::{Capacity, rank_shapes};
use backend::{Backend, BackendError, Linear, MappedWeight, Norm, RankShapes, WeightFormat};
use half::bf16;
use model::{FalconConfig, LayerNorms, Part, Partition, Role, ShardTensor, TensorId};
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
        let shapes = rank_shapes(backend.footprint(), WeightFormat::Bf16, config, partition, capacity);
        // First what the model's size does not decide: where there is no room for it, nothing is read in vain.
        let workspace = Workspace::new(&mut backend, &shapes)?;
        let kv_cache = backend.kv_cache(&shapes.attention, shapes.layers, shapes.kv_blocks)?;
        let shard = model::shard(config, partition).into_iter().map(|tensor| (tensor.id, tensor)).collect();
        let attention = &shapes.attention;
        let heads = Heads { head_dim: attention.head_dim, width: attention.head_width };
        let mut loader = Loader { backend: &mut backend, config, shard, source, heads };
        let embeddings = loader.linear(None, Role::WordEmbeddings)?;
        let layers = (0..config.layers).map(|layer| loader.layer(layer)).collect::<Result<_, _>>()?;
        let final_norm = loader.norm(None, Role::FinalNorm)?;
        let lm_head = if config.tied { None } else { Some(loader.linear(None, Role::LmHead)?) };
        backend.seal(&shapes.limits)?;
        let body = Body {
            sequential: config.norms == LayerNorms::Sequential,
            first_token: partition.vocab.start,
            vocab: shapes.limits.vocab,
            capacity,
            embeddings,
            layers,
            final_norm,
            lm_head,
            kv_cache,
            workspace,
        };
        let mut falcon = Self { backend, body };
        falcon.capture()?;
        Ok(falcon)
    }
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
        // In the order of the shard table, in which a model that was cut for its ranks stores them.
        let attention_norm = self.norm(layer, first)?;
        let mlp_norm = second.map(|role| self.norm(layer, role)).transpose()?;
        let qkv = self.linear(layer, Role::QueryKeyValue)?;
        let (dense, dense_bias) = self.weight_and_bias(layer, Role::Dense)?;
        let up = self.linear(layer, Role::DenseHTo4h)?;
        let (down, down_bias) = self.weight_and_bias(layer, Role::Dense4hToH)?;
        let (dense_bias, down_bias) = match (dense_bias, down_bias) {
            // One sum of both products has one bias.
            (Some(dense), Some(down)) if self.config.norms != LayerNorms::Sequential => {
                (Some(dense.iter().zip(&down).map(|(dense, down)| dense + down).collect()), None)
            }
            biases => biases,
        };
        Ok(Layer {
            attention_norm,
            qkv,
            dense: Linear { weight: dense, bias: self.vector(dense_bias)? },
            mlp_norm,
            up,
            down: Linear { weight: down, bias: self.vector(down_bias)? },
        })
    }

    fn norm(&mut self, layer: Option<usize>, role: Role) -> Result<Norm<B>, BackendError> {
        let mut part = |part| {
            let values = self.values(TensorId { layer, role, part });
            let vector = self.vector(values)?;
            Ok::<_, BackendError>(vector.expect("norms are whole on every rank"))
        };
        Ok(Norm { scale: part(Part::Weight)?, bias: part(Part::Bias)?, eps: self.config.norm_eps })
    }

    fn linear(&mut self, layer: Option<usize>, role: Role) -> Result<Linear<B>, BackendError> {
        let (weight, bias) = self.weight_and_bias(layer, role)?;
        Ok(Linear { weight, bias: self.vector(bias)? })
    }

    /// The rank's part of a product's weight, and the values of that of its bias, if there is one.
    fn weight_and_bias(
        &mut self,
        layer: Option<usize>,
        role: Role,
    ) -> Result<(B::Matrix, Option<Vec<f32>>), BackendError> {
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
        Ok((weight, self.values(TensorId { layer, role, part: Part::Bias })))
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

    fn vector(&mut self, values: Option<Vec<f32>>) -> Result<Option<B::Vector>, BackendError> {
        values.map(|values| self.backend.vector(&values)).transpose()
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
}

impl<B: Backend> Workspace<B> {
    fn new(backend: &mut B, shapes: &RankShapes) -> Result<Self, BackendError> {
        let mut tensors = shapes.tensors.iter().map(|&(rows, columns)| backend.tensor(rows, columns));
        let mut next = || tensors.next().expect("`rank_shapes` lists them in this order");
        Ok(Self {
            x: next()?,
            normed: next()?,
            partial: next()?,
            qkv: next()?,
            attended: next()?,
            up: next()?,
            last: next()?,
            last_normed: next()?,
            logits: next()?,
        })
    }
}
