//! The processors that vLLM and OpenAI define, one by one and in their order, by values computed by hand.

use std::sync::Arc;

use sampling::{SampleRow, Sampler};
use step::{SamplingParams, SamplingSettings, TokenBias};

/// A prompt of three tokens, behind which 5 came twice and 2 once. Token 1 is in the prompt alone.
const TOKENS: [u32; 6] = [1, 1, 5, 5, 2, 5];
const PROMPT: u32 = 3;

fn off() -> SamplingSettings {
    SamplingSettings::default()
}

fn biases(of: &[(u32, f32)]) -> Option<Arc<[TokenBias]>> {
    Some(of.iter().map(|&(id, bias)| TokenBias { id, bias }).collect())
}

/// What is left of `logits`: each token with its score, less that of the best, in the order of the ids.
fn processed(logits: &[f32], settings: SamplingSettings, mask: Option<&[u32]>) -> Vec<(u32, f32)> {
    let params = SamplingParams::try_new(settings).unwrap();
    let row =
        SampleRow { params: &params, position: 6, prompt_len: PROMPT, tokens: &TOKENS, mask, top_n: logits.len() };
    let found = Sampler::new().sample(logits, &row);
    assert_eq!(found.token, found.top[0], "a greedy choice is the best");
    let best = found.top[0].score.logprob;
    let mut left: Vec<_> = found.top.iter().map(|token| (token.id, token.score.logprob - best)).collect();
    left.sort_by_key(|token| token.0);
    left
}

#[track_caller]
fn assert_scores(found: &[(u32, f32)], expected: &[(u32, f32)]) {
    let near =
        |((id, score), (other, wanted)): (&(u32, f32), &(u32, f32))| id == other && (score - wanted).abs() < 1e-5;
    let same = found.len() == expected.len() && found.iter().zip(expected).all(near);
    assert!(same, "found {found:?}, expected {expected:?}");
}

#[test]
fn penalties_count_what_was_generated() {
    let logits = [0.0; 6];
    // Token 2: once. Token 5: twice, for its first occurrence is the prompt's.
    let found = processed(&logits, SamplingSettings { presence_penalty: 1.5, ..off() }, None);
    assert_scores(&found, &[(0, 0.0), (1, 0.0), (2, -1.5), (3, 0.0), (4, 0.0), (5, -1.5)]);
    let found = processed(&logits, SamplingSettings { frequency_penalty: 0.75, ..off() }, None);
    assert_scores(&found, &[(0, 0.0), (1, 0.0), (2, -0.75), (3, 0.0), (4, 0.0), (5, -1.5)]);
    // Both, of which one is a reward: 2 loses 0.5 - 2, and 5 loses 2 * 0.5 - 2.
    let both = SamplingSettings { frequency_penalty: 0.5, presence_penalty: -2.0, ..off() };
    assert_scores(&processed(&logits, both, None), &[(0, -1.5), (1, -1.5), (2, 0.0), (3, -1.5), (4, -1.5), (5, -0.5)]);
}

#[test]
fn the_relative_penalty_counts_the_prompt_too() {
    // Shares of 2/6, 1/6 and 3/6 of the tokens so far.
    let found = processed(&[0.0; 6], SamplingSettings { relative_frequency_penalty: 6.0, ..off() }, None);
    assert_scores(&found, &[(0, 0.0), (1, -2.0), (2, -1.0), (3, 0.0), (4, 0.0), (5, -3.0)]);
}

#[test]
fn penalties_come_behind_the_repetition_penalty() {
    // Token 5: 4 / 2 = 2, - 2 * 1 = 0, - 1 = -1. Token 2: -1 * 2 = -2, - 1 = -3, - 1 = -4. Token 1: 3 / 2.
    let logits = [0.0, 3.0, -1.0, 0.5, 0.0, 4.0];
    let all = SamplingSettings { repetition_penalty: 2.0, frequency_penalty: 1.0, presence_penalty: 1.0, ..off() };
    let expected = [(0, 0.0), (1, 1.5), (2, -4.0), (3, 0.5), (4, 0.0), (5, -1.0)].map(|(id, score)| (id, score - 1.5));
    assert_scores(&processed(&logits, all, None), &expected);
}

