//! The sampler against the reference data, and its draws against the probabilities that they should have.

use std::path::Path;
use std::sync::Arc;

use sampling::{SampleRow, Sampler, model_logprob};
use serde_json::Value;
use step::{Choice, SamplingParams, SamplingSettings, TokenBias};

fn sample(
    sampler: &mut Sampler,
    logits: &[f32],
    settings: SamplingSettings,
    tokens: &[u32],
    top_n: usize,
) -> step::Sample {
    let params = SamplingParams::try_new(settings).unwrap();
    sampler.sample(
        logits,
        &SampleRow { params: &params, position: tokens.len() as u32, prompt_len: 0, tokens, mask: None, top_n },
    )
}

fn biases(of: &[(u32, f32)]) -> Option<Arc<[TokenBias]>> {
    Some(of.iter().map(|&(id, bias)| TokenBias { id, bias }).collect())
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().map_or(f32::NEG_INFINITY, |x| x as f32)).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

fn settings(params: &Value) -> SamplingSettings {
    let number = |name: &str| params[name].as_f64().map(|x| x as f32);
    let defaults = SamplingSettings::default();
    SamplingSettings {
        temperature: number("temperature").unwrap_or(defaults.temperature),
        top_k: params["top_k"].as_u64().map(|k| k as u32),
        top_p: number("top_p"),
        typical_p: number("typical_p"),
        repetition_penalty: number("repetition_penalty").unwrap_or(defaults.repetition_penalty),
        relative_frequency_penalty: number("frequency_penalty").unwrap_or(0.0),
        ..defaults
    }
}

#[test]
fn processors_match_the_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/sampling.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 261);
    let mut sampler = Sampler::new();
    for case in cases {
        let at = format!("{} {} {}", case["logits"], case["params"], case["input_ids"]);
        let logits = floats(&golden["logits"][case["logits"].as_str().unwrap()]);
        let expected = floats(&case["expected"]);
        let mut kept: Vec<u32> = (0..).zip(&expected).filter(|(_, x)| x.is_finite()).map(|(id, _)| id).collect();
        let found = sample(&mut sampler, &logits, settings(&case["params"]), &ids(&case["input_ids"]), logits.len());

        // Which of equal scores top-p cuts is open; the reference's sort is not stable.
        let same = |a: u32, b: u32| a == b || (logits[a as usize] == logits[b as usize] && case["logits"] == "ties_48");
        let mut survivors: Vec<u32> = found.top.iter().map(|token| token.id).collect();
        let by_score = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        survivors.sort_unstable_by(by_score);
        kept.sort_unstable_by(by_score);
        assert_eq!(survivors.len(), kept.len(), "{at}: kept");
        assert_eq!(survivors.len() as u64, case["num_kept"].as_u64().unwrap(), "{at}");
        assert!(survivors.iter().zip(&kept).all(|(&a, &b)| same(a, b)), "{at}: kept {survivors:?}, not {kept:?}");
        assert!(same(found.token.id, case["argmax"].as_u64().unwrap() as u32), "{at}: chose {}", found.token.id);
        let max_prob = case["max_prob"].as_f64().unwrap();
        assert!((f64::from(found.token.score.logprob).exp() - max_prob).abs() < 1e-6, "{at}: max_prob");

        // The scores themselves show as differences of log-probabilities.
        let expected_score = |id: u32| {
            let kept_equal = || kept.iter().copied().find(|&other| same(id, other));
            let id = if expected[id as usize].is_finite() { Some(id) } else { kept_equal() };
            expected[id.unwrap() as usize]
        };
        let best = expected_score(found.token.id);
        for token in &found.top {
            let difference = best - expected_score(token.id);
            let error = found.token.score.logprob - token.score.logprob - difference;
            assert!(error.abs() < 1e-5 * difference.abs().max(1.0), "{at}: token {} is off by {error}", token.id);
            assert_eq!(token.score.model_logprob, model_logprob(&logits, token.id), "{at}");
        }
    }
}

/// Pearson's statistic of 40,000 draws at different positions against `expected`, in standard deviations.
fn excess(logits: &[f32], settings: SamplingSettings, tokens: &[u32], expected: &[f64]) -> f64 {
    const DRAWS: u32 = 40_000;
    let params = SamplingParams::try_new(settings).unwrap();
    let (mut sampler, mut counts) = (Sampler::new(), vec![0.0; logits.len()]);
    for position in 0..DRAWS {
        let row = SampleRow { params: &params, position, prompt_len: 0, tokens, mask: None, top_n: 0 };
        counts[sampler.sample(logits, &row).token.id as usize] += 1.0;
    }
    let cells = counts.iter().zip(expected).filter(|&(&count, &p)| {
        assert!(p > 0.0 || count == 0.0, "a token that was filtered out has been drawn");
        p > 0.0
    });
    let (mut statistic, mut degrees) = (0.0, -1.0);
    for (count, p) in cells {
        let mean = p * f64::from(DRAWS);
        statistic += (count - mean).powi(2) / mean;
        degrees += 1.0;
    }
    if degrees == 0.0 { 0.0 } else { (statistic - degrees) / (2.0f64 * degrees).sqrt() }
}

