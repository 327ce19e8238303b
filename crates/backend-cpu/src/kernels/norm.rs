//! Layer normalization.

use super::simd::{Kernel, Simd};

/// `y = (x − mean) / √(variance + eps) · scale + bias` for one row, in two passes: the mean, then the variance about
/// it.
pub struct LayerNorm<'a> {
    /// A row.
    pub x: &'a [f32],
    /// As long as `x`.
    pub scale: &'a [f32],
    /// As long as `x`.
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
    /// As long as `x`.
    pub y: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, scale, bias, eps, y } = self;
        let len = x.len();
        assert!(len == scale.len() && len == bias.len() && len == y.len(), "lengths of a norm");
        let whole = len / S::LANES * S::LANES;

        let moments = moments(simd, x, eps);
        let Moments { mean, factor } = moments;
        for i in (0..whole).step_by(S::LANES) {
            let (x, scale, bias) = (simd.load(&x[i..]), simd.load(&scale[i..]), simd.load(&bias[i..]));
            simd.store(moments.normal(simd, x, scale, bias), &mut y[i..]);
        }
        for i in whole..len {
            y[i] = (x[i] - mean) * factor * scale[i] + bias[i];
        }
    }
}

/// What a row is normalized by.
#[derive(Clone, Copy, Default)]
pub struct Moments {
    /// Its mean.
    pub mean: f32,
    /// `1 / √(variance + eps)`.
    pub factor: f32,
}

impl Moments {
    /// Some elements, normalized.
    #[inline(always)]
    pub fn normal<S: Simd>(self, simd: S, x: S::V, scale: S::V, bias: S::V) -> S::V {
        let normal = simd.mul(simd.sub(x, simd.splat(self.mean)), simd.splat(self.factor));
        simd.mul_add(normal, scale, bias)
    }
}

/// The moments of a row.
#[inline(always)]
pub fn moments<S: Simd>(simd: S, x: &[f32], eps: f32) -> Moments {
    let whole = x.len() / S::LANES * S::LANES;
    let mut sum = simd.splat(0.0);
    for i in (0..whole).step_by(S::LANES) {
        sum = simd.add(sum, simd.load(&x[i..]));
    }
    let mean = (simd.sum(sum) + x[whole..].iter().sum::<f32>()) / x.len() as f32;

    let means = simd.splat(mean);
    let mut squares = simd.splat(0.0);
    for i in (0..whole).step_by(S::LANES) {
        let difference = simd.sub(simd.load(&x[i..]), means);
        squares = simd.mul_add(difference, difference, squares);
    }
    let rest: f32 = x[whole..].iter().map(|x| (x - mean) * (x - mean)).sum();
    let variance = (simd.sum(squares) + rest) / x.len() as f32;
    Moments { mean, factor: 1.0 / (variance + eps).sqrt() }
}
