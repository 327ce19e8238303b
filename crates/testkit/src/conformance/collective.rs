//! What every collective must do. Ranks run on threads; `connect` gives their ends.

use super::assert_bits;
use super::random::Random;
use crate::on_threads;
use backend::{Collective, CollectiveError};
use std::time::Duration;

/// How a suite's collective is made, from the number of ranks and the time limit.
type Connect<'a, C> = &'a dyn Fn(usize, Duration) -> Vec<C>;

/// Longer than any machine takes.
const PATIENT: Duration = Duration::from_secs(60);
/// Elements: none, a few, a page, and more than any slot of shared memory takes.
const LENGTHS: [usize; 6] = [0, 1, 33, 1024, 14_848, 700_001];

/// Sums of 1 to 8 ranks are in rank order, to the bit, at every length.
pub fn sums<C: Collective>(connect: Connect<'_, C>) {
    let mut random = Random::new();
    for world in [1, 2, 3, 8] {
        let mut cases: Vec<(Vec<Vec<f32>>, Vec<f32>)> = Vec::new();
        for len in LENGTHS.into_iter().chain([5; 20]) {
            let parts: Vec<Vec<f32>> = (0..world).map(|_| random.values(len, 1.0)).collect();
            let mut sum = parts[0].clone();
            parts[1..].iter().for_each(|part| sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part));
            cases.push((parts, sum));
        }
        on_threads(connect(world, PATIENT), |rank, mut collective| {
            assert_eq!((collective.rank(), collective.world()), (rank, world));
            for (parts, sum) in &cases {
                let mut x = parts[rank].clone();
                collective.all_reduce(&mut x).expect("all_reduce");
                assert_bits("all_reduce", &x, sum);
            }
        });
    }
}

/// Gathers of ragged parts, some of them empty.
pub fn gathers<C: Collective>(connect: Connect<'_, C>) {
    let mut random = Random::new();
    for world in [1, 2, 3, 8] {
        let mut cases: Vec<Vec<Vec<f32>>> = Vec::new();
        for limit in [1, 2, 40, 5_000, 400_000] {
            let lengths: Vec<usize> = (0..world).map(|_| random.0.usize(..limit)).collect();
            cases.push(lengths.into_iter().map(|len| random.values(len, 1.0)).collect());
        }
        on_threads(connect(world, PATIENT), |rank, mut collective| {
            for parts in &cases {
                let counts: Vec<usize> = parts.iter().map(Vec::len).collect();
                let expected = parts.concat();
                let mut all = vec![f32::NAN; expected.len()];
                collective.all_gather(&parts[rank], &counts, &mut all).expect("all_gather");
                assert_bits("all_gather", &all, &expected);
            }
        });
    }
}

/// Ranks that do different things are told so.
pub fn mismatches<C: Collective>(connect: Connect<'_, C>) {
    let errors = on_threads(connect(2, PATIENT), |rank, mut collective| {
        collective.all_reduce(&mut [1.0; 5]).expect("all_reduce");
        collective.all_reduce(&mut vec![1.0; 5 + rank]).expect_err("ranks disagree on the length")
    });
    assert_told_of_mismatch(&errors);
    let errors = on_threads(connect(2, PATIENT), |rank, mut collective| match rank {
        0 => collective.all_reduce(&mut [1.0; 2]).expect_err("ranks disagree on the operation"),
        _ => collective.all_gather(&[1.0], &[1, 1], &mut [0.0; 2]).expect_err("ranks disagree on the operation"),
    });
    assert_told_of_mismatch(&errors);
}

/// One rank notices; the other does too, or learns that the first has left.
fn assert_told_of_mismatch(errors: &[CollectiveError]) {
    let mismatch = |error: &CollectiveError| matches!(error, CollectiveError::Mismatch { sequence: 1 | 2, .. });
    assert!(errors.iter().any(mismatch), "{errors:?}");
    assert!(errors.iter().all(|e| mismatch(e) || matches!(e, CollectiveError::Aborted { .. })), "{errors:?}");
}

/// The others do not wait for a rank that has left, long before the time limit; what it has done before counts.
pub fn a_rank_that_leaves<C: Collective>(connect: Connect<'_, C>) {
    for world in [2, 8] {
        on_threads(connect(world, PATIENT), |rank, mut collective| {
            let mut x = [1.0];
            collective.all_reduce(&mut x).expect("everybody is there");
            assert_eq!(x, [world as f32]);
            if rank != 1 {
                let error = collective.all_reduce(&mut x).expect_err("rank 1 has left");
                assert!(matches!(error, CollectiveError::Aborted { sequence: 2, .. }), "{error}");
                collective.all_reduce(&mut x).expect_err("rank 1 is still gone");
            }
        });
    }
}

/// A rank that does nothing is named when the time is over.
pub fn a_rank_that_stays_away<C: Collective>(connect: Connect<'_, C>) {
    let ends = connect(3, Duration::from_millis(200));
    let over = std::sync::Barrier::new(3);
    let errors = on_threads(ends, |rank, mut collective| {
        let error = (rank != 2).then(|| collective.all_reduce(&mut [1.0; 7]).expect_err("rank 2 stays away"));
        over.wait();
        error
    });
    let timeout = |error: &CollectiveError| {
        matches!(
            error,
            CollectiveError::Timeout { missing: 2, sequence: 1, limit_ms: 200, operation: "all_reduce", .. }
        )
    };
    let errors: Vec<CollectiveError> = errors.into_iter().flatten().collect();
    assert!(errors.iter().any(timeout), "{errors:?}");
    assert!(errors.iter().all(|e| timeout(e) || matches!(e, CollectiveError::Aborted { .. })), "{errors:?}");
}
