//! A model on one rank or several, as threads of this process.

use backend::{Collective, Reference, Threads};
use forward::{Capacity, Falcon, ModelRunner};
use model::{FalconConfig, Partition};
use std::path::Path;
use step::{BLOCK_TOKENS, BlockId, NewSequence, SamplingParams, SeqId, SeqRun, StepId, StepPlan};
use testkit::goldens::Observed;
use testkit::on_threads;
use weights::Checkpoint;
use worker::ShardSource;

pub fn load(dir: &Path, collective: Threads) -> (FalconConfig, Falcon<Reference<Threads>>) {
    let checkpoint = Checkpoint::open(dir).expect("a checkpoint");
    let config = checkpoint.config().clone();
    let partition = Partition::new(&config, collective.rank(), collective.world());
    let reader = checkpoint.shard(&partition).expect("not cut");
    let capacity = Capacity { kv_blocks: 16, rows_max: 64, logits_rows_max: 5 };
    let backend = Reference::new(collective);
    let falcon = Falcon::load(backend, &config, &partition, capacity, &ShardSource(reader)).expect("load");
    (config, falcon)
}

/// Runs a case on one rank, its prompt in chunks of `chunk`.
pub fn generate(
    engine: &mut ModelRunner<Reference<Threads>>,
    prompt: &[u32],
    new_tokens: usize,
    chunk: usize,
) -> Observed {
    let seq = SeqId(7);
    let mut new = vec![NewSequence {
        seq,
        tokens: prompt.to_vec(),
        prompt_len: prompt.len(),
        sampling: SamplingParams::GREEDY,
        min_tokens: 0,
        ends: Vec::new(),
        prompt_logprobs: true,
        top_n: 0,
        return_logits: true,
    }];
    let mut observed = Observed::default();
    let mut start = 0;
    for step in 0.. {
        let known = prompt.len() + observed.tokens.len();
        let len = chunk.min(known - start);
        let blocks = |tokens: usize| tokens.div_ceil(BLOCK_TOKENS) as u32;
        // Blocks in falling order, so that a table is not simply the identity.
        let new_blocks = (blocks(start)..blocks(start + len)).map(|block| BlockId(15 - block)).collect();
        let sample = start + len == known;
        let run = SeqRun { seq, start, len, new_blocks, draft_tokens: Vec::new(), sample, masked: false };
        let plan = StepPlan { step: StepId(step), new: std::mem::take(&mut new), retired: Vec::new(), runs: vec![run] };
        for output in engine.step(plan, &[]).expect("step").outputs {
            observed.prompt_logprobs.extend(output.prompt_logprobs);
            for sample in output.samples {
                observed.tokens.push(sample.token.id);
                observed.logprobs.push(sample.token.score.model_logprob);
                observed.logits.push(sample.logits);
            }
        }
        start += len;
        if observed.tokens.len() == new_tokens {
            break;
        }
    }
    observed
}

/// Runs every rank of `world` on a thread of its own and returns what each observed.
pub fn on_all_ranks(world: usize, work: impl Fn(Threads) -> Observed + Sync) -> Vec<Observed> {
    on_threads(Threads::connect(world), |_, end| work(end))
}
