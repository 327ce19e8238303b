//! The exponential function on vectors.

use super::simd::{EXP2_BIAS, Simd};

/// `eˣ` for `x ≤ 0`, within 1.5e-7 of its value; 0 below −87. Not a number stays so.
///
/// `eˣ = 2ⁿ·eʳ` with `n` the integer next to `x / ln 2` and `|r| ≤ ln 2 / 2`; `ln 2` is subtracted in two parts, of
/// which the first has so few bits that `n` times it is exact. The coefficients are a minimax fit of `(eʳ − 1 − r) /
/// r²`.
#[inline(always)]
pub fn exp<S: Simd>(simd: S, x: S::V) -> S::V {
    const LOWEST: f32 = -87.0;
    const COEFFICIENTS: [f32; 5] = [0.499_999_93, 0.166_665_2, 0.041_668_394, 0.008_368_781, 0.001_381_446_5];
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    // `max` gives its second argument where one is not a number; then so is all that follows.
    let inside = simd.max(simd.splat(LOWEST), x);
    let bias = simd.splat(EXP2_BIAS);
    let biased = simd.mul_add(inside, simd.splat(std::f32::consts::LOG2_E), bias);
    let n = simd.sub(biased, bias);
    let r = simd.mul_add(n, simd.splat(-LN_2_HIGH), inside);
    let r = simd.mul_add(n, simd.splat(-LN_2_LOW), r);
    let series = polynomial(simd, r, &COEFFICIENTS);
    let e = simd.mul_add(series, simd.mul(r, r), simd.add(r, simd.splat(1.0)));
    let e = simd.mul(e, simd.exp2(biased));
    simd.select_less(x, simd.splat(LOWEST), simd.splat(0.0), e)
}

/// `c[0] + c[1]·x + c[2]·x² …`.
#[inline(always)]
pub fn polynomial<S: Simd, const N: usize>(simd: S, x: S::V, coefficients: &[f32; N]) -> S::V {
    let mut sum = simd.splat(coefficients[N - 1]);
    for i in (0..N - 1).rev() {
        sum = simd.mul_add(sum, x, simd.splat(coefficients[i]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::kernels::simd::{Kernel, dispatch};

    struct Exp<'a>(&'a mut [f32]);

    impl Kernel for Exp<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            for vector in self.0.chunks_exact_mut(S::LANES) {
                simd.store(exp(simd, simd.load(vector)), vector);
            }
        }
    }

    #[test]
    fn error_is_within_its_bound() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.supported()) {
            let x: Vec<f32> = (0..870_000).map(|i| i as f32 * -1e-4).collect();
            let mut e = x.clone();
            dispatch(isa, Exp(&mut e));
            for (x, e) in x.into_iter().zip(e) {
                let exact = f64::from(x).exp();
                let error = (f64::from(e) / exact - 1.0).abs();
                assert!(error < 1.5e-7, "{isa}: exp({x}) is off by {error:e}");
            }
            let mut odd = [f32::MIN, f32::NAN, -87.5, -0.0, 0.0, -1e5, -100.0, -88.0].repeat(2);
            dispatch(isa, Exp(&mut odd));
            assert!(odd[1].is_nan());
            odd[1] = 0.0;
            assert_eq!(odd[..8], [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0], "{isa}");
        }
    }
}
