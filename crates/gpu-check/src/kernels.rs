//! The rate of each launch of a layer, beside that of a plain read in the same run.

use crate::parts::Found;
use crate::shapes::Shape;
use anyhow::{Result, ensure};
use backend::{
    AttentionShape, Backend, BackendError, Batch, BatchSeq, KvGroup, Linear, Norm, NormLinear, SingleRank, StepInput,
    Tensor,
};
use backend_cuda::{Cuda, CudaKvCache, CudaOptions, CudaTensor, PlainRead};
use model::{FalconConfig, Partition};
use roofline::{Kernels, launches};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use step::BLOCK_TOKENS;
use testkit::RandomWeights;

/// How long one launch of a kernel took.
#[derive(Debug, Deserialize, Serialize)]
pub struct KernelRow {
    /// The part of the layer.
    pub launch: String,
    /// Rows of the step.
    pub rows: u64,
    /// Microseconds, of the device's clock.
    pub us: f64,
    /// Bytes that must move.
    pub bytes: u64,
    /// Bytes over time.
    pub gbps: f64,
    /// Of what a plain read came to in the same run.
    pub percent_of_plain_read: f64,
    /// Operations of the tensor cores over time.
    pub tflops: f64,
}

impl KernelRow {
    /// A time beside the bytes that must move and the operations.
    fn new(launch: String, rows: u64, time: Duration, (bytes, flops): (u64, u64), plain_read_gbps: f64) -> Self {
        let seconds = time.as_secs_f64();
        let gbps = bytes as f64 / seconds / 1e9;
        Self {
            launch,
            rows,
            us: seconds * 1e6,
            bytes,
            gbps,
            percent_of_plain_read: gbps / plain_read_gbps * 100.0,
            tflops: flops as f64 / seconds / 1e12,
        }
    }
}

/// Times are medians of so many.
const REPEATS: usize = 5;

/// One layer's weights.
struct Layer {
    norms: [Norm<Cuda>; 2],
    qkv: Linear<Cuda>,
    up: Linear<Cuda>,
    dense: Linear<Cuda>,
    down: Linear<Cuda>,
}

/// Activations of a step.
struct Activations {
    x: CudaTensor,
    normed: CudaTensor,
    qkv: CudaTensor,
    up: CudaTensor,
    attended: CudaTensor,
    partial: CudaTensor,
    last: CudaTensor,
    last_normed: CudaTensor,
    logits: CudaTensor,
}

/// Measures one shape.
pub fn measure(name: &str) -> Result<Found> {
    let shape = Shape::named(name)?;
    let mut cuda = Cuda::new(&CudaOptions::new(0), Box::new(SingleRank))?;
    let (plain_read_gbps, memory) = plain_read(&mut cuda, &shape)?;
    let weights = RandomWeights::new(fastrand::u64(..));
    let layers = layers(&mut cuda, &weights, &shape)?;
    let head = linear(&mut cuda, &weights, shape.config.vocab, shape.config.hidden)?;
    let mut rows = Vec::new();
    let steps = shape.batches.iter().map(|&batch| (batch, true)).chain([(shape.prompt, false)]);
    for (count, decode) in steps {
        let mut bench = Bench::new(&mut cuda, &shape, &layers, &head, count, decode)?;
        rows.extend(bench.rows(&mut cuda, plain_read_gbps)?);
    }
    rows.extend(reads(&mut cuda, &shape, &rows, memory, plain_read_gbps)?);
    let checked = format!("plain read {plain_read_gbps:.0} GB/s");
    Ok(Found { checked, plain_read_gbps: Some(plain_read_gbps), kernels: rows, ..Found::default() })
}

