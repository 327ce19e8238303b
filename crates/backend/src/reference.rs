//! Every operation as its formula says it: the measure for the other backends.

use crate::{
    AttentionShape, Backend, BackendError, Collective, Footprint, KvGroup, Linear, Norm, NormLinear, Positions,
    ReadWeights, ReferenceFootprint, SampleOutput, StepInput, Tensor, positions, sample_or_score,
    select_then_norm_linear,
};
use half::bf16;
use sampling::Sampler;
use std::f32::consts::FRAC_1_SQRT_2;
use std::ops::Range;
use step::BLOCK_TOKENS;

/// The plain backend. It computes in f32 but for sums of norms, in a fixed order, on the calling thread.
pub struct Reference<C> {
    collective: C,
    sampler: Sampler,
    whole_row: Vec<f32>,
}

impl<C: Collective> Reference<C> {
    /// A rank of the world that `collective` connects.
    pub fn new(collective: C) -> Self {
        Self { collective, sampler: Sampler::new(), whole_row: Vec::new() }
    }
}

/// Activations in host memory.
pub struct HostTensor {
    values: Vec<f32>,
    rows: usize,
    rows_max: usize,
    columns: usize,
}

impl HostTensor {
    fn row(&self, row: usize) -> &[f32] {
        &self.values[..self.rows * self.columns][row * self.columns..][..self.columns]
    }

    fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[..self.rows * self.columns][row * self.columns..][..self.columns]
    }
}

impl Tensor for HostTensor {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn set_rows(&mut self, rows: usize) {
        assert!(rows <= self.rows_max, "{rows} rows in a tensor of {}", self.rows_max);
        self.rows = rows;
    }
}

/// A weight in host memory, row-major.
pub struct HostMatrix {
    values: Vec<bf16>,
    rows: usize,
    columns: usize,
}

impl HostMatrix {
    fn row(&self, row: usize) -> &[bf16] {
        &self.values[row * self.columns..][..self.columns]
    }
}

/// Keys and values in host memory, of shape (layers, blocks, [`BLOCK_TOKENS`], KV heads, `head_dim`).
pub struct HostKvCache {
    shape: AttentionShape,
    blocks: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl HostKvCache {
    /// Where the head of KV head `group` begins.
    fn at(&self, layer: usize, table: &[u32], position: usize, group: usize) -> usize {
        let block = table[position / BLOCK_TOKENS] as usize;
        assert!(block < self.blocks, "block {block} of {}", self.blocks);
        let token = (layer * self.blocks + block) * BLOCK_TOKENS + position % BLOCK_TOKENS;
        (token * self.shape.groups.len() + group) * self.shape.head_dim
    }

    /// By which angles the token at `position` rotates its queries and keys: (cosine, sine) for each element of half a
    /// head; none without rotation.
    fn rotations(&self, position: usize) -> Vec<(f32, f32)> {
        match &self.shape.positions {
            Positions::Rotary { inverse_frequencies, factor } => {
                inverse_frequencies.iter().map(|frequency| positions::rotation(*frequency, *factor, position)).collect()
            }
            Positions::Alibi { .. } => Vec::new(),
        }
    }

    fn bias(&self, query_head: usize, position: usize) -> f32 {
        match &self.shape.positions {
            Positions::Rotary { .. } => 0.0,
            Positions::Alibi { slopes } => positions::alibi_bias(slopes[query_head], self.shape.head_dim, position),
        }
    }

    /// `y = Σ softmax(q·kⱼ / √head_dim + bias(j)) · vⱼ` for `j ≤ position`.
    fn attend(
        &self,
        query: &[f32],
        query_head: usize,
        position: usize,
        head_at: impl Fn(usize) -> usize,
        y: &mut [f32],
    ) {
        let head_dim = self.shape.head_dim;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let scores: Vec<f32> = (0..=position)
            .map(|j| dot(query, &self.keys[head_at(j)..][..head_dim]) * scale + self.bias(query_head, j))
            .collect();
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = scores.iter().map(|score| libm::expf(score - max)).collect();
        let sum: f32 = weights.iter().sum();
        y.fill(0.0);
        for (j, weight) in weights.iter().enumerate() {
            for (y, value) in y.iter_mut().zip(&self.values[head_at(j)..][..head_dim]) {
                *y += weight / sum * value;
            }
        }
    }
}

impl<C: Collective> Backend for Reference<C> {
    type Tensor = HostTensor;
    type Matrix = HostMatrix;
    type Vector = Vec<f32>;
    type KvCache = HostKvCache;
    type Step<'a> = StepInput<'a>;
    type Pending = Vec<SampleOutput>;

