//! What a rank launches in a step: names and formulas are those of `kernels/README.md`.

use crate::Batch;
use crate::assumptions::{
    ATTENTION_US, CHOICE_ROW_US, LAUNCH_US, LIBRARY_LAUNCH_US, LINK_WAITS_US, NORM_PRODUCT_US, PRODUCT_US,
    STOCK_ATTENTION_US, STOCK_CHOICE_US, STOCK_GLUE_US,
};
use model::{FalconConfig, LayerNorms, Part, Partition, Role, ShardTensor, shard};
use sizing::WeightFormat;

/// Whose kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// Those of `kernels/`: four launches a layer at decode.
    Own,
    /// A product of cuBLAS for each matrix, a custom all-reduce of bf16, flash attention, and small kernels between them.
    Stock,
}

/// What a launch's time depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// A product: memory, and tensor cores.
    Product,
    /// Keys and values, read by single rows.
    Attention,
    /// Tensor cores, less well used than by products.
    PrefillAttention,
    /// Memory alone.
    Memory,
    /// A sum over all ranks of `link_bytes`.
    AllReduce,
    /// `link_bytes` into each rank.
    Gather,
    /// Nothing but the time that it always takes.
    Fixed,
}

/// A launch, as often as a step has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The kernel, with its place among the four of a layer.
    pub name: &'static str,
    /// How many such launches a step has.
    pub times: u64,
    /// What its time depends on.
    pub limit: Limit,
    /// What it takes for any size, in microseconds.
    pub fixed_us: f64,
    /// Bytes that must move between the device's memory and its chip, once each.
    pub bytes: u64,
    /// Floating-point operations on the tensor cores.
    pub flops: u64,
    /// Bytes that must cross the link.
    pub link_bytes: u64,
}

/// Elements of activations, keys and values.
const BF16: u64 = 2;
const F32: u64 = 4;
const WEIGHT_BYTES: u64 = WeightFormat::Bf16.element_bytes() as u64;

// Of the cuda backend; a test holds them equal.

/// Up to so many rows, the norms are in the prologue of their product.
const NORM_PRODUCT_ROWS_MAX: u64 = 16;
/// Rows of logits that a step takes at a time.
const LOGITS_ROWS_MAX: u64 = 256;
/// Up to so many rows, own kernels multiply; beyond, cuBLASLt.
const OWN_PRODUCT_ROWS_MAX: u64 = 64;

/// A matrix of a layer, as a rank has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Matrix {
    outputs: u64,
    inputs: u64,
}

impl Matrix {
    fn of(tensors: &[ShardTensor], layer: Option<usize>, role: Role) -> Self {
        let wanted =
            |tensor: &&ShardTensor| (tensor.id.layer, tensor.id.role, tensor.id.part) == (layer, role, Part::Weight);
        // A rank may have nothing of it.
        tensors.iter().find(wanted).map_or_else(Self::default, |tensor| Self {
            outputs: tensor.local_rows() as u64,
            inputs: tensor.local_columns() as u64,
        })
    }

    fn elements(self) -> u64 {
        self.outputs * self.inputs
    }
}

/// What a rank has of a model, as far as launches depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    layers: u64,
    hidden: u64,
    norms: u64,
    sequential: bool,
    qkv: Matrix,
    up: Matrix,
    dense: Matrix,
    down: Matrix,
    head: Matrix,
    vocab: u64,
    q_columns: u64,
    kv_columns: u64,
    world: u64,
}

impl Shape {
    pub(crate) fn new(config: &FalconConfig, partition: &Partition) -> Self {
        let tensors = shard(config, partition);
        let layer = |role| Matrix::of(&tensors, Some(0), role);
        let head = if config.tied { Role::WordEmbeddings } else { Role::LmHead };
        let columns = |heads: usize| (heads * config.head_dim) as u64;
        Self {
            layers: config.layers as u64,
            hidden: config.hidden as u64,
            norms: if config.norms == LayerNorms::ParallelOne { 1 } else { 2 },
            sequential: config.norms == LayerNorms::Sequential,
            qkv: layer(Role::QueryKeyValue),
            up: layer(Role::DenseHTo4h),
            dense: layer(Role::Dense),
            down: layer(Role::Dense4hToH),
            head: Matrix::of(&tensors, None, head),
            vocab: config.vocab as u64,
            q_columns: columns(partition.q_heads.len()),
            kv_columns: columns(partition.kv_heads.len()),
            world: partition.world as u64,
        }
    }

    /// Sums of a layer over the ranks.
    fn sums(&self) -> u64 {
        if self.sequential { 2 } else { 1 }
    }

    /// A product, or several in one launch, of `rows` rows.
    fn product(&self, name: &'static str, times: u64, rows: u64, matrices: &[Matrix], moved: u64) -> Launch {
        let elements: u64 = matrices.iter().map(|matrix| matrix.elements()).sum();
        Launch {
            bytes: elements * WEIGHT_BYTES + moved,
            flops: 2 * rows * elements,
            ..launch(name, times, Limit::Product, PRODUCT_US)
        }
    }

