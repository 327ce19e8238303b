//! Sixteen lanes with AVX-512.

use super::{Kernel, Simd};
use half::bf16;
use std::arch::x86_64::*;

const LANES: usize = 16;

/// The proof that the CPU has AVX-512 F, BW and VL.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// On a CPU that has them.
    pub fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        all.then_some(Self(()))
    }
}

macro_rules! arithmetic {
    ($($name:ident($($arg:ident),*) -> $result:ty { $($body:tt)* })*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: __m512),*) -> $result {
            // SAFETY: `self` proves that the CPU has the instructions.
            unsafe { $($body)* }
        }
    )*};
}

/// The lanes below `len`.
#[inline(always)]
fn below(len: usize) -> __mmask16 {
    assert!(len < LANES, "less than a vector");
    (1 << len) - 1
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = LANES;
    const REGISTERS: usize = 32;
    const PANEL_ROWS: usize = 8;

    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        fn run<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { run(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        let from = &from[..LANES];
        // SAFETY: the slice has as many elements as are read.
        unsafe { self.load_at(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_part(self, from: &[f32]) -> __m512 {
        // SAFETY: lanes outside of the mask are not read; `self` proves the instructions.
        unsafe { _mm512_maskz_loadu_ps(below(from.len()), from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32]) {
        let to = &mut to[..LANES];
        // SAFETY: the slice has as many elements as are written.
        unsafe { self.store_at(v, to.as_mut_ptr()) }
    }

    #[inline(always)]
    unsafe fn load_at(self, from: *const f32) -> __m512 {
        // SAFETY: the caller's promise; `self` proves the instructions.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store_at(self, v: __m512, to: *mut f32) {
        // SAFETY: the caller's promise; `self` proves the instructions.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn widen_at(self, from: *const bf16) -> (__m512, __m512) {
        // SAFETY: the caller's promise; `self` proves the instructions.
        unsafe { widen(_mm512_loadu_si512(from.cast())) }
    }

    #[inline(always)]
    fn unzip(self, low: __m512, high: __m512) -> (__m512, __m512) {
        // SAFETY: `self` proves the instructions.
        unsafe { unzip(low, high) }
    }

    #[inline(always)]
    fn sum_four(self, v: [__m512; 4]) -> [f32; 4] {
        // SAFETY: `self` proves the instructions.
        unsafe { sum_four(v) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const bf16) {
        // SAFETY: a prefetch reads nothing and faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    fn prefetch_far(self, at: *const bf16) {
        // SAFETY: a prefetch reads nothing and faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    arithmetic! {
        add(a, b) -> __m512 { _mm512_add_ps(a, b) }
        sub(a, b) -> __m512 { _mm512_sub_ps(a, b) }
        mul(a, b) -> __m512 { _mm512_mul_ps(a, b) }
        mul_add(a, b, c) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        max(a, b) -> __m512 { _mm512_max_ps(a, b) }
        min(a, b) -> __m512 { _mm512_min_ps(a, b) }
        select_less(a, b, then, or) -> __m512 {
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), or, then)
        }
        exp2(biased) -> __m512 { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(biased))) }
        sum(v) -> f32 { _mm512_reduce_add_ps(v) }
        max_lane(v) -> f32 { _mm512_reduce_max_ps(v) }
    }
}

/// The bits of a bf16 are the upper half of an f32.
#[target_feature(enable = "avx512f")]
#[inline]
fn widen(pairs: __m512i) -> (__m512, __m512) {
    let (even, odd) =
        (_mm512_slli_epi32::<16>(pairs), _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32)));
    (_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn unzip(low: __m512, high: __m512) -> (__m512, __m512) {
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    (_mm512_permutex2var_ps(low, even, high), _mm512_permutex2var_ps(low, odd, high))
}

/// Adds pairs of lanes within each quarter until one lane of it is left for each vector, then the quarters.
#[target_feature(enable = "avx512f")]
#[inline]
fn sum_four([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    let pairs = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let (ab, cd) = (_mm512_castps_pd(pairs(a, b)), _mm512_castps_pd(pairs(c, d)));
    let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
    let quarters = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    let upper = _mm512_castpd_ps(_mm512_castpd256_pd512(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(quarters))));
    let halves = _mm512_castps512_ps256(_mm512_add_ps(quarters, upper));
    let four = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
    let mut sums = [0.0; 4];
    // SAFETY: there is room for four.
    unsafe { _mm_storeu_ps(sums.as_mut_ptr(), four) };
    sums
}
