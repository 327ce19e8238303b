//! The logits processors. Each changes a row of scores in place; -inf takes a token out.

use step::{SamplingSettings, TokenBias};

use crate::philox::{high, low};
use crate::softmax::{LogSoftmax, exp, max};
use crate::watermark::{DELTA, GreenList};

/// A smaller temperature is taken for this one, at which a lead of 1e-4 decides every draw.
pub const TEMPERATURE_MIN: f32 = 1e-6;

/// Extreme settings must not make infinities of finite scores: their difference would be no number. A masked token stays
/// masked.
fn finite(score: f32) -> f32 {
    if score == f32::NEG_INFINITY { score } else { score.clamp(f32::MIN, f32::MAX) }
}

/// Applies the processors that `settings` turn on, in the order that [`crate::Sampler::sample`] gives.
#[derive(Debug, Default)]
pub(crate) struct Processors {
    /// Times that each token occurs; all zero between rows.
    counts: Vec<u32>,
    /// Candidates of a filter, as `rank` has them.
    ranked: Vec<u64>,
    /// Scores, for the selection of the k-th largest.
    selection: Vec<f32>,
}

impl Processors {
    /// Whether all of them are off, so that scores stay as they are.
    pub(crate) fn are_off(settings: &SamplingSettings) -> bool {
        let SamplingSettings {
            choice: _,
            temperature,
            top_k,
            top_p,
            typical_p,
            min_p,
            repetition_penalty,
            relative_frequency_penalty,
            presence_penalty,
            frequency_penalty,
            ref logit_bias,
            watermark,
        } = *settings;
        let filters_off = top_k.is_none() && top_p.is_none() && typical_p.is_none() && min_p == 0.0;
        let penalties = [relative_frequency_penalty, presence_penalty, frequency_penalty];
        let penalties_off = repetition_penalty == 1.0 && penalties == [0.0; 3];
        filters_off && penalties_off && temperature == 1.0 && logit_bias.is_none() && !watermark
    }

    /// `scores`: one for each token of the vocabulary. `tokens`: prompt and generated tokens so far, of which the first
    /// `prompt_len` are the prompt.
    pub(crate) fn apply(&mut self, scores: &mut [f32], settings: &SamplingSettings, tokens: &[u32], prompt_len: usize) {
        add_biases(scores, settings.logit_bias.as_deref().unwrap_or_default());
        if let (true, Some(&previous)) = (settings.watermark, tokens.last()) {
            favour_green(scores, previous);
        }
        self.penalize(scores, settings.repetition_penalty, settings.relative_frequency_penalty, tokens);
        let generated = tokens.get(prompt_len..).unwrap_or_default();
        self.penalize_generated(scores, settings.frequency_penalty, settings.presence_penalty, generated);
        if settings.temperature != 1.0 {
            let temperature = settings.temperature.max(TEMPERATURE_MIN);
            scores.iter_mut().for_each(|score| *score = finite(*score / temperature));
        }
        keep_min_p(scores, settings.min_p);
        if let Some(k) = settings.top_k {
            self.keep_top_k(scores, k as usize);
        }
        if let Some(mass) = settings.top_p {
            self.keep_top_p(scores, mass);
        }
        if let Some(mass) = settings.typical_p {
            self.keep_typical(scores, mass);
        }
    }

    /// Penalizes each token once, however often it occurs: `repetition` divides its score (multiplies a negative one);
    /// then it loses `frequency` times the share that it has of `tokens`.
    fn penalize(&mut self, scores: &mut [f32], repetition: f32, frequency: f32, tokens: &[u32]) {
        if repetition == 1.0 && frequency == 0.0 {
            return;
        }
        self.for_each_count(scores, tokens, |score, count| {
            let score = if score < 0.0 { score * repetition } else { score / repetition };
            finite(finite(score) - frequency * (count as f32 / tokens.len() as f32))
        });
    }

    /// Takes `frequency` times the count of a token in `generated` from its score, then `presence`.
    fn penalize_generated(&mut self, scores: &mut [f32], frequency: f32, presence: f32, generated: &[u32]) {
        if frequency == 0.0 && presence == 0.0 {
            return;
        }
        self.for_each_count(scores, generated, |score, count| {
            finite(finite(score - frequency * count as f32) - presence)
        });
    }

    /// Replaces the score of each token that is in `tokens`, by what it is and how often the token occurs.
    fn for_each_count(&mut self, scores: &mut [f32], tokens: &[u32], penalized: impl Fn(f32, u32) -> f32) {
        self.counts.resize(scores.len(), 0);
        for &id in tokens {
            self.counts[id as usize] += 1;
        }
        for &id in tokens {
            // Taking the count leaves the zero that the next row needs, and makes a later occurrence a no-op.
            let count = std::mem::take(&mut self.counts[id as usize]);
            if count > 0 {
                let score = &mut scores[id as usize];
                *score = penalized(*score, count);
            }
        }
    }

    /// Drops every score below the `k`-th largest, so ties of it stay.
    fn keep_top_k(&mut self, scores: &mut [f32], k: usize) {
        if k >= scores.len() {
            return;
        }
        self.selection.clear();
        self.selection.extend_from_slice(scores);
        let (_, &mut least, _) = self.selection.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        drop_where(scores, |score| score < least);
    }