    fn memory(&self, name: &'static str, times: u64, bytes: u64) -> Launch {
        Launch { bytes, ..launch(name, times, Limit::Memory, LAUNCH_US) }
    }

    /// A sum of `rows` rows of elements of so many bytes; on one rank an addition.
    fn sum(&self, name: &'static str, times: u64, rows: u64, element_bytes: u64) -> Launch {
        let (values, stream) = (rows * self.hidden, rows * self.hidden * F32);
        if self.world == 1 {
            return self.memory("④ add_residual", times, stream * 3);
        }
        // Its fixed time is in the table.
        Launch { link_bytes: values * element_bytes, bytes: stream * 2, ..launch(name, times, Limit::AllReduce, 0.0) }
    }

    /// Keys and values of so many positions of one layer.
    fn kv_bytes(&self, positions: u64) -> u64 {
        positions * self.kv_columns * 2 * BF16
    }

    fn attention(&self, batch: &Batch, times: u64, fixed_us: f64) -> Launch {
        let moved = batch.rows * (self.qkv.outputs * F32 + self.q_columns * BF16 + self.kv_columns * 2 * BF16);
        Launch {
            bytes: self.kv_bytes(batch.decode_positions) + moved,
            // Two products, over all columns of the queries.
            flops: 4 * batch.decode_positions * self.q_columns,
            ..launch("② rotate_attend", times, Limit::Attention, fixed_us)
        }
    }

    fn prefill_attention(&self, batch: &Batch, times: u64) -> Launch {
        Launch {
            bytes: self.kv_bytes(batch.prefill_positions) + batch.prefill_rows * self.q_columns * 2 * BF16,
            flops: 4 * batch.prefill_pairs * self.q_columns,
            ..launch("② prefill_attention", times, Limit::PrefillAttention, ATTENTION_US)
        }
    }

    pub(crate) fn launches(&self, kernels: Kernels, batch: &Batch) -> Vec<Launch> {
        let mut launches = match kernels {
            Kernels::Stock => self.stock(batch),
            Kernels::Own if batch.rows <= OWN_PRODUCT_ROWS_MAX => self.few_rows(batch),
            Kernels::Own => self.many_rows(batch),
        };
        launches.retain(|launch| launch.times > 0);
        launches
    }

    fn few_rows(&self, batch: &Batch) -> Vec<Launch> {
        let (rows, layers) = (batch.rows, self.layers);
        let stream = rows * self.hidden;
        let prologue = rows <= NORM_PRODUCT_ROWS_MAX;
        let norm_weights = self.norms * self.hidden * 2 * F32;
        let (first, fixed_us, norm) =
            if prologue { ("① norm_product", NORM_PRODUCT_US, 0) } else { ("① product", PRODUCT_US, layers) };
        let up_outputs = rows * (self.qkv.outputs * F32 + self.up.outputs * BF16);
        // Without a norm of its own, the product reads x and what the norms multiply with.
        let inputs = if prologue { stream * F32 + norm_weights } else { self.norms * stream * BF16 };
        let down_moved = rows * (self.dense.inputs + self.down.inputs) * BF16 + stream * F32;
        let halves = self.sums();
        let mut launches = self.embedding(rows);
        launches.extend([
            self.memory("① norm", norm, stream * (F32 + self.norms * BF16) + norm_weights),
            Launch { fixed_us, ..self.product(first, layers, rows, &[self.qkv, self.up], inputs + up_outputs) },
        ]);
        launches.extend(self.attentions(batch));
        launches.push(self.product("③ product", layers, rows, &[self.dense, self.down], down_moved));
        // Sequential layers take each of the two products by itself.
        if self.sequential {
            launches.push(Launch { fixed_us: 2.0 * LAUNCH_US, ..launch("① ③ split", layers, Limit::Fixed, 0.0) });
        }
        launches.push(self.sum("④ all_reduce", halves * layers, rows, F32));
        launches.extend(self.choice(batch.samples));
        launches
    }

    fn many_rows(&self, batch: &Batch) -> Vec<Launch> {
        let (rows, layers) = (batch.rows, self.layers);
        let stream = rows * self.hidden;
        let library = |name, matrix: Matrix, output_bytes: u64| Launch {
            fixed_us: LIBRARY_LAUNCH_US,
            ..self.product(name, layers, rows, &[matrix], rows * (matrix.inputs * BF16 + output_bytes * matrix.outputs))
        };
        let norm_weights = self.norms * self.hidden * 2 * F32;
        let mut launches = self.embedding(rows);
        launches.extend([
            self.memory("① norm", layers, stream * (F32 + self.norms * BF16) + norm_weights),
            library("① cuBLASLt QKV", self.qkv, F32),
            library("① cuBLASLt up", self.up, F32),
            self.memory("① gelu_bf16", layers, rows * self.up.outputs * (F32 + BF16)),
        ]);
        launches.extend(self.attentions(batch));
        launches.extend([
            library("③ cuBLASLt dense", self.dense, F32),
            // It adds to the sum that is there.
            library("③ cuBLASLt down", self.down, 2 * F32),
            self.sum("④ all_reduce", self.sums() * layers, rows, F32),
        ]);
        launches.extend(self.choice(batch.samples));
        launches
    }

