//! Steps of more rows than a launch has scratch for.

use crate::standin::install;
use backend::{AttentionShape, Backend, Batch, BatchSeq, KvGroup, Linear, Positions, SingleRank, StepInput, Tensor};
use backend_cuda::{Cuda, CudaKvCache, CudaOptions};
use half::bf16;
use std::ops::Range;
use step::BLOCK_TOKENS;

/// More than one launch of an own product takes.
const PRODUCT_ROWS: usize = 600;
/// More than one launch of attention of single rows takes.
const ATTENTION_ROWS: usize = 300;
/// So many take one launch.
const PIECE: usize = 100;
const HEAD_DIM: usize = 16;

fn cuda() -> Cuda {
    install();
    // Without cuBLASLt, and with the decode kernel for prompts.
    let options = CudaOptions { deterministic: true, ..CudaOptions::new(0) };
    Cuda::new(&options, Box::new(SingleRank)).expect("a device")
}

fn values(count: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..count).map(|_| random.f32() * 2.0 - 1.0).collect()
}

/// `y` of `work`, whose `x` has these rows of all.
fn run(
    cuda: &mut Cuda,
    (x, columns): (&[f32], usize),
    y_columns: usize,
    work: impl FnOnce(&mut Cuda, &<Cuda as Backend>::Tensor, &mut <Cuda as Backend>::Tensor),
) -> Vec<u32> {
    let rows = x.len() / columns;
    let mut x_tensor = cuda.tensor(rows, columns).expect("room");
    let mut y_tensor = cuda.tensor(rows, y_columns).expect("room");
    x_tensor.set_rows(rows);
    y_tensor.set_rows(rows);
    cuda.write(&mut x_tensor, x).expect("write");
    work(cuda, &x_tensor, &mut y_tensor);
    cuda.read(&y_tensor).expect("read").into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_product_of_many_rows_is_that_of_few() {
    let (inputs, outputs) = (72, 70);
    let cuda = &mut cuda();
    let weights = values(outputs * inputs);
    let read = |elements: Range<usize>, out: &mut [bf16]| {
        out.iter_mut().zip(&weights[elements]).for_each(|(to, from)| *to = bf16::from_f32(*from));
    };
    let linear = Linear { weight: cuda.matrix(outputs, inputs, &read).expect("room"), bias: None };
    let x = values(PRODUCT_ROWS * inputs);
    let mut product =
        |x: &[f32]| run(cuda, (x, inputs), outputs, |cuda, x, y| cuda.linear(x, &linear, y).expect("a product"));
    let whole = product(&x);
    let pieces: Vec<u32> = x.chunks(PIECE * inputs).flat_map(&mut product).collect();
    assert_eq!(whole, pieces);
}

/// Attention over new caches, of whole batches and of pieces of them: `batch` is of a range of rows.
fn check_attention(batch: impl Fn(Range<usize>) -> Batch) {
    let cuda = &mut cuda();
    let groups = vec![KvGroup { queries: 2 }];
    let positions = Positions::rotary(10_000.0, HEAD_DIM);
    let shape = AttentionShape { head_dim: HEAD_DIM, head_width: HEAD_DIM, groups, positions, max_positions: 512 };
    let (columns, blocks) = (4 * HEAD_DIM, ATTENTION_ROWS);
    let x = values(ATTENTION_ROWS * columns);
    let attend = |cuda: &mut Cuda, cache: &mut CudaKvCache, rows: Range<usize>| {
        let batch = batch(rows.clone());
        run(cuda, (&x[rows.start * columns..rows.end * columns], columns), 2 * HEAD_DIM, |cuda, qkv, y| {
            let step = cuda.prepare(StepInput::without_logits(&batch)).expect("prepare");
            cuda.attend(qkv, &step, 0, cache, y).expect("attention");
        })
    };
    let mut cache = cuda.kv_cache(&shape, 1, blocks).expect("room");
    let whole = attend(cuda, &mut cache, 0..ATTENTION_ROWS);
    let mut cache = cuda.kv_cache(&shape, 1, blocks).expect("room");
    let starts = (0..ATTENTION_ROWS).step_by(PIECE);
    let pieces: Vec<u32> = starts.flat_map(|start| attend(cuda, &mut cache, start..start + PIECE)).collect();
    assert_eq!(whole, pieces);
}

#[test]
fn attention_of_a_long_prompt_is_that_of_its_chunks() {
    check_attention(|rows| {
        let table = 0..rows.end.div_ceil(BLOCK_TOKENS);
        let blocks: Vec<u32> = table.clone().map(|block| block as u32).collect();
        let seq = BatchSeq { rows: 0..rows.len(), start: rows.start, slot: None, table };
        Batch { tokens: vec![0; rows.len()], seqs: vec![seq], blocks }
    });
}

#[test]
fn attention_of_many_sequences_is_that_of_few() {
    check_attention(|rows| {
        let seq = |row| BatchSeq { rows: row..row + 1, start: 0, slot: None, table: row..row + 1 };
        let blocks = rows.clone().map(|row| row as u32).collect();
        Batch { tokens: vec![0; rows.len()], seqs: (0..rows.len()).map(seq).collect(), blocks }
    });
}

/// Numbers of rows that come back after more others than cuBLASLt's plans are kept for.
#[test]
fn a_product_of_rows_that_were_forgotten_is_the_same() {
    const ROWS: Range<usize> = 65..1200;
    install();
    let cuda = &mut Cuda::new(&CudaOptions::new(0), Box::new(SingleRank)).expect("a device");
    let (inputs, outputs) = (8, 8);
    let weights = values(inputs * outputs);
    let read = |range: Range<usize>, to: &mut [bf16]| {
        to.iter_mut().zip(&weights[range]).for_each(|(to, value)| *to = bf16::from_f32(*value));
    };
    let linear = Linear { weight: cuda.matrix(outputs, inputs, &read).expect("room"), bias: None };
    let x = values(ROWS.end * inputs);
    let mut product = |rows: usize| {
        run(cuda, (&x[..rows * inputs], inputs), outputs, |cuda, x, y| cuda.linear(x, &linear, y).expect("linear"))
    };
    let firsts: Vec<_> = (ROWS.start..ROWS.start + 3).map(&mut product).collect();
    ROWS.for_each(|rows| drop(product(rows)));
    for (rows, first) in (ROWS.start..).zip(firsts) {
        assert!(product(rows) == first, "{rows} rows");
    }
}
