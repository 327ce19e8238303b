//! Products on the CPU's matrix unit (AMX): tiles of bf16, sums in f32.
//!
//! * [`PackedWeights`]: a weight as tiles of 16 outputs and 32 columns, each a contiguous kilobyte: the left factor.
//! * [`Packed`] activations: the right factor, 32 columns of up to 16 rows, each f32 split into two bf16: its rounded value and
//!   the rest. Both are multiplied, so a product is within 2⁻¹⁸ of what f32 activations give.
//! * [`ProductTile`]: the product, and how it is blocked for the caches.
//!
//! Every sum takes, over ascending columns, first the rounded values and then the rests of 32 columns; how many rows and
//! outputs are beside it, and how the columns are blocked, changes no bit.
//!
//! The compiler's own functions for these instructions are not stable; assembly is. Each piece of it is whole: it takes
//! its sums from memory, and leaves no tile behind that anybody relies on.

mod activations;
mod assembly;
mod product;
mod transpose;
mod weights;

pub use activations::{Activations, CHUNK_COLUMNS, Input, Packed, Shape};
pub use product::{BLOCK_CHUNKS, Output, PANELS_OUTPUTS, ProductTile, SUMS_LEN, Term};
pub use weights::{PackedWeights, pack_panel, panel_len};

use super::simd::Avx512;
use assembly::Shaped;
use half::bf16;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows of a tile: outputs of a weight.
pub const TILE_ROWS: usize = 16;
/// Columns of a tile of bf16.
const TILE_COLUMNS: usize = 32;
/// Rows of activations that a tile holds at most.
pub const GROUP_ROWS: usize = 16;

/// Whether something else than the CPU executes instructions on tiles.
static ASSUMED: AtomicBool = AtomicBool::new(false);

/// From now on AVX-512 with bf16 is enough for [`Isa::Amx`](crate::Isa::Amx): for tests on CPUs without a matrix unit.
///
/// # Safety
///
/// This process can execute the instructions on tiles: whatever the CPU refuses, a handler of the signal executes.
pub unsafe fn assume_tiles() {
    ASSUMED.store(true, Ordering::Relaxed);
}

/// The proof that the CPU multiplies tiles of bf16, that the system lets this process do so, and that there is
/// AVX-512 with bf16 beside it.
#[derive(Clone, Copy)]
pub struct Amx(Avx512);

impl Amx {
    /// On a CPU that has it, in a process that may use it; in tests, also where [`assume_tiles`] was
    /// called.
    pub fn detect() -> Option<Self> {
        static PERMITTED: OnceLock<bool> = OnceLock::new();
        let avx512 = Avx512::detect().filter(|_| is_x86_feature_detected!("avx512bf16"))?;
        let permitted =
            *PERMITTED.get_or_init(|| has_tiles() && assembly::request_tiles()) || ASSUMED.load(Ordering::Relaxed);
        permitted.then_some(Self(avx512))
    }

    /// Operations of a product of whole tiles: a product and a sum are two.
    pub const PRODUCT_OPERATIONS: usize = 2 * TILE_ROWS * GROUP_ROWS * TILE_COLUMNS;

    /// So many products of whole tiles that stay where they are: the most that the unit can do.
    pub fn multiply_registers(self, products: usize) {
        // Ordinary numbers of both signs: zeros take less power, and let the clock run faster than it does for any model.
        let number = |i: usize| bf16::from_f32(((i * 7919) % 1009) as f32 / 1009.0 - 0.5);
        Shaped::new(self, GROUP_ROWS).multiply_registers(products, &std::array::from_fn(number));
    }
}

/// CPUID: tiles, and products of bf16 on them.
fn has_tiles() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    let wanted = AMX_BF16 | AMX_TILE;
    // SAFETY: AVX-512 was found, so the CPU has the instruction and its leaf 7.
    #[allow(unused_unsafe, reason = "older versions of the standard library call it unsafe")]
    let features = unsafe { __cpuid_count(7, 0) };
    features.edx & wanted == wanted
}
