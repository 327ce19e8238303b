//! The seeded draw: a token is drawn as `argmax(score + gumbel)`, which is a draw from `softmax(score)`.
//!
//! Each token has a random number of its own, so that every vocabulary shard draws by itself, and the token does not
//! depend on the batch, the load, the tensor-parallel degree or a restart. A backend must reproduce this mapping:
//!
//! 1. Key: `k = seed + index` (wrapping, 64 bits); the key words are its lower and upper 32 bits. So sequence `index`
//!    of a request draws just as a request of its own with the seed `seed + index` does.
//! 2. Counter: `[position, token id, purpose, 0]`, where `position` is the index in the sequence of the token that is
//!    being chosen (the prompt's length for the first one), and `purpose` is [`PURPOSE_TOKEN`].
//! 3. Bits: `x` is word 0 of [`philox4x32_10`].
//! 4. Uniform in (0, 1): `u = (x + 0.5) / 2^32`, which is exact in f64 and never 0 or 1.
//! 5. Gumbel: `g = -ln(-ln(u))` in f64.
//! 6. The token with the largest `score + g` in f64 wins; the smallest id among equals.

use crate::philox::{high, low, philox4x32_10};
use crate::softmax::exp;

/// The purpose word of the counter for the draw of a token. Other uses of the seed take other numbers.
pub const PURPOSE_TOKEN: u32 = 0;

/// The random bits of one row, one word for each token of the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowBits {
    key: [u32; 2],
    position: u32,
}

impl RowBits {
    /// The bits of sequence `index` of a request with this `seed`, for the token at `position` of the sequence.
    #[must_use]
    pub fn new(seed: u64, index: u32, position: u32) -> Self {
        let key = seed.wrapping_add(u64::from(index));
        Self { key: [low(key), high(key)], position }
    }

    /// The uniform number of token `id`: within (0, 1), both ends excluded.
    #[must_use]
    #[inline]
    pub fn uniform(self, id: u32) -> f64 {
        let [bits, ..] = philox4x32_10([self.position, id, PURPOSE_TOKEN, 0], self.key);
        (f64::from(bits) + 0.5) / 4_294_967_296.0
    }

    /// The Gumbel number of token `id`: within about -3.2 ..= 22.9.
    #[must_use]
    pub fn gumbel(self, id: u32) -> f64 {
        gumbel(self.uniform(id))
    }
}

/// Draws a token: the id with the largest `score + gumbel`, where `max` is the largest of `scores`. Scores of -inf are
/// never drawn; id 0 where there is no other.
#[must_use]
pub fn draw(scores: &[f32], max: f32, bits: RowBits) -> u32 {
    let (mut winner, mut best) = (0, f64::NEG_INFINITY);
    // With w = exp(score - max) and c = exp(best - max), a token overtakes only where -ln(u) < w / c, and then
    // 1 - u < w / c, since 1 - u <= -ln(u). That spares nearly every token the logarithms. The slack is far above the
    // error of `exp`.
    let mut best_weight = 0.0;
    for (id, &score) in (0..).zip(scores) {
        if score == f32::NEG_INFINITY {
            continue;
        }
        let u = bits.uniform(id);
        if (1.0 - u) * best_weight > f64::from(exp(score - max)) * (1.0 + 1e-5) {
            continue;
        }
        let sum = f64::from(score) + gumbel(u);
        if sum > best {
            (winner, best, best_weight) = (id, sum, libm::exp(sum - f64::from(max)));
        }
    }
    winner
}

fn gumbel(u: f64) -> f64 {
    -libm::log(-libm::log(u))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::softmax::LogSoftmax;

    #[test]
    fn the_shortcut_changes_no_draw() {
        let mut rng = fastrand::Rng::with_seed(11);
        for position in 0..2_000 {
            let scale = 12.0 * rng.f32();
            let scores: Vec<f32> = (0..100).map(|_| scale * (rng.f32() - 0.5)).collect();
            let bits = RowBits::new(rng.u64(..), 0, position);
            let sum = |id: u32| f64::from(scores[id as usize]) + bits.gumbel(id);
            let plain = (0..100).reduce(|a, b| if sum(b) > sum(a) { b } else { a });
            assert_eq!(Some(draw(&scores, LogSoftmax::of(&scores).max(), bits)), plain, "position {position}, seed 11");
        }
    }

    #[test]
    fn the_mapping_stays_what_it_is() {
        let bits = RowBits::new(0x0123_4567_89ab_cdef, 1, 17);
        let words = philox4x32_10([17, 42, PURPOSE_TOKEN, 0], [0x89ab_cdf0, 0x0123_4567]);
        assert_eq!(bits.uniform(42), (f64::from(words[0]) + 0.5) / 2f64.powi(32));
        assert_eq!(bits.gumbel(42), -(-bits.uniform(42).ln()).ln());
        assert_eq!(RowBits::new(u64::MAX, 1, 0), RowBits::new(0, 0, 0));
        assert_eq!(RowBits::new(5, 2, 3), RowBits::new(7, 0, 3));
    }

    #[test]
    fn impossible_tokens_are_never_drawn() {
        let scores = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, -90.0];
        for position in 0..1_000 {
            assert_eq!(draw(&scores, 0.0, RowBits::new(3, 0, position)), 1);
        }
        assert_eq!(draw(&[f32::NEG_INFINITY; 3], f32::NEG_INFINITY, RowBits::new(3, 0, 0)), 0);
    }
}
