//! The watermark of "A Watermark for Large Language Models" (ICML 2023), with gamma 0.5 and delta 2.
//!
//! The token before the one that is being chosen selects half of the vocabulary, whose logits gain [`DELTA`]. A text
//! written so has far more tokens of their favoured halves than chance gives, which [`detect`] measures without the
//! model.
//!
//! The generator is our own, so that every backend has the same one and a thread can ask about one token alone. It is a
//! permutation of the ids keyed by `k = 15485863 * previous token` (wrapping, 64 bits): an id is favoured, "green", if
//! its permuted place is below `vocab / 2`, so exactly that many are. The permutation is a Feistel network of four
//! rounds over `2h` bits, `h` the smallest number with `4^h >= vocab`; while the result is outside of the vocabulary it
//! is permuted again, which in Falcon's happens to 1 id in 128. Round `r` maps the halves `(left, right)` to
//! `(right, left ^ (mix(right ^ key_r) mod 2^h))`, where `key_r = (r even: lower word of k; odd: its upper word) +
//! (r + 1) * 0x9E3779B9` and `mix` is the 32-bit finalizer of MurmurHash3.

use std::collections::HashSet;

use crate::philox::{high, low};

/// What a green token's logit gains.
pub const DELTA: f32 = 2.0;

const HASH_KEY: u64 = 15_485_863;
const ROUNDS: u32 = 4;

/// Whether `id` is favoured after the token `previous`, in a vocabulary of `vocab` tokens. Exactly `vocab / 2` are.
///
/// # Panics
///
/// If `id` is not below `vocab`: a permutation cycle that starts outside of the vocabulary need not enter it.
#[must_use]
pub fn is_green(previous: u32, id: u32, vocab: u32) -> bool {
    GreenList::new(previous, vocab).contains(id)
}

/// The half of the vocabulary that one token selects for its successor.
#[derive(Clone, Copy, Debug)]
pub struct GreenList {
    keys: [u32; ROUNDS as usize],
    half_bits: u32,
    vocab: u32,
}

impl GreenList {
    /// The favoured tokens after `previous`, in a vocabulary of `vocab` tokens.
    #[must_use]
    pub fn new(previous: u32, vocab: u32) -> Self {
        let key = HASH_KEY.wrapping_mul(u64::from(previous));
        let round_key = |round: u32| {
            let word = if round.is_multiple_of(2) { low(key) } else { high(key) };
            word.wrapping_add((round + 1).wrapping_mul(0x9E37_79B9))
        };
        let bits = u32::BITS - vocab.saturating_sub(1).leading_zeros();
        Self { keys: std::array::from_fn(|round| round_key(round as u32)), half_bits: bits.div_ceil(2), vocab }
    }

    /// Whether it has `id`.
    ///
    /// # Panics
    ///
    /// If `id` is not below the vocabulary's size.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        assert!(id < self.vocab, "token {id} is outside of the vocabulary of {}", self.vocab);
        let mut place = self.permute(id);
        while place >= self.vocab {
            place = self.permute(place);
        }
        place < self.vocab / 2
    }

    fn permute(&self, place: u32) -> u32 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (place >> self.half_bits, place & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        (left << self.half_bits) | right
    }
}

/// What [`detect`] found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Different pairs of neighbouring tokens; the watermark says the same of a pair each time, so it counts once.
    pub scored: usize,
    /// Pairs whose second token is green.
    pub green: usize,
    /// Standard deviations by which `green` exceeds what unmarked text is expected to have; 0 where nothing is scored.
    pub z_score: f64,
    /// The chance that unmarked text has a `z_score` as large: one-sided, by the normal distribution.
    pub p_value: f64,
}