    /// Attention of rows that stand alone, and of those that do not.
    fn attentions(&self, batch: &Batch) -> Vec<Launch> {
        let layers = self.layers;
        if self.q_columns == 0 {
            return Vec::new();
        }
        let rotated = batch.rows * (self.qkv.outputs * F32 + self.q_columns * BF16 + self.kv_columns * 2 * BF16);
        let (alone, together) = (u64::from(batch.decode_positions > 0), u64::from(batch.prefill_rows > 0));
        vec![
            self.memory("② rotate_store", together * layers, rotated),
            self.attention(batch, alone * layers, ATTENTION_US),
            self.prefill_attention(batch, together * layers),
        ]
    }

    fn embedding(&self, rows: u64) -> Vec<Launch> {
        let sum = self.sum("embed: all_reduce", 1, rows, F32);
        vec![self.memory("embed", 1, rows * self.hidden * (BF16 + F32)), sum]
    }

    /// Logits of the sampled rows, on every rank, and the choice.
    fn choice(&self, samples: u64) -> Vec<Launch> {
        if samples == 0 {
            return Vec::new();
        }
        let times = samples.div_ceil(LOGITS_ROWS_MAX);
        let rows = samples.div_ceil(times);
        let moved = rows * (self.hidden + self.head.outputs) * F32;
        let rows_bytes = rows * self.vocab * F32;
        let others = u64::from(self.world > 1);
        vec![
            Launch { fixed_us: NORM_PRODUCT_US, ..self.product("logits", times, rows, &[self.head], moved) },
            Launch {
                link_bytes: rows_bytes / self.world * (self.world - 1),
                ..launch("gather_logits", others * times, Limit::Gather, LAUNCH_US + LINK_WAITS_US)
            },
            Launch { bytes: rows_bytes, ..launch("sample", times, Limit::Memory, LAUNCH_US + CHOICE_ROW_US) },
        ]
    }

    fn stock(&self, batch: &Batch) -> Vec<Launch> {
        let (rows, layers) = (batch.rows, self.layers);
        let library = |name, times, rows: u64, matrix: Matrix| Launch {
            fixed_us: LIBRARY_LAUNCH_US,
            ..self.product(name, times, rows, &[matrix], rows * (matrix.inputs + matrix.outputs) * BF16)
        };
        let head_rows = batch.samples;
        vec![
            library("QKV", layers, rows, self.qkv),
            library("up", layers, rows, self.up),
            library("dense", layers, rows, self.dense),
            library("down", layers, rows, self.down),
            self.attention(batch, layers * u64::from(batch.decode_positions > 0), STOCK_ATTENTION_US),
            Launch {
                fixed_us: STOCK_ATTENTION_US,
                ..self.prefill_attention(batch, layers * u64::from(batch.prefill_rows > 0))
            },
            Launch {
                fixed_us: STOCK_GLUE_US,
                ..self.memory("norms, rotation, GELU, residual", layers, rows * self.hidden * 8 * BF16)
            },
            self.sum("all-reduce", layers * self.sums(), rows, BF16),
            library("logits", 1, head_rows, self.head),
            launch("choice", 1, Limit::Fixed, STOCK_CHOICE_US),
        ]
    }
}

fn launch(name: &'static str, times: u64, limit: Limit, fixed_us: f64) -> Launch {
    Launch { name, times, limit, fixed_us, bytes: 0, flops: 0, link_bytes: 0 }
}

/// What the rank `partition` of a model launches for a batch, in order.
#[must_use]
pub fn launches(config: &FalconConfig, partition: &Partition, kernels: Kernels, batch: &Batch) -> Vec<Launch> {
    Shape::new(config, partition).launches(kernels, batch)
}

#[cfg(test)]
mod tests {
    use super::{LOGITS_ROWS_MAX, NORM_PRODUCT_ROWS_MAX, OWN_PRODUCT_ROWS_MAX};
    use backend_cuda::limits;

    #[test]
    fn thresholds_are_those_of_the_cuda_backend() {
        let here = [NORM_PRODUCT_ROWS_MAX, LOGITS_ROWS_MAX, OWN_PRODUCT_ROWS_MAX];
        let there = [limits::NORM_PRODUCT_ROWS_MAX, limits::LOGITS_ROWS_MAX, limits::OWN_PRODUCT_ROWS_MAX];
        assert_eq!(here, there.map(|rows| rows as u64));
    }
}
