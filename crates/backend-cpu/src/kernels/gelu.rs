//! The GELU of the error function.

use super::exp::{exp, polynomial};
use super::simd::{Kernel, Simd};

/// `x = x/2 · (1 + erf(x / √2))`, within 2e-7 or one part in 5 million, whichever is more.
///
/// With `t = |x| / √2`: for small `t`, `erf(t) = t + t·P(t²)`; else `erfc(t) = exp(−R(t))`, and
/// `gelu(x) = max(x, 0) − |x|/2 · erfc(t)`, which cancels nowhere. `P` and `R` are minimax fits.
pub struct Gelu<'a> {
    /// Elements, in place.
    pub x: &'a mut [f32],
}

impl Kernel for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut vectors = self.x.chunks_exact_mut(S::LANES);
        for vector in &mut vectors {
            simd.store(gelu(simd, simd.load(vector)), vector);
        }
        let rest = vectors.into_remainder();
        if !rest.is_empty() {
            simd.store_part(gelu(simd, simd.load_part(rest)), rest);
        }
    }
}

/// The GELU of some elements.
#[inline(always)]
pub fn gelu<S: Simd>(simd: S, x: S::V) -> S::V {
    const SMALL: f32 = 0.94;
    const P: [f32; 6] = [0.128_378_81, -0.376_118_6, 0.112_780_98, -0.026_673_12, 0.004_887_817_4, -0.000_555_303_6];
    const R: [f32; 7] =
        [3.130_805_6e-4, 1.127_178_7, 0.638_039_2, 0.103_161_77, -0.021_847_333, 0.002_945_886_8, -1.858_043_6e-4];
    /// From here on `erfc` is below 3e-17, and nothing beside `x`.
    const LARGE: f32 = 6.0;

    let (zero, sqrt_half) = (simd.splat(0.0), simd.splat(std::f32::consts::FRAC_1_SQRT_2));
    let half = simd.mul(x, simd.splat(0.5));
    let z = simd.mul(x, sqrt_half);
    let erf = simd.mul_add(z, polynomial(simd, simd.mul(z, z), &P), z);
    let small = simd.mul_add(half, erf, half);

    let magnitude = simd.max(x, simd.sub(zero, x));
    let t = simd.mul(magnitude, sqrt_half);
    let erfc = exp(simd, simd.sub(zero, polynomial(simd, simd.min(t, simd.splat(LARGE)), &R)));
    // Bounded, so that infinity does not meet 0.
    let half_magnitude = simd.mul(simd.min(magnitude, simd.splat(16.0)), simd.splat(0.5));
    let large = simd.sub(simd.max(x, zero), simd.mul(half_magnitude, erfc));
    // Not a number is not above `SMALL`, and the small branch keeps it.
    simd.select_less(simd.splat(SMALL), t, large, small)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::kernels::simd::dispatch;

    #[test]
    fn error_is_within_its_bound() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.supported()) {
            let x: Vec<f32> = (-1_000_000..1_000_003).map(|i| i as f32 * 1e-5).collect();
            let mut y = x.clone();
            dispatch(isa, Gelu { x: &mut y });
            for (x, y) in x.into_iter().zip(y) {
                let wide = f64::from(x);
                let exact = wide / 2.0 * (1.0 + libm::erf(wide / std::f64::consts::SQRT_2));
                let error = (f64::from(y) - exact).abs();
                assert!(error < 2e-7 * exact.abs().max(1.0), "{isa}: gelu({x}) is off by {error:e}");
            }
        }
    }
}
