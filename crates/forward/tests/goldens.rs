//! The plain reference against the goldens of an independent implementation, ranks as threads of this process.

use backend::{Batch, BatchSeq, Collective, Reference, Threads};
use forward::{Capacity, Engine, Falcon};
use goldens::{Golden, LayerGolden, MODELS, Observed, Tolerance, model_dir};
use model::{FalconConfig, Partition};
use step::{BLOCK_TOKENS, BlockId, NewSequence, SamplingParams, SeqId, SeqRun, StepId, StepPlan};
use weights::Checkpoint;
use worker::ShardSource;

fn load(model: &str, collective: Threads) -> (FalconConfig, Falcon<Reference<Threads>>) {
    let dir = model_dir(model);
    let checkpoint = Checkpoint::open(&dir).expect("a checkpoint");
    let config = checkpoint.config().clone();
    let partition = Partition::new(&config, collective.rank(), collective.world());
    let reader = checkpoint.shard(&partition);
    let capacity = Capacity { kv_blocks: 16, rows_max: 64, logits_rows_max: 5 };
    let backend = Reference::new(collective);
    let falcon = Falcon::load(backend, &config, &partition, capacity, &ShardSource(reader)).expect("load");
    (config, falcon)
}

/// Runs a case on one rank, its prompt in chunks of `chunk`.
fn generate(engine: &mut Engine<Reference<Threads>>, prompt: &[u32], new_tokens: usize, chunk: usize) -> Observed {
    let seq = SeqId(7);
    let mut new = vec![NewSequence {
        seq,
        tokens: prompt.to_vec(),
        prompt_len: prompt.len(),
        sampling: SamplingParams::GREEDY,
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
fn on_all_ranks(world: usize, work: impl Fn(Threads) -> Observed + Sync) -> Vec<Observed> {
    std::thread::scope(|scope| {
        let ranks: Vec<_> = Threads::connect(world).into_iter().map(|rank| scope.spawn(|| work(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("no rank panics")).collect()
    })
}

#[test]
fn every_layer_of_every_model() {
    for model in MODELS {
        let golden = LayerGolden::of(model);
        let (config, mut falcon) = load(model, Threads::connect(1).remove(0));
        assert_eq!(golden.residuals.len(), config.layers + 1, "{model}");
        let rows = golden.prompt_ids.len();
        let blocks: Vec<u32> = (0..rows.div_ceil(BLOCK_TOKENS) as u32).collect();
        let seq = BatchSeq { rows: 0..rows, start: 0, slot: None, table: 0..blocks.len() };
        let batch = Batch { tokens: golden.prompt_ids.clone(), seqs: vec![seq], blocks };
        let mut seen = Vec::new();
        let mut observe = |backend: &mut Reference<Threads>, _: usize, x: &_| {
            let x = backend::Backend::read(backend, x)?;
            seen.push(x[(rows - 1) * config.hidden..].to_vec());
            Ok(())
        };
        falcon.run_observed(&batch, &mut observe).expect("run");
        for (layer, (ours, expected)) in seen.iter().zip(&golden.residuals).enumerate() {
            // A tenth of what logits may be off is ample for what they are made of.
            let close = ours
                .iter()
                .zip(expected)
                .all(|(ours, expected)| (ours - expected).abs() <= Tolerance::F32.value / 10.0);
            assert!(close, "{model}, after layer {layer}: expected {expected:?}, found {ours:?}");
        }
    }
}

#[test]
fn short_cases_of_every_model_at_every_degree() {
    for model in MODELS {
        let golden = Golden::of(model);
        let case = &golden.cases[2];
        for world in [1, 2, 4, 8] {
            let observed = on_all_ranks(world, |rank| {
                let mut engine = Engine::new(load(model, rank).1);
                generate(&mut engine, &case.prompt_ids, case.greedy.ids.len(), 7)
            });
            for (rank, observed) in observed.iter().enumerate() {
                let wrong = case.check_greedy(observed, Tolerance::F32);
                assert!(wrong.is_empty(), "{model}, rank {rank} of {world}: {wrong:?}");
            }
        }
    }
}

#[test]
fn drafts_change_no_token() {
    let golden = Golden::of("falcon-demo");
    let case = golden.case("capital");
    let (prompt, ids) = (&case.prompt_ids, &case.greedy.ids);
    let mut engine = Engine::new(load("falcon-demo", Threads::connect(1).remove(0)).1);
    let _ = generate(&mut engine, prompt, 1, 64);
    // Two drafts hold, the third does not, so four tokens come of one step, the last in place of the third draft.
    let drafts = vec![ids[1], ids[2], ids[3] ^ 1, ids[4]];
    let run = SeqRun {
        seq: SeqId(7),
        start: prompt.len(),
        len: 1 + drafts.len(),
        new_blocks: vec![BlockId(0)],
        draft_tokens: drafts,
        sample: true,
        masked: false,
    };
    let plan = StepPlan { step: StepId(9), new: Vec::new(), retired: Vec::new(), runs: vec![run] };
    let outputs = engine.step(plan, &[]).expect("step").outputs;
    let tokens: Vec<u32> = outputs[0].samples.iter().map(|sample| sample.token.id).collect();
    assert_eq!(tokens, ids[1..4]);
}