    /// Keeps the smallest set of most probable tokens whose mass reaches `mass`; of equals those with smaller ids.
    fn keep_top_p(&mut self, scores: &mut [f32], mass: f32) {
        let softmax = LogSoftmax::of(scores);
        self.rank_survivors(scores, |score| -score);
        let kept = reach(&mut self.ranked, f64::from(mass) * softmax.sum(), |id| softmax.weight(scores[id]));
        for &dropped in &self.ranked[kept..] {
            scores[id_of(dropped)] = f32::NEG_INFINITY;
        }
    }

    /// Keeps the tokens whose information is nearest to the entropy, up to the one at which their mass reaches `mass`,
    /// and its equals ("Locally typical sampling", TACL 2023).
    fn keep_typical(&mut self, scores: &mut [f32], mass: f32) {
        let softmax = LogSoftmax::of(scores);
        let survivors = scores.iter().filter(|&&score| score > f32::NEG_INFINITY);
        // Of p ln p, with p = weight / sum; the sum is in the order of the ids.
        let negative_entropy: f64 =
            survivors.map(|&score| softmax.weight(score) * f64::from(softmax.logprob(score))).sum::<f64>()
                / softmax.sum();
        self.rank_survivors(scores, |score| (f64::from(softmax.logprob(score)) - negative_entropy).abs() as f32);
        let kept = reach(&mut self.ranked, f64::from(mass) * softmax.sum(), |id| softmax.weight(scores[id]));
        let Some(last) = kept.checked_sub(1) else { return };
        let farthest = key_of(self.ranked[last]);
        for &entry in self.ranked[kept..].iter().filter(|&&entry| key_of(entry) > farthest) {
            scores[id_of(entry)] = f32::NEG_INFINITY;
        }
    }

    fn rank_survivors(&mut self, scores: &[f32], key: impl Fn(f32) -> f32) {
        self.ranked.clear();
        let survivors = (0..).zip(scores).filter(|&(_, &score)| score > f32::NEG_INFINITY);
        self.ranked.extend(survivors.map(|(id, &score)| rank(key(score), id)));
    }
}

/// Takes out the tokens that `mask` does not allow: bit `i % 32` of word `i / 32` allows token `i`.
pub(crate) fn apply_mask(scores: &mut [f32], mask: &[u32]) {
    assert!(mask.len() * 32 >= scores.len(), "a mask of {} words for {} tokens", mask.len(), scores.len());
    for (scores, &word) in scores.chunks_mut(32).zip(mask) {
        for (bit, score) in scores.iter_mut().enumerate() {
            if (word >> bit) & 1 == 0 {
                *score = f32::NEG_INFINITY;
            }
        }
    }
}

/// Packs `key` and `id` into a number whose order is that of the keys, then that of the ids.
pub(crate) fn rank(key: f32, id: u32) -> u64 {
    // Adding 0 makes -0 equal to 0. The bits of floats order like integers, once those of negative ones are inverted.
    let bits = (key + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    (u64::from(ordered) << 32) | u64::from(id)
}

/// The id within a `rank`.
pub(crate) fn id_of(rank: u64) -> usize {
    low(rank) as usize
}

fn key_of(rank: u64) -> u32 {
    high(rank)
}

/// Ids outside of the vocabulary have no score.
fn add_biases(scores: &mut [f32], biases: &[TokenBias]) {
    for by in biases {
        if let Some(score) = scores.get_mut(by.id as usize) {
            *score += by.bias;
        }
    }
}

/// Drops the tokens that are less than `min_p` times as probable as the most probable one. A probability is to the largest
/// as `exp(score - max)` is to 1, whatever their sum.
fn keep_min_p(scores: &mut [f32], min_p: f32) {
    if min_p > 0.0 {
        let max = max(scores);
        drop_where(scores, |score| exp(score - max) < min_p);
    }
}

fn favour_green(scores: &mut [f32], previous: u32) {
    let list = GreenList::new(previous, scores.len() as u32);
    for (id, score) in (0..).zip(scores) {
        *score += if list.contains(id) { DELTA } else { 0.0 };
    }
}

fn drop_where(scores: &mut [f32], dropped: impl Fn(f32) -> bool) {
    for score in scores {
        *score = if dropped(*score) { f32::NEG_INFINITY } else { *score };
    }
}

/// How many of `ranked`, lowest first, it takes until their weights add up to `target`; those are moved to the front,
/// in order. All of them where the target is not reached.
///
/// The head that it takes is short as a rule, so the rest is never sorted: sorted heads grow eightfold until one does.
fn reach(ranked: &mut [u64], target: f64, weight: impl Fn(usize) -> f64) -> usize {
    let (mut sorted, mut head, mut sum) = (0, 128, 0.0);
    while sorted < ranked.len() {
        let end = ranked.len().min(sorted + head);
        let tail = &mut ranked[sorted..];
        if end - sorted < tail.len() {
            tail.select_nth_unstable(end - sorted);
        }
        tail[..end - sorted].sort_unstable();
        for index in sorted..end {
            sum += weight(id_of(ranked[index]));
            if sum >= target {
                return index + 1;
            }
        }
        (sorted, head) = (end, head * 8);
    }
    ranked.len()
}
