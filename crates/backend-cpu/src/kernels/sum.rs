//! Sums of vectors.

use super::simd::{Kernel, Simd};

/// `sum += term`, element by element.
pub struct AddTo<'a> {
    /// As long as `term`.
    pub sum: &'a mut [f32],
    /// What is added.
    pub term: &'a [f32],
}

impl Kernel for AddTo<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        assert_eq!(self.sum.len(), self.term.len(), "lengths of a sum");
        // Compilers vectorize this for the instruction set of the kernel.
        for (sum, term) in self.sum.iter_mut().zip(self.term) {
            *sum += term;
        }
    }
}
