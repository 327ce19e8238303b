//! A whole rank with random weights: milliseconds of a step.

use crate::kernels::plain_read;
use crate::parts::Found;
use crate::shapes::Shape;
use anyhow::{Result, ensure};
use backend::{Backend, SingleRank};
use backend_cuda::{Cuda, CudaFootprint, CudaOptions, discover};
use forward::{Capacity, Falcon, ModelRunner};
use model::Partition;
use roofline::{Kernels, launches};
use serde::{Deserialize, Serialize};
use sizing::{Ranks, WeightFormat, gpu_reserves};
use std::time::Instant;
use step::{BLOCK_TOKENS, BlockId, NewSequence, SamplingParams, SeqId, SeqRun, StepId, StepPlan};
use testkit::RandomWeights;

/// How long a step took.
#[derive(Debug, Deserialize, Serialize)]
pub struct RankRow {
    /// `decode`: each of so many sequences gains a token. `prompt`: one sequence of so many tokens gains its first.
    pub step: String,
    /// Sequences, or tokens.
    pub size: u64,
    /// Milliseconds, of the host's clock, from one result to the next.
    pub ms: f64,
    /// Bytes that must move.
    pub bytes: u64,
    /// Bytes over time, of what a plain read came to in the same run.
    pub percent_of_plain_read: f64,
    /// Operations of the tensor cores over time.
    pub tflops: f64,
}

/// The engine, and what it has been asked so far.
struct Runner {
    engine: ModelRunner<Cuda>,
    step: u64,
    seq: u64,
    blocks: u32,
    rows_max: usize,
    vocab: u32,
    retired: Vec<SeqId>,
}

/// Measures one shape.
pub fn measure(name: &str) -> Result<Found> {
    let shape = Shape::named(name)?;
    let config = &shape.config;
    let partition = Partition::new(config, 0, 1);
    let (largest, positions) = (shape.batches.iter().max().expect("there are some"), shape.rank_context + shape.steps);
    let blocks = |tokens: u64| tokens.div_ceil(BLOCK_TOKENS as u64);
    let kv_blocks = (largest * (blocks(positions) + 1)).max(blocks(shape.prompt) + 1) as usize;
    let rows_max = (shape.prompt as usize).max(64);
    let gpu = discover()?.for_ranks(1)?[0].clone();
    let footprint = CudaFootprint::of(&gpu, 1);
    let needed = Ranks::new(config, 1, WeightFormat::Bf16, &footprint).fullest(kv_blocks, rows_max).total();
    let reserved: u64 = gpu_reserves(gpu.memory_bytes, 1, false).iter().map(|reserve| reserve.bytes).sum();
    if needed + reserved > gpu.memory_bytes {
        let checked = format!("not run: it needs {} bytes of {}", needed + reserved, gpu.memory_bytes);
        return Ok(Found { checked, ..Found::default() });
    }
    let mut cuda = Cuda::new(&CudaOptions::new(0), Box::new(SingleRank))?;
    let (plain_read_gbps, _) = plain_read(&mut cuda, &shape)?;
    drop(cuda);
    let cuda = Cuda::new(&CudaOptions::new(0), Box::new(SingleRank))?;
    let capacity = Capacity { kv_blocks, rows_max, logits_rows_max: Cuda::LOGITS_ROWS_MAX };
    let begun = Instant::now();
    let falcon = Falcon::load(cuda, config, &partition, capacity, &RandomWeights::new(fastrand::u64(..)))?;
    let loaded = begun.elapsed().as_secs_f64();
    let engine = ModelRunner::new(falcon);
    let mut runner =
        Runner { engine, step: 0, seq: 0, blocks: 0, rows_max, vocab: config.vocab as u32, retired: Vec::new() };
    let mut rows = Vec::new();
    for &batch in &shape.batches {
        let ms = runner.decode(batch, shape.rank_context, shape.steps)?;
        // Halfway through the steps.
        let work = roofline::Batch::decode(batch, shape.rank_context + shape.steps / 2);
        rows.push(row(&shape, "decode", batch, ms, &work, plain_read_gbps));
    }
    let ms = runner.prompt(shape.prompt)?;
    rows.push(row(&shape, "prompt", shape.prompt, ms, &roofline::Batch::prompt(shape.prompt), plain_read_gbps));
    let checked = format!("{:.2} GB with random weights, made and loaded in {loaded:.1} s", needed as f64 / 1e9);
    Ok(Found { checked, plain_read_gbps: Some(plain_read_gbps), ranks: rows, ..Found::default() })
}