#[test]
fn draws_have_the_probabilities_of_the_processed_scores() {
    let off = SamplingSettings::default;
    let variants = [
        off(),
        SamplingSettings { temperature: 0.5, ..off() },
        SamplingSettings { temperature: 2.0, top_k: Some(7), ..off() },
        SamplingSettings { top_p: Some(0.8), ..off() },
        SamplingSettings { typical_p: Some(0.7), repetition_penalty: 1.4, ..off() },
        SamplingSettings { top_k: Some(1), ..off() },
        SamplingSettings { watermark: true, relative_frequency_penalty: 1.5, ..off() },
        SamplingSettings { min_p: 0.2, presence_penalty: 1.0, frequency_penalty: -0.5, ..off() },
        SamplingSettings { logit_bias: biases(&[(4, 2.0), (9, -100.0)]), min_p: 0.05, ..off() },
    ];
    let mut rng = fastrand::Rng::with_seed(5);
    let logits: Vec<f32> = (0..24).map(|_| 3.0 * rng.f32()).collect();
    let tokens = [3, 3, 9, 21];
    for variant in variants {
        for (seed, index) in [(0, 0), (0, 1), (1 << 40, 0), (u64::MAX, 0)] {
            let all = sample(&mut Sampler::new(), &logits, variant.clone(), &tokens, logits.len());
            let mut expected = vec![0.0; logits.len()];
            all.top.iter().for_each(|token| expected[token.id as usize] = f64::from(token.score.logprob).exp());
            let drawing = SamplingSettings { choice: Choice::Draw { seed, index }, ..variant.clone() };
            let z = excess(&logits, drawing.clone(), &tokens, &expected);
            assert!(z < 4.0, "{drawing:?}: {z} deviations above what chance gives");
        }
    }
}

#[test]
fn a_draw_depends_on_seed_index_and_position_alone() {
    let mut rng = fastrand::Rng::with_seed(6);
    let logits: Vec<f32> = (0..500).map(|_| rng.f32()).collect();
    let at = |sampler: &mut Sampler, seed, index, position| {
        let choice = Choice::Draw { seed, index };
        let params = SamplingParams::try_new(SamplingSettings { choice, ..Default::default() }).unwrap();
        let row = SampleRow { params: &params, position, prompt_len: 0, tokens: &[], mask: None, top_n: 0 };
        sampler.sample(&logits, &row).token.id
    };
    let mut busy = Sampler::new();
    let draws: Vec<u32> = (0..50).map(|position| at(&mut busy, 9, 0, position)).collect();
    let again: Vec<u32> = (0..50).rev().map(|position| at(&mut Sampler::new(), 9, 0, position)).collect();
    assert!(draws.iter().eq(again.iter().rev()));
    for (seed, index) in [(10, 0), (9, 1), (9 + (1 << 32), 0)] {
        let other: Vec<u32> = (0..50).map(|position| at(&mut busy, seed, index, position)).collect();
        assert_ne!(draws, other);
    }
}

#[test]
fn masks_come_first_and_ties_go_to_the_smaller_id() {
    let logits = [1.0, 5.0, 5.0, 2.0, 2.0, 0.0];
    let params = SamplingParams::GREEDY;
    let mut row = SampleRow { params: &params, position: 0, prompt_len: 0, tokens: &[], mask: None, top_n: 4 };
    let top = |sample: &step::Sample| sample.top.iter().map(|token| token.id).collect::<Vec<u32>>();
    let mut sampler = Sampler::new();

    let plain = sampler.sample(&logits, &row);
    assert_eq!((plain.token.id, top(&plain)), (1, vec![1, 2, 3, 4]));
    assert_eq!(plain.token.score.logprob, plain.token.score.model_logprob);

    row.mask = Some(&[0b11_1000]);
    let masked = sampler.sample(&logits, &row);
    assert_eq!((masked.token.id, top(&masked)), (3, vec![3, 4, 5]));
    assert_eq!(masked.token.score.model_logprob, model_logprob(&logits, 3));

    // Top-k counts among what the mask allows; the lone survivor is certain.
    let alone = SamplingParams::try_new(SamplingSettings { top_k: Some(1), ..Default::default() }).unwrap();
    row = SampleRow { params: &alone, mask: Some(&[0b10_0001]), ..row };
    let lone = sampler.sample(&logits, &row);
    assert_eq!((lone.token.id, lone.token.score.logprob, top(&lone)), (0, 0.0, vec![0]));
}

#[test]
fn a_large_vocabulary_is_cut_where_a_full_sort_cuts_it() {
    for seed in 0..6 {
        let mut rng = fastrand::Rng::with_seed(seed);
        // Flat and peaked rows, so that the cut falls into the first head, a later one and the tail.
        let scale = [0.1, 1.0, 12.0][seed as usize % 3];
        let logits: Vec<f32> = (0..20_000).map(|_| scale * (rng.f32() + rng.f32() + rng.f32())).collect();
        let with = SamplingSettings { top_p: Some(0.95), ..Default::default() };
        let found = sample(&mut Sampler::new(), &logits, with, &[], logits.len());

        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let mut mass = 0.0;
        let count = 1 + order
            .iter()
            .take_while(|&&id| {
                mass += f64::from(logits[id]).exp() / total;
                mass < f64::from(0.95f32)
            })
            .count();
        let difference = found.top.len().abs_diff(count);
        assert!(difference <= 1, "seed {seed}: {} tokens kept, a full sort keeps {count}", found.top.len());
    }
}

#[test]
fn the_watermark_lifts_half_of_the_vocabulary() {
    let logits = [0.0; 64];
    let with = SamplingSettings { watermark: true, ..Default::default() };
    let found = sample(&mut Sampler::new(), &logits, with, &[4, 7], 64);
    for (place, token) in found.top.iter().enumerate() {
        assert_eq!(sampling::watermark::is_green(7, token.id, 64), place < 32);
    }
    let lift = found.top[0].score.logprob - found.top[63].score.logprob;
    assert!((lift - sampling::watermark::DELTA).abs() < 1e-6);
}