/// Plain reads of as many bytes as products of one row move: what is missing to the rate of a long one is a launch's beginning
/// and end.
fn reads(
    cuda: &mut Cuda,
    shape: &Shape,
    rows: &[KernelRow],
    mut memory: PlainRead,
    plain_read_gbps: f64,
) -> Result<Vec<KernelRow>> {
    let products = rows.iter().filter(|row| row.rows == 1 && ["①", "③"].contains(&&*row.launch));
    products
        .map(|product| {
            let bytes = (product.bytes as usize).min(memory.bytes());
            let time = median(cuda, shape.launches, |cuda, index| memory.run_piece(cuda, bytes, index))?;
            let launch = format!("read as {}", product.launch);
            Ok(KernelRow::new(launch, product.rows, time, (bytes as u64, 0), plain_read_gbps))
        })
        .collect()
}

/// GB/s of a plain read, whether it read what is there, and the memory.
pub fn plain_read(cuda: &mut Cuda, shape: &Shape) -> Result<(f64, PlainRead)> {
    let mut memory = PlainRead::new(cuda, shape.plain_read_bytes)?;
    let words: Vec<u32> = values(100_003).into_iter().map(f32::to_bits).collect();
    memory.fill(cuda, &words)?;
    let time = median(cuda, 1, |cuda, _| memory.run(cuda))?;
    let count = memory.bytes() / size_of::<u32>();
    let (whole, rest) = (count / words.len(), count % words.len());
    let fold = |words: &[u32]| words.iter().fold(0, |fold, word| fold ^ word);
    // An even number of folds of the same words is nothing.
    let expected = if whole % 2 == 1 { fold(&words) } else { 0 } ^ fold(&words[..rest]);
    ensure!(memory.fold(cuda)? == expected, "the plain read did not read what is there");
    Ok((memory.bytes() as f64 / time.as_secs_f64() / 1e9, memory))
}

/// The median time of one of `launches` launches, after some that are not timed.
fn median(
    cuda: &mut Cuda,
    launches: usize,
    mut launch: impl FnMut(&mut Cuda, usize) -> Result<(), BackendError>,
) -> Result<Duration> {
    let mut run = |cuda: &mut Cuda| (0..launches).try_for_each(|index| launch(cuda, index));
    run(cuda)?;
    let mut times = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        times.push(cuda.time(&mut run)?);
    }
    times.sort_unstable();
    Ok(times[REPEATS / 2] / launches as u32)
}

/// Activations between −1 and 1.
fn values(count: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::new();
    (0..count).map(|_| random.f32() * 2.0 - 1.0).collect()
}

fn layers(cuda: &mut Cuda, weights: &RandomWeights, shape: &Shape) -> Result<Vec<Layer>, BackendError> {
    let config = &shape.config;
    let (heads, kv) = (config.q_heads * config.head_dim, config.kv_heads * config.head_dim);
    let layer = |cuda: &mut Cuda| {
        let mut norm = || {
            let (scale, bias) = (cuda.vector(&vec![1.0; config.hidden])?, cuda.vector(&vec![0.0; config.hidden])?);
            Ok::<_, BackendError>(Norm { scale, bias, eps: config.norm_eps })
        };
        let norms = [norm()?, norm()?];
        Ok::<_, BackendError>(Layer {
            norms,
            qkv: linear(cuda, weights, heads + 2 * kv, config.hidden)?,
            up: linear(cuda, weights, config.ffn, config.hidden)?,
            dense: linear(cuda, weights, config.hidden, heads)?,
            down: linear(cuda, weights, config.hidden, config.ffn)?,
        })
    };
    let bytes = 2 * config.hidden * (2 * heads + 2 * kv + 2 * config.ffn);
    let count = shape.working_set_bytes.div_ceil(bytes as u64).max(2);
    (0..count).map(|_| layer(cuda)).collect()
}

fn linear(
    cuda: &mut Cuda,
    weights: &RandomWeights,
    outputs: usize,
    inputs: usize,
) -> Result<Linear<Cuda>, BackendError> {
    let first = fastrand::usize(..1 << 20);
    let weight = cuda.matrix(outputs, inputs, &|elements, out| weights.fill(first + elements.start, out))?;
    Ok(Linear { weight, bias: None })
}

