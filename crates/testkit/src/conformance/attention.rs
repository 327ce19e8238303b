//! Attention over several steps.

use super::random::{Random, empty, tensor};
use super::{Subject, assert_close, reference};
use backend::{AttentionShape, Backend, Batch, BatchSeq, KvGroup, Positions, StepInput};
use step::BLOCK_TOKENS;

/// [`Backend::attend`], relative to the largest value times the largest magnitude of a score's terms.
pub fn attend<B: Backend>(subject: &Subject<B>) {
    let (mut random, mut backend) = (Random::new(), subject.alone());
    let rotary = |head_dim| Positions::rotary(10_000.0, head_dim);
    // Frequencies of no geometric series, as YaRN has them.
    let scaled =
        Positions::Rotary { inverse_frequencies: vec![1.0, 0.3, 0.29, 0.05, 0.002, 0.001, 1e-4, 1e-5], factor: 1.2 };
    let alibi = |queries: i32| Positions::Alibi { slopes: (0..queries).map(|i| 0.5f32.powi(i)).collect() };
    for (head_dim, queries, positions, lengths) in [
        (64, &[71][..], rotary(64), &[1, 19, 33][..]),
        (16, &[3, 3, 1], rotary(16), &[700, 5]),
        (16, &[2, 3], scaled, &[97, 40]),
        (24, &[2, 5], rotary(24), &[130, 16, 64]),
        (32, &[1, 1, 1, 1], alibi(4), &[200, 31]),
        (64, &[9], alibi(9), &[257]),
        (64, &[16, 7], rotary(64), &[48; 9]),
        (64, &[], rotary(64), &[20]),
    ] {
        let groups = queries.iter().map(|&queries| KvGroup { queries }).collect();
        let shape = AttentionShape { head_dim, head_width: head_dim, groups, positions, max_positions: 704 };
        let (steps, blocks) = steps(&mut random, lengths);
        let inputs: Vec<Vec<f32>> =
            steps.iter().map(|batch| random.values(batch.rows() * shape.qkv_columns(), 2.0)).collect();
        let wide = AttentionShape { head_width: B::head_width(head_dim), ..shape.clone() };
        let wide_inputs: Vec<Vec<f32>> = inputs.iter().map(|input| widened(input, &wide)).collect();
        let got = run(&mut backend, &wide, blocks, &steps, &wide_inputs);
        let expected = run(&mut reference(), &shape, blocks, &steps, &inputs);
        // Elements are below 2, so a score's terms sum up to less than 4·√head_dim, and values are below 2.
        let magnitude = 2.0 * (1.0 + 4.0 * (head_dim as f32).sqrt());
        for (step, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let what = format!("step {step} with groups {queries:?} of heads of {head_dim}");
            assert_close(&what, got, &widened(expected, &wide), subject.tolerance, |_| magnitude);
        }
    }
}

/// Batches that bring sequences to their `lengths`, a few of them at a time in chunks of random lengths, with scattered
/// blocks; and the number of blocks that there must be.
fn steps(random: &mut Random, lengths: &[usize]) -> (Vec<Batch>, usize) {
    let needed: usize = lengths.iter().map(|length| length.div_ceil(BLOCK_TOKENS)).sum();
    let total = needed + 7;
    let mut free: Vec<u32> = (0..total as u32).collect();
    random.0.shuffle(&mut free);
    let tables: Vec<Vec<u32>> =
        lengths.iter().map(|length| free.split_off(free.len() - length.div_ceil(BLOCK_TOKENS))).collect();
    let mut done = vec![0; lengths.len()];
    let mut steps = Vec::new();
    while done != lengths {
        let mut batch = Batch::default();
        for seq in 0..lengths.len() {
            let limit = *random.0.choice([0, 1, 7, 130].iter()).expect("some limits");
            let run = (lengths[seq] - done[seq]).min(limit);
            if run > 0 {
                push(&mut batch, &vec![0; run], done[seq], &tables[seq]);
                done[seq] += run;
            }
        }
        steps.push(batch);
    }
    steps.retain(|batch| batch.rows() > 0);
    (steps, total)
}

/// Appends a sequence's tokens to a batch.
pub fn push(batch: &mut Batch, tokens: &[u32], start: usize, table: &[u32]) {
    let (rows, blocks) = (batch.tokens.len(), batch.blocks.len());
    batch.tokens.extend(tokens);
    batch.blocks.extend(table);
    let (rows, table) = (rows..batch.tokens.len(), blocks..batch.blocks.len());
    batch.seqs.push(BatchSeq { rows, start, slot: None, table });
}

/// Heads of `head_dim` elements as they stand in tensors: zeros behind each half.
fn widened(heads: &[f32], shape: &AttentionShape) -> Vec<f32> {
    let zeros = vec![0.0; (shape.head_width - shape.head_dim) / 2];
    heads.chunks(shape.head_dim / 2).flat_map(|half| [half, &zeros].concat()).collect()
}

/// Runs the steps in the second of two layers.
fn run<B: Backend>(
    backend: &mut B,
    shape: &AttentionShape,
    blocks: usize,
    steps: &[Batch],
    inputs: &[Vec<f32>],
) -> Vec<Vec<f32>> {
    let mut cache = backend.kv_cache(shape, 2, blocks).expect("room for a cache");
    let mut results = Vec::new();
    for (batch, input) in steps.iter().zip(inputs) {
        let qkv = tensor(backend, batch.rows(), input);
        let mut y = empty(backend, batch.rows(), shape.attended_columns());
        let step = backend.prepare(StepInput::without_logits(batch)).expect("prepare");
        backend.attend(&qkv, &step, 1, &mut cache, &mut y).expect("attend");
        results.push(backend.read(&y).expect("read"));
    }
    results
}
