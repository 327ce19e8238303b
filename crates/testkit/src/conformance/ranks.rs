//! The operations that need all ranks.

use super::random::{Random, tensor};
use super::{Subject, assert_bits, reference};
use crate::on_threads;
use backend::{Backend, Batch, SampleOutput, SampleRequest, StepInput};
use sampling::SampleRow;
use step::{Choice, SamplingParams, SamplingSettings};

/// [`Backend::all_reduce`] and [`Backend::all_reduce_add`]: sums in rank order, to the bit, on every rank.
pub fn all_reduce<B: Backend>(subject: &Subject<B>) {
    let mut random = Random::new();
    for world in [1, 2, 3, 8] {
        let (rows, columns) = (5, 33);
        let parts: Vec<Vec<f32>> = (0..world).map(|_| random.values(rows * columns, 1.0)).collect();
        let x = random.values(rows * columns, 1.0);
        let mut sum = parts[0].clone();
        parts[1..].iter().for_each(|part| sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part));
        let total: Vec<f32> = x.iter().zip(&sum).map(|(x, sum)| x + sum).collect();
        in_ranks(subject, world, |rank, backend| {
            let mut reduced = tensor(backend, rows, &parts[rank]);
            backend.all_reduce(&mut reduced).expect("all_reduce");
            assert_bits("all_reduce", &backend.read(&reduced).expect("read"), &sum);
            let (mut partial, mut x) = (tensor(backend, rows, &parts[rank]), tensor(backend, rows, &x));
            backend.all_reduce_add(&mut partial, &mut x).expect("all_reduce_add");
            assert_bits("all_reduce_add", &backend.read(&x).expect("read"), &total);
        });
    }
}

/// [`Backend::sample_or_score`]: every rank gives what the reference gives that has the whole rows.
pub fn sample_or_score<B: Backend>(subject: &Subject<B>) {
    let mut random = Random::new();
    let draw = SamplingSettings {
        choice: Choice::Draw { seed: random.0.u64(..), index: 1 },
        temperature: 0.8,
        top_k: Some(20),
        top_p: Some(0.9),
        ..SamplingSettings::default()
    };
    let params = [SamplingParams::GREEDY, SamplingParams::try_new(draw).expect("valid settings")];
    let tokens: Vec<u32> = (0..9).map(|_| random.0.u32(..100)).collect();
    let sample = |params, position, top_n, return_logits| SampleRequest::Sample {
        row: SampleRow { params, position, prompt_len: 0, tokens: &tokens, mask: None, top_n },
        slot: None,
        return_logits,
    };
    let requests = [
        sample(&params[0], 9, 0, true),
        sample(&params[1], 10, 5, false),
        SampleRequest::Score { token: 42 },
        sample(&params[1], 11, 1, false),
        SampleRequest::Score { token: 99 },
    ];
    for vocab in [&[100][..], &[60, 40], &[33, 0, 67]] {
        let logits = random.values(requests.len() * 100, 5.0);
        let mut whole = reference();
        let rows = tensor(&mut whole, requests.len(), &logits);
        let expected = sampled(&mut whole, &rows, &[100], &requests);
        in_ranks(subject, vocab.len(), |rank, backend| {
            let first: usize = vocab[..rank].iter().sum();
            let mine: Vec<f32> = logits.chunks(100).flat_map(|row| row[first..][..vocab[rank]].to_vec()).collect();
            let mine = tensor(backend, requests.len(), &mine);
            let got = sampled(backend, &mine, vocab, &requests);
            assert_eq!(got, expected, "rank {rank} of the vocabulary parts {vocab:?}");
        });
    }
}

/// What a step of a row for each request gives for these rows of logits.
pub(super) fn sampled<B: Backend>(
    backend: &mut B,
    logits: &B::Tensor,
    vocab: &[usize],
    requests: &[SampleRequest<'_>],
) -> Vec<SampleOutput> {
    let batch = Batch { tokens: vec![0; requests.len()], ..Batch::default() };
    let rows: Vec<usize> = (0..requests.len()).collect();
    let step = backend.prepare(StepInput { batch: &batch, rows: &rows, requests }).expect("prepare");
    let pending = backend.sample_or_score(logits, vocab, &step, 0..rows.len()).expect("sample_or_score");
    backend.wait(pending).expect("outputs")
}

/// Makes each rank on a thread of its own, and runs it there.
pub(super) fn in_ranks<B: Backend>(subject: &Subject<B>, world: usize, run: impl Fn(usize, &mut B) + Sync) {
    let makers = (subject.ranks)(world);
    assert_eq!(makers.len(), world, "a maker for each rank");
    on_threads(makers, |rank, make| run(rank, &mut make()));
}