/// One size of a step, ready to be run.
struct Bench<'a> {
    shape: &'a Shape,
    layers: &'a [Layer],
    head: &'a Linear<Cuda>,
    work: roofline::Batch,
    batch: Batch,
    cache: CudaKvCache,
    cache_layers: usize,
    at: Activations,
}

impl<'a> Bench<'a> {
    fn new(
        cuda: &mut Cuda,
        shape: &'a Shape,
        layers: &'a [Layer],
        head: &'a Linear<Cuda>,
        rows: u64,
        decode: bool,
    ) -> Result<Self> {
        let config = &shape.config;
        let work =
            if decode { roofline::Batch::decode(rows, shape.context - 1) } else { roofline::Batch::prompt(rows) };
        let (sequences, start, len) = if decode { (rows, shape.context - 1, 1) } else { (1, 0, rows) };
        let batch = batch(sequences as usize, start as usize, len as usize);
        let attention = attention(config);
        let layer_bytes = batch.blocks.len() * BLOCK_TOKENS * 4 * config.kv_heads * config.head_dim;
        let cache_layers = (shape.working_set_bytes as usize / 2).div_ceil(layer_bytes).max(2);
        let mut cache = cuda.kv_cache(&attention, cache_layers, batch.blocks.len())?;
        if start > 0 {
            fill_cache(cuda, config, &batch, &mut cache, cache_layers)?;
        }
        let at = activations(cuda, config, rows as usize)?;
        Ok(Self { shape, layers, head, work, batch, cache, cache_layers, at })
    }

    /// Times every launch of a layer.
    fn rows(&mut self, cuda: &mut Cuda, plain_read_gbps: f64) -> Result<Vec<KernelRow>> {
        let times = self.shape.launches.max(self.layers.len());
        let (layers, cache_layers, batch) = (self.layers, self.cache_layers, &self.batch);
        let at = &mut self.at;
        let wanted: Vec<usize> = (0..(self.work.samples as usize).min(Cuda::LOGITS_ROWS_MAX)).collect();
        let step = cuda.prepare(StepInput { batch, rows: &wanted, requests: &[] })?;
        let two_norms = self.shape.config.norms != model::LayerNorms::ParallelOne;
        let first = median(cuda, times, |cuda, index| {
            let layer = &layers[index % layers.len()];
            let mut products = [
                NormLinear { norm: &layer.norms[0], linear: &layer.qkv, gelu: false, y: &mut at.qkv },
                NormLinear { norm: &layer.norms[usize::from(two_norms)], linear: &layer.up, gelu: true, y: &mut at.up },
            ];
            cuda.norm_linear(&at.x, &mut products, &mut at.normed)
        })?;
        let cache = &mut self.cache;
        let attention = median(cuda, times.max(cache_layers.min(256)), |cuda, index| {
            cuda.attend(&at.qkv, &step, index % cache_layers, cache, &mut at.attended)
        })?;
        let second = median(cuda, times, |cuda, index| {
            let layer = &layers[index % layers.len()];
            cuda.dense_and_down(&at.attended, &layer.dense, &at.up, &layer.down, &mut at.partial)
        })?;
        let sum = median(cuda, times, |cuda, _| cuda.all_reduce_add(&mut at.partial, &mut at.x))?;
        let mut rows = vec![("①", first), ("②", attention), ("③", second), ("④", sum)];
        if self.work.samples == self.work.rows {
            let head = self.head;
            let logits = median(cuda, self.shape.launches, |cuda, _| {
                let product = NormLinear { norm: &layers[0].norms[0], linear: head, gelu: false, y: &mut at.logits };
                cuda.select_norm_linear(&at.x, &step, 0..wanted.len(), product, [&mut at.last, &mut at.last_normed])
            })?;
            rows.push(("logits", logits));
        }
        Ok(rows.into_iter().map(|(launch, time)| self.row(launch, time, plain_read_gbps)).collect())
    }

