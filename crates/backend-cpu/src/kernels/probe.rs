//! What kernels are measured against.

use super::simd::{Kernel, Simd};
use half::bf16;

/// Reads memory as fast as one thread can; gives a sum, so that nothing is left out.
pub struct ReadAll<'a>(pub &'a [f32]);

/// Independent sums, so that no addition waits for another.
const SUMS: usize = 8;
/// How far ahead is asked for, in elements.
const AHEAD: usize = 1024;

impl Kernel for ReadAll<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let mut sums = [simd.splat(0.0); SUMS];
        for part in self.0.chunks_exact(SUMS * S::LANES) {
            for line in (0..part.len()).step_by(16) {
                simd.prefetch(part.as_ptr().wrapping_add(AHEAD + line).cast::<bf16>());
            }
            for (sum, vector) in sums.iter_mut().zip(part.chunks_exact(S::LANES)) {
                *sum = simd.add(*sum, simd.load(vector));
            }
        }
        sums.into_iter().map(|sum| simd.sum(sum)).sum()
    }
}
