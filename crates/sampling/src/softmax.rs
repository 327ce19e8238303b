//! The exponential, its sum over a row and the log-probabilities.
//!
//! All is plain IEEE arithmetic in a fixed order, without fused multiply-adds, so it gives the same bits on any
//! CPU, and loops over it vectorize.

const LANES: usize = 16;

/// `e^x` for `x <= 0`, within 2 units in the last place; 0 below -87, where f32 has no normal numbers left.
///
/// Splits `x` into `n ln 2 + r` with `|r| <= ln 2 / 2` and takes a polynomial of degree 5 (Cephes, `expf.c`).
#[must_use]
#[inline]
pub fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first so short that its product with n is exact.
    let r = x - n * (355.0 / 512.0) + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    let two_to_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < -87.0 { 0.0 } else { y * two_to_n }
}

/// The normalizer of a row of scores, which turns a score into its log-probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogSoftmax {
    max: f32,
    sum: f64,
    ln_sum: f64,
}

impl LogSoftmax {
    /// Reads `scores` (one for each token of the vocabulary; -inf where a token is out of the question) twice: for the
    /// largest, and for the sum of the exponentials of their distance to it.
    #[must_use]
    pub fn of(scores: &[f32]) -> Self {
        let max = max(scores);
        let sum = sum_exp(scores, max);
        Self { max, sum, ln_sum: libm::log(sum) }
    }

    /// The largest score; -inf in an empty row.
    #[must_use]
    pub fn max(&self) -> f32 {
        self.max
    }

    /// The sum of [`LogSoftmax::weight`] over the row.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// `exp(score - max)`: what `score` adds to the sum.
    #[must_use]
    #[inline]
    pub fn weight(&self, score: f32) -> f64 {
        f64::from(exp(score - self.max))
    }

    /// Natural logarithm of the probability of a token that has this `score`.
    #[must_use]
    pub fn logprob(&self, score: f32) -> f32 {
        (f64::from(score - self.max) - self.ln_sum) as f32
    }
}

/// The first index at which `scores` is largest, given that largest score; 0 where there is none.
#[must_use]
pub(crate) fn argmax(scores: &[f32], max: f32) -> u32 {
    scores.iter().position(|&score| score == max).unwrap_or(0) as u32
}

/// The largest score; -inf in an empty row. Scores that are no numbers do not count.
pub(crate) fn max(scores: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = larger(lanes[lane], chunk[lane]);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// Lane `i % 16` adds up element `i`, in order and in f64; then the lanes are added up in order.
fn sum_exp(scores: &[f32], max: f32) -> f64 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        let weights: [f32; LANES] = std::array::from_fn(|lane| exp(chunk[lane] - max));
        for lane in 0..LANES {
            lanes[lane] += f64::from(weights[lane]);
        }
    }
    for (lane, &score) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(exp(score - max));
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        for step in 0..=870_000 {
            let x = -1e-4 * step as f32;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 1.5e-7 || x < -87.0, "exp({x}): relative error {error:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
    }

    #[test]
    fn log_softmax_of_any_length() {
        for len in [1, 2, 15, 16, 17, 31, 1_000] {
            let mut rng = fastrand::Rng::with_seed(len);
            let scores: Vec<f32> = (0..len).map(|_| 20.0 * rng.f32() - 30.0).collect();
            let softmax = LogSoftmax::of(&scores);
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = scores.iter().map(|&score| f64::from(score).exp()).sum();
            assert_eq!(softmax.max(), largest);
            assert_eq!(scores[argmax(&scores, largest) as usize], largest);
            for &score in &scores {
                let exact = f64::from(score) - sum.ln();
                assert!((f64::from(softmax.logprob(score)) - exact).abs() < 2e-6, "length and seed {len}");
            }
        }
    }

    #[test]
    fn the_lone_survivor_is_certain() {
        let softmax = LogSoftmax::of(&[f32::NEG_INFINITY, -7.25, f32::NEG_INFINITY]);
        assert_eq!(softmax.logprob(-7.25).to_bits(), 0.0f32.to_bits());
        assert_eq!(softmax.logprob(f32::NEG_INFINITY), f32::NEG_INFINITY);
    }
}