    /// A time beside what must move.
    fn row(&self, launch: &str, time: Duration, plain_read_gbps: f64) -> KernelRow {
        let config = &self.shape.config;
        let all = launches(config, &Partition::new(config, 0, 1), Kernels::Own, &self.work);
        // The embedding's sum is not a layer's.
        let of = all.iter().skip_while(|launch| !launch.name.starts_with('①')).filter(|it| it.name.starts_with(launch));
        let work = of.fold((0, 0), |(bytes, flops), it| (bytes + it.bytes, flops + it.flops));
        KernelRow::new(launch.to_owned(), self.work.rows, time, work, plain_read_gbps)
    }
}

fn attention(config: &FalconConfig) -> AttentionShape {
    AttentionShape {
        head_dim: config.head_dim,
        head_width: Cuda::head_width(config.head_dim),
        groups: vec![KvGroup { queries: config.queries_per_kv() }; config.kv_heads],
        positions: forward::positions(config, 0..config.q_heads),
        max_positions: config.max_positions,
    }
}

/// `sequences` sequences of `len` rows from position `start` on, whose blocks lie about.
fn batch(sequences: usize, start: usize, len: usize) -> Batch {
    let blocks = (start + len).div_ceil(BLOCK_TOKENS);
    let mut all: Vec<u32> = (0..(sequences * blocks) as u32).collect();
    fastrand::shuffle(&mut all);
    let seq = |index: usize| BatchSeq {
        rows: index * len..(index + 1) * len,
        start,
        slot: None,
        table: index * blocks..(index + 1) * blocks,
    };
    Batch { tokens: vec![0; sequences * len], seqs: (0..sequences).map(seq).collect(), blocks: all }
}

/// Keys and values for all positions before those of the batch: what memory happens to hold may be no numbers at all, and
/// multiplying by these takes less power.
fn fill_cache(
    cuda: &mut Cuda,
    config: &FalconConfig,
    batch: &Batch,
    cache: &mut CudaKvCache,
    layers: usize,
) -> Result<(), BackendError> {
    let (rows, heads) = (batch.seqs[0].start, config.q_heads * config.head_dim);
    let columns = heads + 2 * config.kv_heads * config.head_dim;
    let (mut qkv, mut attended) = (cuda.tensor(rows, columns)?, cuda.tensor(rows, heads)?);
    cuda.write(&mut qkv, &values(rows * columns))?;
    attended.set_rows(rows);
    for seq in &batch.seqs {
        let blocks = batch.table(seq).to_vec();
        let prompt = BatchSeq { rows: 0..rows, start: 0, slot: None, table: 0..blocks.len() };
        let prompt = Batch { tokens: vec![0; rows], seqs: vec![prompt], blocks };
        let step = cuda.prepare(StepInput::without_logits(&prompt))?;
        (0..layers).try_for_each(|layer| cuda.attend(&qkv, &step, layer, cache, &mut attended))?;
    }
    cuda.synchronize()
}

fn activations(cuda: &mut Cuda, config: &FalconConfig, rows: usize) -> Result<Activations, BackendError> {
    let heads = config.q_heads * config.head_dim;
    let mut tensor = |rows: usize, columns: usize| {
        let mut tensor = cuda.tensor(rows, columns)?;
        tensor.set_rows(rows);
        Ok::<_, BackendError>(tensor)
    };
    let few = rows.min(Cuda::LOGITS_ROWS_MAX);
    let mut at = Activations {
        x: tensor(rows, config.hidden)?,
        normed: tensor(rows, config.hidden)?,
        qkv: tensor(rows, heads + 2 * config.kv_heads * config.head_dim)?,
        up: tensor(rows, config.ffn)?,
        attended: tensor(rows, heads)?,
        partial: tensor(rows, config.hidden)?,
        last: tensor(few, config.hidden)?,
        last_normed: tensor(few, config.hidden)?,
        logits: tensor(few, config.vocab)?,
    };
    cuda.write(&mut at.x, &values(rows * config.hidden))?;
    Ok(at)
}
