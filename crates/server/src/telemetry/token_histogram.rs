//! A histogram that is told of every token: without a lock, where the registry's own have one.

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The first bound, in nanoseconds; each of the others is twice the one before.
const FIRST_NS: u64 = 500_000;
const BOUNDS: usize = 20;

/// Times, in buckets from half a millisecond to four minutes.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenHistogram(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The last is of times beyond all bounds.
    counts: [AtomicU64; BOUNDS + 1],
    sum_ns: AtomicU64,
}

impl TokenHistogram {
    pub(super) fn observe(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.counts[bucket(ns)].fetch_add(1, Ordering::Relaxed);
        self.0.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

/// The first bucket whose bound is not below the time.
fn bucket(ns: u64) -> usize {
    let whole = ns.saturating_sub(1) / FIRST_NS;
    ((u64::BITS - whole.leading_zeros()) as usize).min(BOUNDS)
}

/// The bound of a bucket, in seconds.
fn bound(bucket: usize) -> f64 {
    if bucket == BOUNDS { f64::INFINITY } else { (FIRST_NS << bucket) as f64 / 1e9 }
}

impl TypedMetric for TokenHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for TokenHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let counts = self.0.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = counts.enumerate().map(|(index, count)| (bound(index), count)).collect();
        let sum = self.0.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_that_holds_it() {
        for ns in (0..64).map(|bits| 1_u64 << bits).flat_map(|ns| [ns - 1, ns, ns + 1]).chain([500_000, 1_000_000]) {
            let seconds = ns as f64 / 1e9;
            let expected = (0..=BOUNDS).find(|&index| seconds <= bound(index)).expect("the last holds all");
            assert_eq!(bucket(ns), expected, "{ns} ns");
        }
    }
}