fn row(shape: &Shape, step: &str, size: u64, ms: f64, work: &roofline::Batch, plain_read_gbps: f64) -> RankRow {
    let all = launches(&shape.config, &Partition::new(&shape.config, 0, 1), Kernels::Own, work);
    let (bytes, flops) =
        all.iter().fold((0, 0), |(bytes, flops), it| (bytes + it.times * it.bytes, flops + it.times * it.flops));
    let rate = |count: u64| count as f64 / (ms / 1e3);
    RankRow {
        step: step.to_owned(),
        size,
        ms,
        bytes,
        percent_of_plain_read: rate(bytes) / (plain_read_gbps * 1e9) * 100.0,
        tflops: rate(flops) / 1e12,
    }
}

impl Runner {
    /// A new sequence with a prompt nobody has seen before.
    fn sequence(&mut self, tokens: u64) -> NewSequence {
        self.seq += 1;
        NewSequence {
            seq: SeqId(self.seq),
            tokens: (0..tokens).map(|_| fastrand::u32(..self.vocab)).collect(),
            prompt_len: tokens as usize,
            sampling: SamplingParams::GREEDY,
            min_tokens: 0,
            ends: Vec::new(),
            prompt_logprobs: false,
            top_n: 0,
            return_logits: false,
        }
    }

    fn run(&mut self, seq: SeqId, start: u64, len: u64, sample: bool) -> SeqRun {
        let blocks = |tokens: u64| tokens.div_ceil(BLOCK_TOKENS as u64);
        let new = (blocks(start + len) - blocks(start)) as u32;
        let new_blocks = (self.blocks..self.blocks + new).map(BlockId).collect();
        self.blocks += new;
        let (start, len) = (start as usize, len as usize);
        SeqRun { seq, start, len, new_blocks, draft_tokens: Vec::new(), sample, masked: false }
    }

    fn plan(&mut self, new: Vec<NewSequence>, runs: Vec<SeqRun>) -> StepPlan {
        self.step += 1;
        StepPlan { step: StepId(self.step), new, retired: std::mem::take(&mut self.retired), runs }
    }

    /// Milliseconds of a step in which `batch` sequences, of `context` tokens each at first, gain a token.
    fn decode(&mut self, batch: u64, context: u64, steps: u64) -> Result<f64> {
        let new: Vec<NewSequence> = (0..batch).map(|_| self.sequence(context)).collect();
        let seqs: Vec<SeqId> = new.iter().map(|new| new.seq).collect();
        // As many prompts in a step as there are rows for.
        let together = (self.rows_max as u64 / context).max(1) as usize;
        for new in new.chunks(together) {
            let runs = new.iter().map(|new| self.run(new.seq, 0, context, true)).collect();
            let plan = self.plan(new.to_vec(), runs);
            self.engine.step(plan, &[])?;
        }
        let (warm, in_flight_max) = (steps / 4, self.engine.steps_in_flight_max() as u64);
        let (mut begun, mut ended, mut since) = (0, 0, Instant::now());
        while ended < steps {
            if begun < steps && begun - ended < in_flight_max {
                let runs = seqs.iter().map(|&seq| self.run(seq, context + begun, 1, true)).collect();
                let plan = self.plan(Vec::new(), runs);
                self.engine.begin(plan, &[])?;
                begun += 1;
                continue;
            }
            if let Some(result) = self.engine.poll()? {
                ensure!(result.outputs.len() as u64 == batch, "{} tokens for {batch} sequences", result.outputs.len());
                ended += 1;
                if ended == warm {
                    since = Instant::now();
                }
            }
        }
        self.retired = seqs;
        self.blocks = 0;
        Ok(since.elapsed().as_secs_f64() * 1e3 / (steps - warm) as f64)
    }

    /// Milliseconds to the first token behind a prompt: the best of three, the first of which is not counted.
    fn prompt(&mut self, tokens: u64) -> Result<f64> {
        let mut best = f64::INFINITY;
        for repeat in 0..3 {
            let new = self.sequence(tokens);
            let seq = new.seq;
            let runs = vec![self.run(seq, 0, tokens, true)];
            let plan = self.plan(vec![new], runs);
            let begun = Instant::now();
            self.engine.step(plan, &[])?;
            if repeat > 0 {
                best = best.min(begun.elapsed().as_secs_f64() * 1e3);
            }
            self.retired.push(seq);
            self.blocks = 0;
        }
        Ok(best)
    }
}
