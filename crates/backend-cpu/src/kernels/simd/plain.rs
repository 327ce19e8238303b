//! Eight lanes in plain Rust, which compilers turn into whatever vectors the target has.

use super::{Kernel, Simd};
use half::bf16;

const LANES: usize = 8;

/// Any CPU.
#[derive(Clone, Copy)]
pub struct Plain;

#[inline(always)]
fn lanes(mut lane: impl FnMut(usize) -> f32) -> [f32; LANES] {
    let mut v = [0.0; LANES];
    for i in 0..LANES {
        v[i] = lane(i);
    }
    v
}

#[inline(always)]
fn widen(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

impl Simd for Plain {
    type V = [f32; LANES];
    const LANES: usize = LANES;
    const REGISTERS: usize = 16;
    const PANEL_ROWS: usize = 4;

    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::V {
        from[..LANES].try_into().expect("as many elements as lanes")
    }

    #[inline(always)]
    fn load_part(self, from: &[f32]) -> Self::V {
        lanes(|i| from.get(i).copied().unwrap_or(0.0))
    }

    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32]) {
        to[..LANES].copy_from_slice(&v);
    }

    #[inline(always)]
    unsafe fn load_at(self, from: *const f32) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[f32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_at(self, v: Self::V, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn widen_at(self, from: *const bf16) -> (Self::V, Self::V) {
        // SAFETY: the caller's promise.
        let pairs = unsafe { from.cast::<[[bf16; 2]; LANES]>().read_unaligned() };
        (lanes(|i| widen(pairs[i][0])), lanes(|i| widen(pairs[i][1])))
    }

    #[inline(always)]
    fn unzip(self, low: Self::V, high: Self::V) -> (Self::V, Self::V) {
        let at = |i: usize| if i < LANES { low[i] } else { high[i - LANES] };
        (lanes(|i| at(2 * i)), lanes(|i| at(2 * i + 1)))
    }

    #[inline(always)]
    fn sum_four(self, v: [Self::V; 4]) -> [f32; 4] {
        v.map(|v| self.sum(v))
    }

    #[inline(always)]
    fn prefetch(self, _at: *const bf16) {}

    #[inline(always)]
    fn prefetch_far(self, _at: *const bf16) {}

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `f32::mul_add`, which is a call to a library where the target has no such instruction.
        lanes(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn select_less(self, a: Self::V, b: Self::V, then: Self::V, or: Self::V) -> Self::V {
        lanes(|i| if a[i] < b[i] { then[i] } else { or[i] })
    }

    #[inline(always)]
    fn exp2(self, biased: Self::V) -> Self::V {
        lanes(|i| f32::from_bits(biased[i].to_bits() << 23))
    }

    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }

    #[inline(always)]
    fn max_lane(self, v: Self::V) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