    fn footprint(&self) -> &dyn Footprint {
        &ReferenceFootprint
    }

    fn matrix(&mut self, rows: usize, columns: usize, read: &ReadWeights<'_>) -> Result<HostMatrix, BackendError> {
        let mut values = vec![bf16::ZERO; rows * columns];
        read(0..values.len(), &mut values);
        Ok(HostMatrix { values, rows, columns })
    }

    fn vector(&mut self, values: &[f32]) -> Result<Vec<f32>, BackendError> {
        Ok(values.to_vec())
    }

    fn tensor(&mut self, rows_max: usize, columns: usize) -> Result<HostTensor, BackendError> {
        Ok(HostTensor { values: vec![0.0; rows_max * columns], rows: 0, rows_max, columns })
    }

    fn kv_cache(&mut self, shape: &AttentionShape, layers: usize, blocks: usize) -> Result<HostKvCache, BackendError> {
        assert_eq!(shape.head_width, shape.head_dim, "heads stand as wide as they are");
        let len = layers * blocks * BLOCK_TOKENS * shape.groups.len() * shape.head_dim;
        Ok(HostKvCache { shape: shape.clone(), blocks, keys: vec![0.0; len], values: vec![0.0; len] })
    }

    fn prepare<'a>(&mut self, input: StepInput<'a>) -> Result<StepInput<'a>, BackendError> {
        Ok(input)
    }

    fn set_rows(&self, step: &StepInput<'_>, x: &mut HostTensor) {
        x.set_rows(step.batch.rows());
    }

    fn write(&mut self, x: &mut HostTensor, values: &[f32]) -> Result<(), BackendError> {
        x.set_rows(values.len().checked_div(x.columns).unwrap_or(0));
        x.values[..values.len()].copy_from_slice(values);
        Ok(())
    }

    fn read(&mut self, x: &HostTensor) -> Result<Vec<f32>, BackendError> {
        Ok(x.values[..x.rows * x.columns].to_vec())
    }

    fn embed(
        &mut self,
        table: &HostMatrix,
        first: usize,
        step: &StepInput<'_>,
        y: &mut HostTensor,
    ) -> Result<(), BackendError> {
        for (row, &token) in step.batch.tokens.iter().enumerate() {
            match (token as usize).checked_sub(first).filter(|&entry| entry < table.rows) {
                Some(entry) => y.row_mut(row).iter_mut().zip(table.row(entry)).for_each(|(y, w)| *y = widen(*w)),
                None => y.row_mut(row).fill(0.0),
            }
        }
        Ok(())
    }

    fn layer_norm(&mut self, x: &HostTensor, norm: &Norm<Self>, y: &mut HostTensor) -> Result<(), BackendError> {
        for row in 0..x.rows {
            let x = x.row(row);
            // In f64, since both sums may cancel.
            let count = x.len() as f64;
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
            let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
            let (mean, deviation) = (mean as f32, (variance + f64::from(norm.eps)).sqrt() as f32);
            for (i, y) in y.row_mut(row).iter_mut().enumerate() {
                *y = (x[i] - mean) / deviation * norm.scale[i] + norm.bias[i];
            }
        }
        Ok(())
    }

    fn linear(&mut self, x: &HostTensor, linear: &Linear<Self>, y: &mut HostTensor) -> Result<(), BackendError> {
        let rows = x.rows;
        y.values[..rows * y.columns].fill(0.0);
        self.linear_add(x, linear, y)
    }

    fn linear_add(&mut self, x: &HostTensor, linear: &Linear<Self>, y: &mut HostTensor) -> Result<(), BackendError> {
        let weight = &linear.weight;
        assert_eq!((x.rows, x.columns, weight.rows), (y.rows, weight.columns, y.columns), "shapes of a product");
        let mut weights = vec![0.0; weight.columns];
        for output in 0..weight.rows {
            weights.iter_mut().zip(weight.row(output)).for_each(|(wide, w)| *wide = widen(*w));
            let bias = linear.bias.as_ref().map_or(0.0, |bias| bias[output]);
            for row in 0..x.rows {
                y.row_mut(row)[output] += dot(&weights, x.row(row)) + bias;
            }
        }
        Ok(())
    }

    fn gelu(&mut self, x: &mut HostTensor) -> Result<(), BackendError> {
        for x in &mut x.values[..x.rows * x.columns] {
            *x = *x / 2.0 * (1.0 + libm::erff(*x * FRAC_1_SQRT_2));
        }
        Ok(())
    }

    fn attend(
        &mut self,
        qkv: &HostTensor,
        &StepInput { batch, .. }: &StepInput<'_>,
        layer: usize,
        cache: &mut HostKvCache,
        y: &mut HostTensor,
    ) -> Result<(), BackendError> {
        let groups = cache.shape.groups.clone();
        let head_dim = cache.shape.head_dim;
        for seq in &batch.seqs {
            let table = batch.table(seq);
            for (row, position) in seq.rows.clone().zip(seq.start..) {
                let rotations = cache.rotations(position);
                let mut heads = qkv.row(row).chunks_exact(head_dim.max(1));
                let mut outputs = y.row_mut(row).chunks_exact_mut(head_dim.max(1)).enumerate();
                for (group, KvGroup { queries }) in groups.iter().enumerate() {
                    let group_queries: Vec<&[f32]> = heads.by_ref().take(*queries).collect();
                    let key = rotated(heads.next().expect("a group has a key"), &rotations);
                    let value = heads.next().expect("a group has a value");
                    let at = cache.at(layer, table, position, group);
                    cache.keys[at..][..head_dim].copy_from_slice(&key);
                    cache.values[at..][..head_dim].copy_from_slice(value);
                    for (query, (head, y)) in group_queries.into_iter().zip(&mut outputs) {
                        let query = rotated(query, &rotations);
                        cache.attend(&query, head, position, |j| cache.at(layer, table, j, group), y);
                    }
                }
            }
        }
        Ok(())
    }

    fn select(&mut self, x: &HostTensor, rows: &[usize], y: &mut HostTensor) -> Result<(), BackendError> {
        y.set_rows(rows.len());
        for (i, &row) in rows.iter().enumerate() {
            y.row_mut(i).copy_from_slice(x.row(row));
        }
        Ok(())
    }

    fn select_norm_linear(
        &mut self,
        x: &HostTensor,
        step: &StepInput<'_>,
        wanted: Range<usize>,
        product: NormLinear<'_, Self>,
        scratch: [&mut HostTensor; 2],
    ) -> Result<(), BackendError> {
        select_then_norm_linear(self, x, &step.rows[wanted], product, scratch)
    }

    fn all_reduce(&mut self, x: &mut HostTensor) -> Result<(), BackendError> {
        let len = x.rows * x.columns;
        Ok(self.collective.all_reduce(&mut x.values[..len])?)
    }

    fn all_reduce_add(&mut self, partial: &mut HostTensor, x: &mut HostTensor) -> Result<(), BackendError> {
        self.all_reduce(partial)?;
        assert_eq!((partial.rows, partial.columns), (x.rows, x.columns), "shapes of a sum");
        let len = x.rows * x.columns;
        x.values[..len].iter_mut().zip(&partial.values).for_each(|(x, partial)| *x += partial);
        Ok(())
    }

    fn wait(&mut self, outputs: Vec<SampleOutput>) -> Result<Vec<SampleOutput>, BackendError> {
        Ok(outputs)
    }

    fn sample_or_score(
        &mut self,
        logits: &HostTensor,
        vocab: &[usize],
        step: &StepInput<'_>,
        wanted: Range<usize>,
    ) -> Result<Vec<SampleOutput>, BackendError> {
        let requests = &step.requests[wanted];
        let mine = &logits.values[..logits.rows * logits.columns];
        Ok(sample_or_score(&mut self.collective, mine, vocab, requests, &mut self.whole_row, &mut self.sampler)?)
    }
}

/// A query or a key, rotated.
fn rotated(head: &[f32], rotations: &[(f32, f32)]) -> Vec<f32> {
    let half = head.len() / 2;
    let mut rotated = head.to_vec();
    for (i, (cos, sin)) in rotations.iter().enumerate() {
        rotated[i] = head[i] * cos - head[i + half] * sin;
        rotated[i + half] = head[i + half] * cos + head[i] * sin;
    }
    rotated
}

/// Exact: the upper half of the f32.
fn widen(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// `a·b`, in 16 partial sums (of the elements whose indices are equal modulo 16) that compilers turn into vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail = a_chunks.remainder().iter().zip(b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter_mut().zip(tail).for_each(|(sum, (a, b))| *sum += a * b);
    sums.iter().sum()
}
