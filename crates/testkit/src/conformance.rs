//! The suite that every backend and every collective must pass.
//!
//! [`conformance_suite!`](crate::conformance_suite) makes one test of each operation for a backend, and
//! [`collective_suite!`](crate::collective_suite) for a collective. Backends are compared with [`Reference`] on random
//! inputs; what must be equal to the bit (a row alone and among others, a prompt in chunks and whole, any number of
//! threads) is compared with the backend itself.

mod attention;
mod collective;
mod layer;
mod operations;
mod random;
mod ranks;
mod sampling;

pub use attention::attend;
pub use collective::{a_rank_that_leaves, a_rank_that_stays_away, gathers, mismatches, sums};
pub use layer::{bits_depend_on_nothing_else, same_bits};
pub use operations::{embed, fused_operations, gelu, layer_norm, linear, select, select_norm_linear};
pub use ranks::{all_reduce, sample_or_score};
pub use sampling::sampling_parameters;

use backend::{Backend, Reference, SingleRank};

/// A backend under test.
pub struct Subject<B> {
    /// Given the number of ranks, how to make each of them, on the thread that will use it.
    pub ranks: Box<dyn Fn(usize) -> Vec<MakeRank<B>>>,
    /// How far a result may be from the reference's, relative to the sum of its terms' magnitudes.
    pub tolerance: f32,
}

/// Makes the backend of one rank.
pub type MakeRank<B> = Box<dyn FnOnce() -> B + Send>;

impl<B: Backend> Subject<B> {
    /// The only rank of a world of one.
    #[must_use]
    pub fn alone(&self) -> B {
        (self.ranks)(1).pop().expect("a world of one has a rank")()
    }
}

/// Makes a module with a test of each operation. `$subject` is an expression that gives a [`Subject`].
#[macro_export]
macro_rules! conformance_suite {
    ($name:ident, $subject:expr) => {
        mod $name {
            use super::*;

            $crate::conformance_suite!(@tests $subject; embed, layer_norm, linear, gelu, attend, select, all_reduce,
                sample_or_score, sampling_parameters, fused_operations, select_norm_linear, bits_depend_on_nothing_else);
        }
    };
    (@tests $subject:expr; $($test:ident),*) => {$(
        #[test]
        fn $test() {
            $crate::conformance::$test(&$subject);
        }
    )*};
}

/// Makes a module with the tests of a collective. `$connect` is a function of the number of ranks and the time limit
/// that gives the ranks' ends.
#[macro_export]
macro_rules! collective_suite {
    ($name:ident, $connect:expr) => {
        mod $name {
            use super::*;

            $crate::collective_suite!(@tests $connect; sums, gathers, mismatches, a_rank_that_leaves,
                a_rank_that_stays_away);
        }
    };
    (@tests $connect:expr; $($test:ident),*) => {$(
        #[test]
        fn $test() {
            $crate::conformance::$test(&$connect);
        }
    )*};
}

fn reference() -> Reference<SingleRank> {
    Reference::new(SingleRank)
}

/// Fails where a value is further from the expected one than `tolerance` times its `magnitude`.
fn assert_close(what: &str, got: &[f32], expected: &[f32], tolerance: f32, magnitude: impl Fn(usize) -> f32) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let bound = tolerance * magnitude(i);
        // Written so that a result that is not a number fails.
        assert!((got - expected).abs() <= bound, "{what}: element {i} is {got}, expected {expected} within {bound:e}");
    }
}

/// Fails where a bit differs.
fn assert_bits(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.to_bits(), expected.to_bits(), "{what}: element {i} is {got}, expected exactly {expected}");
    }
}
