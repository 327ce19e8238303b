//! Whether the results are right.

use crate::parts::Found;
use anyhow::{Context, Result, ensure};
use backend::{Backend, Collective, Threads};
use backend_cuda::{AllReduceChoice, Cuda, CudaOptions, discover};
use forward::{Capacity, Falcon, ModelRunner};
use model::Partition;
use std::time::Duration;
use step::{BLOCK_TOKENS, BlockId, NewSequence, SamplingParams, SeqId, SeqRun, StepId, StepPlan};
use testkit::conformance::{self, MakeRank, Subject};
use testkit::goldens::{Case, Golden, Observed, model_dir};
use testkit::on_threads;
use weights::Checkpoint;
use worker::ShardSource;

/// A check of the suite.
type Operation = (&'static str, fn(&Subject<Cuda>));

/// The suite that every backend must pass.
pub const OPERATIONS: [Operation; 11] = [
    ("embed", conformance::embed),
    ("layer_norm", conformance::layer_norm),
    ("linear", conformance::linear),
    ("gelu", conformance::gelu),
    ("attend", conformance::attend),
    ("select", conformance::select),
    ("all_reduce", conformance::all_reduce),
    ("sample_or_score", conformance::sample_or_score),
    ("fused_operations", conformance::fused_operations),
    ("select_norm_linear", conformance::select_norm_linear),
    ("bits_depend_on_nothing_else", conformance::bits_depend_on_nothing_else),
];

/// Those of a tiny run.
pub const QUICK: [&str; 4] = ["embed", "layer_norm", "select", "sample_or_score"];

/// Inputs of products are rounded to bf16, by up to 2^-9 of each; so are keys, queries, weights of attention and results.
const TOLERANCE: f32 = 4e-3;
const WAIT_LIMIT: Duration = Duration::from_secs(300);

/// The ways in which a model's sums are made over ranks, the most ranks last.
const RANKS: [(usize, AllReduceChoice); 3] =
    [(2, AllReduceChoice::Auto), (4, AllReduceChoice::TwoShot), (8, AllReduceChoice::OneShot)];

/// Holds one operation against the reference. It panics where they differ. Ranks for which there is no GPU share one: that does
/// for single operations, but not for models: blocks that wait for other ranks leave theirs no room.
pub fn conformance(name: &str) -> Result<Found> {
    let operation = OPERATIONS.iter().find(|(known, _)| *known == name);
    let (_, check) = operation.with_context(|| format!("{name}: there is no such operation"))?;
    let gpus = discover()?.all.len();
    // In one order of all sums, as some of the checks ask for the same bits.
    let options = CudaOptions { deterministic: true, wait_limit: WAIT_LIMIT, ..CudaOptions::new(0) };
    let rank = move |(rank, end): (usize, Threads)| {
        let options = CudaOptions { device: rank % gpus, ..options.clone() };
        Box::new(move || Cuda::new(&options, Box::new(end)).expect("a device")) as MakeRank<Cuda>
    };
    let ranks = move |world| Threads::connect(world).into_iter().enumerate().map(&rank).collect();
    check(&Subject { ranks: Box::new(ranks), tolerance: TOLERANCE });
    Ok(Found { checked: "held against the plain reference".to_owned(), ..Found::default() })
}

/// Runs all cases of a model, or the shortest, on one rank: prompt and golden continuation as a prompt, as fast as the kernels
/// are and in one order of all sums.
pub fn golden(model: &str, tiny: bool) -> Result<Found> {
    let options = |deterministic| CudaOptions { deterministic, wait_limit: WAIT_LIMIT, ..CudaOptions::new(0) };
    held(model, tiny, &[(1, options(false)), (1, options(true))])
}

/// The same over as many ranks as there are GPUs.
pub fn golden_over_ranks(model: &str, tiny: bool) -> Result<Found> {
    let gpus = discover()?.all.len();
    let options = |all_reduce| CudaOptions { all_reduce, wait_limit: WAIT_LIMIT, ..CudaOptions::new(0) };
    let possible = RANKS.into_iter().filter(|(world, _)| *world <= gpus);
    let ways: Vec<_> = possible.map(|(world, all_reduce)| (world, options(all_reduce))).collect();
    let Some((most, _)) = ways.last() else {
        let checked = format!("not run: it takes 2 GPUs, and this machine has {gpus}");
        return Ok(Found { checked, ..Found::default() });
    };
    let Found { checked, .. } = held(model, tiny, &ways)?;
    Ok(Found { checked: format!("up to {most} ranks: {checked}"), ..Found::default() })
}

fn held(model: &str, tiny: bool, ways: &[(usize, CudaOptions)]) -> Result<Found> {
    let golden = Golden::of(model);
    let mut cases: Vec<&Case> = golden.cases.iter().collect();
    cases.sort_by_key(|case| case.forced_ids().len());
    cases.truncate(if tiny { 1 } else { usize::MAX });
    let (mut wrong, mut worst) = (Vec::new(), 0.0f32);
    for (world, options) in ways {
        let found = on_threads(Threads::connect(*world), |_, end| observe(model, &cases, end, options));
        let found = found.into_iter().collect::<Result<Vec<_>>>()?;
        for (case, observed) in found.iter().flat_map(|rank| cases.iter().zip(rank)) {
            wrong.extend(case.check_forced(observed, case.bf16_tolerance(model)));
            let golden = case.prompt_logprobs.iter().copied().flatten().chain(case.greedy.logprobs.iter().copied());
            let off = observed.prompt_logprobs.iter().zip(golden).map(|(found, golden)| (found - golden).abs());
            worst = off.map(|off| off / case.bf16_compute.max_abs_logit_diff).fold(worst, f32::max);
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join(" | "));
    let checked = format!("{} cases, off by at most {worst:.2} of what computing in bf16 costs", cases.len());
    Ok(Found { checked, ..Found::default() })
}

/// What one rank says of the cases.
fn observe(model: &str, cases: &[&Case], end: Threads, options: &CudaOptions) -> Result<Vec<Observed>> {
    let longest = cases.iter().map(|case| case.forced_ids().len()).max().unwrap_or(0);
    let mut engine = load(model, longest, end, options)?;
    cases.iter().enumerate().map(|(index, case)| forced(&mut engine, case, index as u64)).collect()
}

fn load(model: &str, longest: usize, end: Threads, options: &CudaOptions) -> Result<ModelRunner<Cuda>> {
    let dir = model_dir(model);
    let checkpoint = Checkpoint::open(&dir)?;
    let config = checkpoint.config();
    let partition = Partition::new(config, end.rank(), end.world());
    let source = ShardSource(checkpoint.shard(&partition)?);
    let options = CudaOptions { device: end.rank(), ..options.clone() };
    let cuda = Cuda::new(&options, Box::new(end))?;
    let kv_blocks = 2 * longest.div_ceil(BLOCK_TOKENS);
    let capacity = Capacity { kv_blocks, rows_max: longest.max(64), logits_rows_max: Cuda::LOGITS_ROWS_MAX };
    Ok(ModelRunner::new(Falcon::load(cuda, config, &partition, capacity, &source)?))
}

/// The log-probabilities of prompt and golden continuation, run as one prompt. Every second case has other KV blocks.
fn forced(engine: &mut ModelRunner<Cuda>, case: &Case, index: u64) -> Result<Observed> {
    let tokens = case.forced_ids();
    let (seq, len) = (SeqId(index), tokens.len());
    let new = NewSequence {
        seq,
        prompt_len: len,
        tokens,
        sampling: SamplingParams::GREEDY,
        min_tokens: 0,
        ends: Vec::new(),
        prompt_logprobs: true,
        top_n: 0,
        return_logits: false,
    };
    let blocks = len.div_ceil(BLOCK_TOKENS) as u32;
    let new_blocks = (0..blocks)
        .map(|block| BlockId(if index.is_multiple_of(2) { block } else { 2 * blocks - 1 - block }))
        .collect();
    let run = SeqRun { seq, start: 0, len, new_blocks, draft_tokens: Vec::new(), sample: true, masked: false };
    let retired = index.checked_sub(1).map(SeqId).into_iter().collect();
    let result = engine.step(StepPlan { step: StepId(index), new: vec![new], retired, runs: vec![run] }, &[])?;
    let prompt_logprobs = result.outputs.into_iter().flat_map(|output| output.prompt_logprobs).collect();
    Ok(Observed { prompt_logprobs, ..Observed::default() })
}
