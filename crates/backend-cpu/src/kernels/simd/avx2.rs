//! Eight lanes with AVX2 and FMA.

use super::{Kernel, Simd};
use half::bf16;
use std::arch::x86_64::*;

const LANES: usize = 8;

/// The proof that the CPU has AVX2 and FMA.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// On a CPU that has them.
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

macro_rules! arithmetic {
    ($($name:ident($($arg:ident),*) -> $result:ty { $($body:tt)* })*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: __m256),*) -> $result {
            // SAFETY: `self` proves that the CPU has the instructions.
            unsafe { $($body)* }
        }
    )*};
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = LANES;
    const REGISTERS: usize = 16;
    const PANEL_ROWS: usize = 4;

    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma")]
        fn run<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { run(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        let from = &from[..LANES];
        // SAFETY: the slice has as many elements as are read.
        unsafe { self.load_at(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_part(self, from: &[f32]) -> __m256 {
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load(&lanes)
    }

    #[inline(always)]
    fn store(self, v: __m256, to: &mut [f32]) {
        let to = &mut to[..LANES];
        // SAFETY: the slice has as many elements as are written.
        unsafe { self.store_at(v, to.as_mut_ptr()) }
    }

    #[inline(always)]
    unsafe fn load_at(self, from: *const f32) -> __m256 {
        // SAFETY: the caller's promise; `self` proves the instructions.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store_at(self, v: __m256, to: *mut f32) {
        // SAFETY: the caller's promise; `self` proves the instructions.
        unsafe { _mm256_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn widen_at(self, from: *const bf16) -> (__m256, __m256) {
        // SAFETY: the caller's promise; `self` proves the instructions.
        unsafe {
            let pairs = _mm256_loadu_si256(from.cast());
            // The bits of a bf16 are the upper half of an f32.
            let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(odd))
        }
    }

    #[inline(always)]
    fn unzip(self, low: __m256, high: __m256) -> (__m256, __m256) {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let in_order = |v| _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(v)));
            let (even, odd) =
                (_mm256_shuffle_ps::<0b10_00_10_00>(low, high), _mm256_shuffle_ps::<0b11_01_11_01>(low, high));
            (in_order(even), in_order(odd))
        }
    }

    #[inline(always)]
    fn sum_four(self, [a, b, c, d]: [__m256; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        // SAFETY: `self` proves the instructions, and there is room for four.
        unsafe {
            let halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            let four = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
            _mm_storeu_ps(sums.as_mut_ptr(), four);
        }
        sums
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
        add(a, b) -> __m256 { _mm256_add_ps(a, b) }
        sub(a, b) -> __m256 { _mm256_sub_ps(a, b) }
        mul(a, b) -> __m256 { _mm256_mul_ps(a, b) }
        mul_add(a, b, c) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        max(a, b) -> __m256 { _mm256_max_ps(a, b) }
        min(a, b) -> __m256 { _mm256_min_ps(a, b) }
        select_less(a, b, then, or) -> __m256 { _mm256_blendv_ps(or, then, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
        exp2(biased) -> __m256 { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(biased))) }
        sum(v) -> f32 {
            let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
        max_lane(v) -> f32 {
            let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
}
