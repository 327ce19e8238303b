//! Vectors of f32, once for each instruction set, so that a kernel is written once for all of them.
//!
//! A value of a [`Simd`] type is the proof that the CPU has the instructions: it can only be had from the type's
//! `detect`. That makes arithmetic safe; what reads through pointers stays unsafe.

mod avx2;
mod avx512;
mod plain;

use crate::Isa;
use half::bf16;

pub use avx2::Avx2;
pub use avx512::Avx512;
pub use plain::Plain;

/// Vectors of [`Simd::LANES`] f32. Every method is inlined into the kernel, which [`Simd::vectorize`] compiles for the
/// instruction set.
pub trait Simd: Copy + Sync {
    /// A vector.
    type V: Copy;
    /// Elements of a vector; divides 16.
    const LANES: usize;
    /// How many vectors the registers hold.
    const REGISTERS: usize;
    /// How many rows of activations a product computes together, and queries attention, at most: from 1 to 8.
    const PANEL_ROWS: usize;

    /// Runs a kernel, compiled for this instruction set.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// The first lanes' worth of elements. Panics if there are fewer.
    fn load(self, from: &[f32]) -> Self::V;
    /// All elements of a slice that is shorter than a vector; 0 in the other lanes.
    fn load_part(self, from: &[f32]) -> Self::V;
    /// As [`Simd::widen_at`] of a slice that is shorter than two vectors, and zeros behind it.
    fn widen_part(self, from: &[bf16]) -> (Self::V, Self::V) {
        let mut lanes = [bf16::ZERO; 32];
        lanes[..from.len()].copy_from_slice(from);
        // SAFETY: there are as many elements as two vectors have lanes.
        unsafe { self.widen_at(lanes.as_ptr()) }
    }
    /// To the first lanes' worth of elements. Panics if there are fewer.
    fn store(self, v: Self::V, to: &mut [f32]);
    /// The first `to.len()` lanes.
    fn store_part(self, v: Self::V, to: &mut [f32]) {
        let mut lanes = [0.0; 16];
        self.store(v, &mut lanes);
        to.copy_from_slice(&lanes[..to.len()]);
    }
    /// Loads a vector.
    ///
    /// # Safety
    ///
    /// [`Simd::LANES`] elements can be read at `from`, which need not be aligned.
    unsafe fn load_at(self, from: *const f32) -> Self::V;
    /// Stores a vector.
    ///
    /// # Safety
    ///
    /// [`Simd::LANES`] elements can be written at `to`, which need not be aligned.
    unsafe fn store_at(self, v: Self::V, to: *mut f32);
    /// Loads two vectors' worth of bf16 and widens them: those at even places, and those at odd ones.
    ///
    /// # Safety
    ///
    /// `2 * LANES` elements can be read at `from`, which need not be aligned.
    unsafe fn widen_at(self, from: *const bf16) -> (Self::V, Self::V);
    /// Of two vectors that follow each other, the elements at even places, and those at odd ones.
    fn unzip(self, low: Self::V, high: Self::V) -> (Self::V, Self::V);
    /// Asks for the cache line at any address, mapped or not.
    fn prefetch(self, at: *const bf16);
    /// Asks for it in the second-level cache.
    fn prefetch_far(self, at: *const bf16);

    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a − b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once where the instruction set can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where one is not a number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where one is not a number.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// In lanes where `a < b` what `then` has, else what `or` has.
    fn select_less(self, a: Self::V, b: Self::V, then: Self::V, or: Self::V) -> Self::V;
    /// `2ⁿ` of integers `n` from −126 to 127, each given as `n +` [`EXP2_BIAS`].
    fn exp2(self, biased: Self::V) -> Self::V;
    /// The sum of the lanes, in an order that is always the same.
    fn sum(self, v: Self::V) -> f32;
    /// The sum of the lanes of each, in an order that is always the same, but not that of [`Simd::sum`].
    fn sum_four(self, v: [Self::V; 4]) -> [f32; 4];
    /// The largest lane.
    fn max_lane(self, v: Self::V) -> f32;
}

/// Added to a number of magnitude below 2²², it rounds it to an integer `n`, and leaves in the sum's last bits the exponent
/// of `2ⁿ` as an f32 has it, which is `n + 127`.
pub const EXP2_BIAS: f32 = 12_582_912.0 + 127.0;

/// Something to run with vectors. `run` must be `#[inline(always)]`, and so must be what it calls in its loops.
pub trait Kernel {
    /// What it gives.
    type Output;
    /// Runs it.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs a kernel with the vectors of `isa`.
///
/// # Panics
///
/// If the CPU lacks them.
pub fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    const CHECKED: &str = "the backend was made only where the CPU supports its instruction set";
    match isa {
        Isa::Plain => Plain.vectorize(kernel),
        Isa::Avx2 => Avx2::detect().expect(CHECKED).vectorize(kernel),
        Isa::Avx512 | Isa::Amx => Avx512::detect().expect(CHECKED).vectorize(kernel),
    }
}
