//! The plain reference against the goldens of an independent implementation.

use crate::support::{generate, load, on_all_ranks};
use backend::{Batch, BatchSeq, Reference, Threads};
use forward::ModelRunner;
use step::{BLOCK_TOKENS, BlockId, SeqId, SeqRun, StepId, StepPlan};
use testkit::goldens::{Golden, LayerGolden, MODELS, Tolerance, model_dir};

#[test]
fn every_layer_of_every_model() {
    for model in MODELS {
        let golden = LayerGolden::of(model);
        let (config, mut falcon) = load(&model_dir(model), Threads::connect(1).remove(0));
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
                let mut engine = ModelRunner::new(load(&model_dir(model), rank).1);
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
    let mut engine = ModelRunner::new(load(&model_dir("falcon-demo"), Threads::connect(1).remove(0)).1);
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
