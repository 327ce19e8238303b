//! Draws from distributions that `fastrand` does not have.

use fastrand::Rng;
use std::f64::consts::TAU;

/// Above 0, at most 1, so that its logarithm is finite.
fn uniform(random: &mut Rng) -> f64 {
    1.0 - random.f64()
}

/// Of an exponential distribution with mean 1, by inversion of its distribution function.
pub(crate) fn exponential(random: &mut Rng) -> f64 {
    -uniform(random).ln()
}

/// Of a normal distribution with mean 0 and standard deviation 1 (Box and Muller, 1958).
pub(crate) fn normal(random: &mut Rng) -> f64 {
    (-2.0 * uniform(random).ln()).sqrt() * (TAU * random.f64()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(draw: fn(&mut Rng) -> f64) -> (f64, f64) {
        let mut random = Rng::with_seed(5);
        let drawn: Vec<f64> = (0..20_000).map(|_| draw(&mut random)).collect();
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        let variance = drawn.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / drawn.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn draws_have_their_mean_and_deviation() {
        for (draw, mean) in [(exponential as fn(&mut Rng) -> f64, 1.0), (normal, 0.0)] {
            let (drawn_mean, deviation) = moments(draw);
            assert!((drawn_mean - mean).abs() < 0.03, "seed 5: {drawn_mean}");
            assert!((deviation - 1.0).abs() < 0.03, "seed 5: {deviation}");
        }
    }
}