/// Looks for the watermark in the `tokens` of a text, in a vocabulary of `vocab` tokens.
///
/// # Panics
///
/// If a token is not below `vocab`.
#[must_use]
pub fn detect(tokens: &[u32], vocab: u32) -> Detection {
    let pairs: HashSet<(u32, u32)> = tokens.windows(2).map(|pair| (pair[0], pair[1])).collect();
    let green = pairs.iter().filter(|&&(previous, id)| is_green(previous, id, vocab)).count();
    let share = f64::from(vocab / 2) / f64::from(vocab);
    let deviation = (pairs.len() as f64 * share * (1.0 - share)).sqrt();
    let z_score = if deviation > 0.0 { (green as f64 - pairs.len() as f64 * share) / deviation } else { 0.0 };
    let p_value = 0.5 * libm::erfc(z_score / std::f64::consts::SQRT_2);
    Detection { scored: pairs.len(), green, z_score, p_value }
}

fn mix(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
    x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FALCON: u32 = 65_024;

    #[test]
    fn exactly_half_is_green() {
        for vocab in [1, 2, 3, 16, 17, 1_023, 1_024, 1_025, 3_072, FALCON] {
            for previous in [0, 1, 11, 4_242, 65_023] {
                let list = GreenList::new(previous, vocab);
                let green = (0..vocab).filter(|&id| list.contains(id)).count();
                assert_eq!(green, vocab as usize / 2, "after {previous} of {vocab}");
            }
        }
    }

    /// Neighbouring keys and neighbouring ids must not select alike: all the agreements are those of fair coins.
    #[test]
    fn lists_are_independent() {
        let lists: Vec<GreenList> = (0..200).map(|previous| GreenList::new(previous, FALCON)).collect();
        let agree = |a: &dyn Fn(u32) -> bool, b: &dyn Fn(u32) -> bool| {
            let same = (0..20_000).filter(|&id| a(id) == b(id)).count() as f64;
            (same - 10_000.0) / 5_000f64.sqrt()
        };
        let mut squares = 0.0;
        for pair in lists.windows(2) {
            let z = agree(&|id| pair[0].contains(id), &|id| pair[1].contains(id));
            let neighbours = agree(&|id| pair[0].contains(id), &|id| pair[0].contains(id + 1));
            assert!(z.abs() < 5.0 && neighbours.abs() < 5.0, "{z} and {neighbours} deviations");
            squares += z * z / 199.0;
        }
        assert!((0.6..1.5).contains(&squares), "variance of the agreement: {squares}");
    }

    /// A known answer, so that a change of the generator does not go unseen: text that was marked stays detectable.
    #[test]
    fn the_generator_stays_what_it_is() {
        let bits = |previous| (0..16).map(|id| u32::from(is_green(previous, id, FALCON)) << id).sum::<u32>();
        assert_eq!([bits(0), bits(1), bits(65_023)], [38_508, 11_761, 35_974]);
    }

    #[test]
    fn detection() {
        for seed in 0..20 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let plain: Vec<u32> = (0..300).map(|_| rng.u32(..FALCON)).collect();
            let found = detect(&plain, FALCON);
            assert!(found.z_score.abs() < 4.0 && found.p_value > 1e-5, "seed {seed}: {found:?}");

            // Two draws for each token, a green one preferred: 3 in 4 are green.
            let mut marked = vec![7];
            for _ in 0..300 {
                let (a, b) = (rng.u32(..FALCON), rng.u32(..FALCON));
                marked.push(if is_green(marked[marked.len() - 1], a, FALCON) { a } else { b });
            }
            let found = detect(&marked, FALCON);
            assert!(found.z_score > 5.0 && found.p_value < 1e-6, "seed {seed}: {found:?}");
        }
    }

    #[test]
    fn repeated_pairs_count_once() {
        assert_eq!(detect(&[5, 9, 5, 9, 5, 9], FALCON).scored, 2);
        assert_eq!(detect(&[5], FALCON), Detection { scored: 0, green: 0, z_score: 0.0, p_value: 0.5 });
        let green = (0..).find(|&id| is_green(5, id, FALCON)).unwrap();
        let one = detect(&[5, green], FALCON);
        assert_eq!((one.scored, one.green, one.z_score), (1, 1, 1.0));
        assert!((one.p_value - 0.158_655_253_931).abs() < 1e-11);
    }
}
