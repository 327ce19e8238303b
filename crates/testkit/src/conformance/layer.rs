//! One layer of a model: what its results may depend on.

use super::attention::push;
use super::random::{Random, empty};
use super::{Subject, assert_bits};
use backend::{AttentionShape, Backend, Batch, KvGroup, Linear, Norm, NormLinear, Positions, StepInput, Tensor};
use step::BLOCK_TOKENS;

const VOCABULARY: usize = 50;
const HEAD_DIM: usize = 24;
const QUERIES: [usize; 2] = [5, 2];
const HIDDEN: usize = (QUERIES[0] + QUERIES[1]) * HEAD_DIM;
const UP: usize = 2 * HIDDEN + 3;
const BLOCKS: usize = 64;
/// The longest first: 9 blocks of one sequence and a part of a tenth.
const LENGTHS: [usize; 4] = [150, 70, 17, 1];

/// Every sequence alone, in chunks of 1, 7 and 128, and all sequences at once have the same results to the bit.
pub fn bits_depend_on_nothing_else<B: Backend>(subject: &Subject<B>) {
    let mut random = Random::new();
    let seed = random.0.u64(..);
    let mut layer = Layer::new(subject.alone(), seed);
    let expected = layer.run(usize::MAX, true);
    for chunk in [1, 7, 128, usize::MAX] {
        for together in [false, true] {
            for (seq, (got, expected)) in layer.run(chunk, together).iter().zip(&expected).enumerate() {
                assert_bits(&format!("sequence {seq} in chunks of {chunk}, together {together}"), got, expected);
            }
        }
    }
}

/// Two ways to run a backend have the same results to the bit.
pub fn same_bits<A: Backend, B: Backend>(a: &Subject<A>, b: &Subject<B>) {
    let mut random = Random::new();
    let seed = random.0.u64(..);
    let expected = Layer::new(a.alone(), seed).run(usize::MAX, true);
    let got = Layer::new(b.alone(), seed).run(usize::MAX, true);
    for (got, expected) in got.iter().zip(&expected) {
        assert_bits("the other subject", got, expected);
    }
}

struct Layer<B: Backend> {
    backend: B,
    embedding: Linear<B>,
    norms: [Norm<B>; 2],
    qkv: Linear<B>,
    up: Linear<B>,
    dense: Linear<B>,
    down: Linear<B>,
    cache: B::KvCache,
    tables: Vec<Vec<u32>>,
    tokens: Vec<Vec<u32>>,
}

impl<B: Backend> Layer<B> {
    fn new(mut backend: B, seed: u64) -> Self {
        let mut random = Random(fastrand::Rng::with_seed(seed));
        let groups = QUERIES.map(|queries| KvGroup { queries }).to_vec();
        let positions = Positions::rotary(10_000.0, HEAD_DIM);
        let head_width = B::head_width(HEAD_DIM);
        let shape = AttentionShape { head_dim: HEAD_DIM, head_width, groups, positions, max_positions: 160 };
        let b = &mut backend;
        let mut linear = |outputs, inputs, bias| random.linear(outputs, inputs, bias).on(b);
        let [embedding, qkv, up, dense, down] = [
            (VOCABULARY, HIDDEN, true),
            (shape.qkv_columns(), HIDDEN, true),
            (UP, HIDDEN, true),
            (HIDDEN, shape.attended_columns(), true),
            (HIDDEN, UP, false),
        ]
        .map(|(outputs, inputs, bias)| linear(outputs, inputs, bias));
        let norms = [random.norm(HIDDEN).on(b), random.norm(HIDDEN).on(b)];
        let cache = b.kv_cache(&shape, 1, BLOCKS).expect("room for a cache");
        let mut free: Vec<u32> = (0..BLOCKS as u32).collect();
        random.0.shuffle(&mut free);
        let tables = LENGTHS.map(|length| free.split_off(free.len() - length.div_ceil(BLOCK_TOKENS))).to_vec();
        let mut token = || random.0.u32(..VOCABULARY as u32);
        let tokens = LENGTHS.map(|length| (0..length).map(|_| token()).collect()).to_vec();
        Self { backend, embedding, norms, qkv, up, dense, down, cache, tables, tokens }
    }

    /// Each sequence's results, when it runs in chunks, alone or together with the others.
    fn run(&mut self, chunk: usize, together: bool) -> Vec<Vec<f32>> {
        let mut results = vec![Vec::new(); LENGTHS.len()];
        let all: Vec<usize> = (0..LENGTHS.len()).collect();
        let turns: Vec<&[usize]> = if together { vec![&all] } else { all.chunks(1).collect() };
        for seqs in turns {
            for start in (0..LENGTHS[0]).step_by(chunk.min(LENGTHS[0])) {
                let mut batch = Batch::default();
                let mut ran = Vec::new();
                for &seq in seqs {
                    let tokens = self.tokens[seq].iter().copied().skip(start).take(chunk);
                    let tokens: Vec<u32> = tokens.collect();
                    if !tokens.is_empty() {
                        push(&mut batch, &tokens, start, &self.tables[seq]);
                        ran.push(seq);
                    }
                }
                let y = self.step(&batch);
                for (seq, part) in ran.into_iter().zip(&batch.seqs) {
                    results[seq].extend(&y[part.rows.start * HIDDEN..part.rows.end * HIDDEN]);
                }
            }
        }
        results
    }

    fn step(&mut self, batch: &Batch) -> Vec<f32> {
        let (b, rows) = (&mut self.backend, batch.rows());
        let heads = QUERIES.iter().sum::<usize>() * B::head_width(HEAD_DIM);
        let qkv_columns = heads + 2 * QUERIES.len() * B::head_width(HEAD_DIM);
        let [mut x, mut normed, mut sum] = [(); 3].map(|()| empty(b, rows, HIDDEN));
        let [mut qkv, mut attention, mut up] = [qkv_columns, heads, UP].map(|columns| empty(b, rows, columns));
        let step = b.prepare(StepInput::without_logits(batch)).expect("prepare");
        b.embed(&self.embedding.weight, 0, &step, &mut x).expect("embed");
        let products = &mut [
            NormLinear { norm: &self.norms[0], linear: &self.qkv, gelu: false, y: &mut qkv },
            NormLinear { norm: &self.norms[1], linear: &self.up, gelu: true, y: &mut up },
        ];
        b.norm_linear(&x, products, &mut normed).expect("norm_linear");
        b.attend(&qkv, &step, 0, &mut self.cache, &mut attention).expect("attend");
        b.dense_and_down(&attention, &self.dense, &up, &self.down, &mut sum).expect("dense_and_down");
        b.all_reduce_add(&mut sum, &mut x).expect("all_reduce_add");
        assert_eq!((x.rows(), x.columns()), (rows, HIDDEN));
        b.read(&x).expect("read")
    }
}
