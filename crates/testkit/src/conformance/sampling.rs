//! How tokens are chosen: every parameter alone, and all together.

use super::random::{Random, tensor};
use super::ranks::{in_ranks, sampled};
use super::{Subject, reference};
use backend::{Backend, SampleRequest};
use sampling::SampleRow;
use step::{Choice, LOGIT_BIAS_MAX, SamplingParams, SamplingSettings, TokenBias};

/// More than the threads of a kernel's block, and no multiple of them.
const VOCAB: usize = 1300;
const PROMPT: usize = 7;
/// So many cases, the last ones, run on several ranks, too: all of the parameters are in them.
const ON_RANKS: usize = 5;

/// A row of logits, and what is wanted of it.
struct Case {
    what: &'static str,
    params: SamplingParams,
    mask: bool,
    top_n: usize,
}

fn case(what: &'static str, settings: SamplingSettings) -> Case {
    Case { what, params: SamplingParams::try_new(settings).expect("valid settings"), mask: false, top_n: 5 }
}

fn bias(id: usize, bias: f32) -> TokenBias {
    TokenBias { id: id as u32, bias }
}

/// Biases of so many random tokens of a vocabulary of `vocab`.
fn biases(random: &mut Random, count: usize, vocab: usize) -> Option<std::sync::Arc<[TokenBias]>> {
    let mut ids: Vec<usize> = (0..vocab).collect();
    random.0.shuffle(&mut ids);
    Some(ids[..count].iter().map(|&id| bias(id, (random.0.f32() * 2.0 - 1.0) * 4.0)).collect())
}

fn cases(random: &mut Random) -> Vec<Case> {
    let off = SamplingSettings::default;
    let drawn = || SamplingSettings { choice: Choice::Draw { seed: 77, index: 3 }, ..off() };
    let all = SamplingSettings {
        temperature: 0.9,
        top_k: Some(300),
        top_p: Some(0.9),
        typical_p: Some(0.8),
        min_p: 0.01,
        repetition_penalty: 1.2,
        relative_frequency_penalty: 1.5,
        presence_penalty: -0.75,
        frequency_penalty: 0.5,
        logit_bias: biases(random, 40, VOCAB),
        watermark: true,
        ..drawn()
    };
    let plain = case("nothing", off());
    let extreme = SamplingSettings { temperature: 1e-38, repetition_penalty: 1e-38, frequency_penalty: 2.0, ..drawn() };
    vec![
        case("min_p", SamplingSettings { min_p: 0.2, ..off() }),
        case("min_p, drawn", SamplingSettings { min_p: 0.02, temperature: 1.5, ..drawn() }),
        case("min_p of 1", SamplingSettings { min_p: 1.0, ..drawn() }),
        case("presence_penalty", SamplingSettings { presence_penalty: 1.25, ..off() }),
        plain,
        case("frequency_penalty", SamplingSettings { frequency_penalty: 0.375, ..off() }),
        case("a reward", SamplingSettings { frequency_penalty: -1.75, ..off() }),
        case("a draw", SamplingSettings { presence_penalty: -2.0, frequency_penalty: 2.0, ..drawn() }),
        case("relative_frequency_penalty", SamplingSettings { relative_frequency_penalty: 9.0, ..off() }),
        case("a bias", SamplingSettings { logit_bias: Some([bias(VOCAB - 1, 12.0)].into()), ..off() }),
        // Some ids are outside of the vocabulary.
        case("biases", SamplingSettings { logit_bias: biases(random, LOGIT_BIAS_MAX, VOCAB + 200), ..drawn() }),
        case("biases", SamplingSettings { logit_bias: biases(random, 9, VOCAB), min_p: 0.1, ..off() }),
        case("watermark", SamplingSettings { watermark: true, presence_penalty: 1.0, ..off() }),
        case("typical_p", SamplingSettings { typical_p: Some(0.6), min_p: 0.05, ..drawn() }),
        Case { mask: true, ..case("a mask", SamplingSettings { logit_bias: biases(random, 700, VOCAB), ..drawn() }) },
        case("all", all.clone()),
        Case { mask: true, top_n: 32, ..case("all, with a mask", all.clone()) },
        // More than kernels report.
        Case { top_n: 50, ..case("all, with many of the most probable", all) },
        case("extremes", extreme),
    ]
}

/// [`Backend::sample_or_score`]: every parameter of sampling, alone and together, on every rank as the reference has it.
pub fn sampling_parameters<B: Backend>(subject: &Subject<B>) {
    let mut random = Random::new();
    let cases = cases(&mut random);
    // Few tokens, so that most come several times, some of them in the prompt alone.
    let tokens: Vec<u32> =
        (0..40).map(|i| random.0.u32(0..6) * 211 + if i < PROMPT { 0 } else { random.0.u32(0..2) }).collect();
    let words: Vec<u32> = (0..VOCAB.div_ceil(32)).map(|_| random.0.u32(..)).collect();
    let logits = random.values(cases.len() * VOCAB, 5.0);
    let requests: Vec<SampleRequest<'_>> = cases
        .iter()
        .map(|case| SampleRequest::Sample {
            row: SampleRow {
                params: &case.params,
                position: tokens.len() as u32,
                prompt_len: PROMPT as u32,
                tokens: &tokens,
                mask: case.mask.then_some(&words),
                top_n: case.top_n,
            },
            slot: None,
            return_logits: false,
        })
        .collect();
    let mut whole = reference();
    let rows = tensor(&mut whole, requests.len(), &logits);
    let expected = sampled(&mut whole, &rows, &[VOCAB], &requests);
    for vocab in [&[VOCAB][..], &[700, 600], &[301, 0, 599, 400]] {
        let cases_from = if vocab.len() == 1 { 0 } else { cases.len() - ON_RANKS };
        let (logits, requests) = (&logits[cases_from * VOCAB..], &requests[cases_from..]);
        in_ranks(subject, vocab.len(), |rank, backend| {
            let first: usize = vocab[..rank].iter().sum();
            let mine: Vec<f32> = logits.chunks(VOCAB).flat_map(|row| row[first..][..vocab[rank]].to_vec()).collect();
            let mine = tensor(backend, requests.len(), &mine);
            // Once more on two ranks: nothing is left of the first time.
            for turn in 0..if vocab.len() == 2 { 2 } else { 1 } {
                let got = sampled(backend, &mine, vocab, requests);
                for ((case, got), expected) in cases[cases_from..].iter().zip(&got).zip(&expected[cases_from..]) {
                    assert_eq!(got, expected, "{}, turn {turn}, rank {rank} of {vocab:?}", case.what);
                }
            }
        });
    }
}
