//! Whether the results are right.

use crate::parts::Found;
use anyhow::{Context, Result, ensure};
use backend::conformance::{self, MakeRank, Subject};
use backend::{Alone, Threads};
use backend_cuda::{Cuda, CudaOptions, discover};
use forward::{Capacity, Engine, Falcon};
use goldens::{Case, Golden, Observed, model_dir};
use model::Partition;
use std::time::Duration;
use step::{BLOCK_TOKENS, BlockId, NewSequence, SamplingParams, SeqId, SeqRun, StepId, StepPlan};
use weights::{CheckpointFiles, read_config};
use worker::ShardSource;

/// A check of the suite, and how many GPUs it takes.
type Operation = (&'static str, fn(&Subject<Cuda>), usize);

/// The suite that every backend must pass.
pub const OPERATIONS: [Operation; 11] = [
    ("embed", conformance::embed, 1),
    ("layer_norm", conformance::layer_norm, 1),
    ("linear", conformance::linear, 1),
    ("gelu", conformance::gelu, 1),
    ("attend", conformance::attend, 1),
    ("select", conformance::select, 1),
    ("all_reduce", conformance::all_reduce, 8),
    ("use_logits", conformance::use_logits, 3),
    ("fused_operations", conformance::fused_operations, 1),
    ("select_norm_linear", conformance::select_norm_linear, 1),
    ("bits_depend_on_nothing_else", conformance::bits_depend_on_nothing_else, 1),
];

/// Those of a tiny run.
pub const QUICK: [&str; 4] = ["embed", "layer_norm", "select", "use_logits"];

/// Inputs of products are rounded to bf16, by up to 2^-9 of each; so are keys, queries, weights of attention and results.
const TOLERANCE: f32 = 4e-3;
const WAIT_LIMIT: Duration = Duration::from_secs(300);

/// Holds one operation against the reference. It panics where they differ.
pub fn conformance(name: &str) -> Result<Found> {
    let operation = OPERATIONS.iter().find(|(known, ..)| *known == name);
    let (_, check, needed) = operation.with_context(|| format!("{name}: there is no such operation"))?;
    let gpus = discover()?.all.len();
    if gpus < *needed {
        let checked = format!("not run: it takes {needed} GPUs, and this machine has {gpus}");
        return Ok(Found { checked, ..Found::default() });
    }
    // In one order of all sums, as some of the checks ask for the same bits.
    let options = CudaOptions { deterministic: true, wait_limit: WAIT_LIMIT, ..CudaOptions::new(0) };
    let rank = move |(device, end): (usize, Threads)| {
        let options = CudaOptions { device, ..options.clone() };
        Box::new(move || Cuda::new(&options, Box::new(end)).expect("a device")) as MakeRank<Cuda>
    };
    let ranks = move |world| Threads::connect(world).into_iter().enumerate().map(&rank).collect();
    check(&Subject { ranks: Box::new(ranks), tolerance: TOLERANCE });
    Ok(Found { checked: "held against the plain reference".to_owned(), ..Found::default() })
}

/// Runs all cases of a model, or the shortest, on one rank: prompt and golden continuation as a prompt, as fast as the kernels
/// are and in one order of all sums.
pub fn golden(model: &str, tiny: bool) -> Result<Found> {
    let golden = Golden::of(model);
    let mut cases: Vec<&Case> = golden.cases.iter().collect();
    cases.sort_by_key(|case| case.forced_ids().len());
    cases.truncate(if tiny { 1 } else { usize::MAX });
    let (mut wrong, mut worst) = (Vec::new(), 0.0f32);
    for deterministic in [false, true] {
        let longest = cases.iter().map(|case| case.forced_ids().len()).max().unwrap_or(0);
        let mut engine = load(model, longest, deterministic)?;
        for (index, case) in cases.iter().enumerate() {
            let observed = forced(&mut engine, case, index as u64)?;
            let tolerance = case.bf16_tolerance(model);
            wrong.extend(case.check_forced(&observed, tolerance));
            let golden = case.prompt_logprobs.iter().copied().flatten().chain(case.greedy.logprobs.iter().copied());
            let off = observed.prompt_logprobs.iter().zip(golden).map(|(found, golden)| (found - golden).abs());
            worst = off.map(|off| off / case.bf16_compute.max_abs_logit_diff).fold(worst, f32::max);
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join(" | "));
    let checked = format!("{} cases, off by at most {worst:.2} of what computing in bf16 costs", cases.len());
    Ok(Found { checked, ..Found::default() })
}

fn load(model: &str, longest: usize, deterministic: bool) -> Result<Engine<Cuda>> {
    let dir = model_dir(model);
    let config = read_config(&dir)?;
    let partition = Partition::new(&config, 0, 1);
    let files = CheckpointFiles::open(&dir)?;
    let source = ShardSource(files.shard(&config, &partition)?);
    let options = CudaOptions { deterministic, wait_limit: WAIT_LIMIT, ..CudaOptions::new(0) };
    let cuda = Cuda::new(&options, Box::new(Alone))?;
    let kv_blocks = 2 * longest.div_ceil(BLOCK_TOKENS);
    let capacity = Capacity { kv_blocks, rows_max: longest.max(64), logits_rows_max: 32 };
    Ok(Engine::new(Falcon::load(cuda, &config, &partition, capacity, &source)?))
}

/// The log-probabilities of prompt and golden continuation, run as one prompt. Every second case has other KV blocks.
fn forced(engine: &mut Engine<Cuda>, case: &Case, index: u64) -> Result<Observed> {
    let tokens = case.forced_ids();
    let (seq, len) = (SeqId(index), tokens.len());
    let new = NewSequence {
        seq,
        prompt_len: len,
        tokens,
        sampling: SamplingParams::GREEDY,
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
