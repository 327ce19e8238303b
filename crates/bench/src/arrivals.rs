//! When requests are sent.

use crate::random::exponential;
use fastrand::Rng;
use std::time::Duration;

/// How requests arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// A closed loop: the next request is sent when one ends.
    Closed,
    /// At equal intervals.
    Constant {
        /// Requests per second.
        rate: f64,
    },
    /// A Poisson process: the intervals are independent and exponentially distributed.
    Poisson {
        /// Requests per second, on average.
        rate: f64,
    },
}

impl Arrivals {
    /// When each request is sent, counted from the start of the run: endless, and the same for the same seed.
    pub fn times(self, seed: u64) -> impl Iterator<Item = Duration> {
        let mut random = Rng::with_seed(seed);
        let mut now = 0.0;
        std::iter::from_fn(move || {
            let time = Duration::from_secs_f64(now);
            now += match self {
                Self::Closed => 0.0,
                Self::Constant { rate } => 1.0 / rate,
                Self::Poisson { rate } => exponential(&mut random) / rate,
            };
            Some(time)
        })
    }

    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Constant { .. } => "constant",
            Self::Poisson { .. } => "poisson",
        }
    }

    /// Requests per second; infinite in a closed loop.
    #[must_use]
    pub fn rate(self) -> f64 {
        match self {
            Self::Closed => f64::INFINITY,
            Self::Constant { rate } | Self::Poisson { rate } => rate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(arrivals: Arrivals, seed: u64, count: usize) -> Vec<f64> {
        arrivals.times(seed).take(count).map(|time| time.as_secs_f64()).collect()
    }

    #[test]
    fn constant_and_closed_arrivals_are_as_they_say() {
        assert_eq!(seconds(Arrivals::Constant { rate: 4.0 }, 1, 4), [0.0, 0.25, 0.5, 0.75]);
        assert_eq!(seconds(Arrivals::Closed, 1, 3), [0.0; 3]);
    }

    #[test]
    fn poisson_arrivals_have_their_rate_and_their_spread() {
        let times = seconds(Arrivals::Poisson { rate: 50.0 }, 7, 20_001);
        let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 0.02).abs() < 0.001, "{mean}");
        // The standard deviation of an exponential distribution is its mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{variance}");
        assert_eq!(times, seconds(Arrivals::Poisson { rate: 50.0 }, 7, 20_001));
        assert_ne!(times, seconds(Arrivals::Poisson { rate: 50.0 }, 8, 20_001));
    }
}