#[test]
fn biases_come_first() {
    let logits = [1.0, 2.0, 0.0, 0.0];
    // Token 9 is outside of the vocabulary.
    let bias = biases(&[(3, 4.0), (0, -100.0), (9, 1.0)]);
    let biased = SamplingSettings { logit_bias: bias, ..off() };
    assert_scores(&processed(&logits, biased, None), &[(0, -103.0), (1, -2.0), (2, -4.0), (3, 0.0)]);
    // Before the repetition penalty: token 1 is 2 - 3 = -1, times 2; behind it, it would be 2 / 2 - 3.
    let penalized = SamplingSettings { logit_bias: biases(&[(1, -3.0)]), repetition_penalty: 2.0, ..off() };
    let found = processed(&[0.0, 2.0, 0.0, 0.0, 0.0, 0.0], penalized, None);
    assert_scores(&found, &[(0, 0.0), (1, -2.0), (2, 0.0), (3, 0.0), (4, 0.0), (5, 0.0)]);
    // Before the temperature, which divides a bias, too.
    let cold = SamplingSettings { logit_bias: biases(&[(0, 3.0)]), temperature: 0.5, ..off() };
    assert_scores(&processed(&[0.0; 2], cold, None), &[(0, 0.0), (1, -6.0)]);
    // No bias brings back what a mask takes out.
    let masked = SamplingSettings { logit_bias: biases(&[(0, 100.0)]), ..off() };
    assert_scores(&processed(&logits, masked, Some(&[0b1110])), &[(1, 0.0), (2, -2.0), (3, -2.0)]);
}

#[test]
fn min_p_keeps_what_is_near_the_most_probable() {
    // Probabilities are as 1, 0.5, 0.25 and 0.125 to each other.
    let logits = [0.0, 0.5f32.ln(), 0.25f32.ln(), 0.125f32.ln()];
    let ids = |settings| processed(&logits, settings, None).iter().map(|token| token.0).collect::<Vec<_>>();
    let with = |min_p| SamplingSettings { min_p, ..off() };
    assert_eq!(ids(with(0.0)), [0, 1, 2, 3]);
    assert_eq!(ids(with(0.1)), [0, 1, 2, 3]);
    assert_eq!(ids(with(0.2)), [0, 1, 2]);
    assert_eq!(ids(with(0.3)), [0, 1]);
    assert_eq!(ids(with(1.0)), [0]);
    // Behind the temperature: at 0.5, they are as 1, 0.25, 0.0625 and 0.015625.
    assert_eq!(ids(SamplingSettings { temperature: 0.5, ..with(0.2) }), [0, 1]);
    // Behind penalties and biases: token 3 becomes the best.
    assert_eq!(ids(SamplingSettings { logit_bias: biases(&[(3, 10.0)]), ..with(0.1) }), [3]);
    // Before top-p, whose mass is of what min-p leaves: 1 and 0.5 of 1.5 are 0.667 and 1. Of all, 1 would be 0.53.
    assert_eq!(ids(SamplingSettings { top_p: Some(0.6), ..with(0.3) }), [0]);
    assert_eq!(ids(SamplingSettings { top_p: Some(0.6), ..off() }), [0, 1]);
    // Of equals, all stay.
    let settings = SamplingSettings { min_p: 1.0, ..off() };
    assert_eq!(processed(&[2.0, 1.0, 2.0, 2.0], settings, None).len(), 3);
}

#[test]
fn a_row_of_which_nothing_is_left_stays_so() {
    for settings in [SamplingSettings { min_p: 0.5, ..off() }, SamplingSettings { presence_penalty: 1.0, ..off() }] {
        let params = SamplingParams::try_new(settings).unwrap();
        let row =
            SampleRow { params: &params, position: 6, prompt_len: PROMPT, tokens: &TOKENS, mask: Some(&[0]), top_n: 2 };
        let found = Sampler::new().sample(&[1.0; 6], &row);
        assert_eq!((found.token.id, found.top.len()), (0, 0));
    }
}
