//! The instructions themselves.

use super::{Amx, TILE_ROWS};
use half::bf16;
use std::arch::asm;
use std::marker::PhantomData;

/// Bytes of a tile of weights.
pub const TILE_BYTES: usize = 1024;

/// Asks the system for the tiles' state, which it saves only for processes that asked. The answer holds for all threads.
pub fn request_tiles() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: a system call that takes two numbers and writes no memory of ours. It destroys rcx and r11.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

/// This thread's tiles, shaped for products with [`Shaped::width`] rows of activations; given back when dropped, so
/// that a thread which does something else has no tiles to be saved.
pub struct Shaped {
    width: usize,
    /// It belongs to the thread.
    of_thread: PhantomData<*const ()>,
}

/// The loop of [`Shaped::two_by_two`]. Lines of the next panels are asked for in eight places.
macro_rules! multiply_two_by_two {
    ([$a:ident $b:ident $steps:ident $next:ident $sums:ident $lines:expr]
        [$first:expr] [$second:expr] [$third:expr] [$fourth:expr]) => {
        asm!(
            "tileloadd tmm0, [{sums0} + {line}]",
            "tileloadd tmm1, [{sums1} + {line}]",
            "tileloadd tmm2, [{sums0} + {line} + 1024]",
            "tileloadd tmm3, [{sums1} + {line} + 1024]",
            "2:",
            "tileloadd tmm4, [{a0} + {line}]",
            "tileloadd tmm6, [{b0} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {line}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            $first,
            "tileloadd tmm5, [{a1} + {line}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            $second,
            "tdpbf16ps tmm3, tmm5, tmm7",
            "prefetcht1 [{next1}]",
            "prefetcht1 [{next1} + 64]",
            "tileloadd tmm6, [{b0} + {line} + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            $third,
            "tileloadd tmm7, [{b1} + {line} + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "prefetcht1 [{next1} + 128]",
            "prefetcht1 [{next1} + 192]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            $fourth,
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, 1024",
            "add {a1}, 1024",
            "add {b0}, 2048",
            "add {b1}, 2048",
            "add {next0}, {ahead}",
            "add {next1}, 256",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums0} + {line}], tmm0",
            "tilestored [{sums1} + {line}], tmm1",
            "tilestored [{sums0} + {line} + 1024], tmm2",
            "tilestored [{sums1} + {line} + 1024], tmm3",
            a0 = inout(reg) $a[0] => _, a1 = inout(reg) $a[1] => _,
            b0 = inout(reg) $b[0] => _, b1 = inout(reg) $b[1] => _,
            steps = inout(reg) $steps => _, ahead = const 64 * $lines,
            next0 = inout(reg) $next[0] => _, next1 = inout(reg) $next[1] => _,
            sums0 = in(reg) $sums[0], sums1 = in(reg) $sums[1], line = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// Tiles 0 to 3 hold sums, 4 and 5 weights, 6 and 7 activations.
#[repr(C, align(64))]
struct Shapes([u8; 64]);

impl Shaped {
    /// For `width` rows of activations at a time.
    pub fn new(_: Amx, width: usize) -> Self {
        assert!((1..=super::GROUP_ROWS).contains(&width), "{width} rows of a tile");
        let mut shapes = Shapes([0; 64]);
        shapes.0[0] = 1;
        for tile in 0..8 {
            let bytes = if matches!(tile, 4 | 5) { 64 } else { 4 * width };
            shapes.0[16 + 2 * tile] = bytes as u8;
            shapes.0[48 + tile] = TILE_ROWS as u8;
        }
        // SAFETY: `Amx` proves the instruction and the permission. It reads 64 bytes: palette 1, and for each of its
        // eight tiles at most 16 rows of at most 64 bytes.
        unsafe { asm!("ldtilecfg [{0}]", in(reg) shapes.0.as_ptr(), options(nostack, readonly)) };
        Self { width, of_thread: PhantomData }
    }

    /// Rows of activations.
    pub fn width(&self) -> usize {
        self.width
    }

    /// At least so many products of a tile with itself, none of which waits for another.
    pub fn multiply_registers(&self, products: usize, tile: &[bf16; TILE_BYTES / 2]) {
        // SAFETY: the tiles are shaped for this, and a tile has a kilobyte at most.
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "tileloadd tmm4, [{tile} + {line}]",
                "tileloadd tmm6, [{tile} + {line}]",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm4, tmm6",
                "tdpbf16ps tmm3, tmm4, tmm6",
                "sub {rounds}, 1",
                "ja 2b",
                rounds = inout(reg) products.div_ceil(4).max(1) => _,
                tile = in(reg) tile.as_ptr(), line = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm6") _,
                options(nostack, readonly),
            );
        }
    }

    /// Four panels of weights by one group of activations, over `steps` tiles of columns: `sums[i] += a[i] · b`.
    /// Panels are asked for `ahead` bytes before they are needed; the address need not exist.
    ///
    /// # Safety
    ///
    /// `a[i]` has `steps` tiles; `b` has `steps` pairs of tiles of `16 · width` u32; `sums` has four tiles of
    /// `16 · width` f32.
    pub unsafe fn four_by_one(&self, a: [*const u8; 4], b: *const u8, steps: usize, ahead: usize, sums: *mut f32) {
        if steps == 0 {
            return;
        }
        macro_rules! prefetch {
            ($($line:literal)*) => {
                concat!($(
                    "prefetcht0 [{a0} + {ahead} + ", $line, "]\n",
                    "prefetcht0 [{a1} + {ahead} + ", $line, "]\n",
                    "prefetcht0 [{a2} + {ahead} + ", $line, "]\n",
                    "prefetcht0 [{a3} + {ahead} + ", $line, "]\n",
                )*)
            };
        }
        // SAFETY: the tiles are shaped for this. Every load and store stays, by the caller's promise, within `steps`
        // tiles of each panel, `2 · steps` tiles of activations and four tiles of sums: all pointers move by what was
        // loaded, `steps` times. A prefetch faults nowhere.
        unsafe {
            asm!(
                "mov {at}, {sums}",
                "tileloadd tmm0, [{at} + {row}]",
                "add {at}, {tile}",
                "tileloadd tmm1, [{at} + {row}]",
                "add {at}, {tile}",
                "tileloadd tmm2, [{at} + {row}]",
                "add {at}, {tile}",
                "tileloadd tmm3, [{at} + {row}]",
                "2:",
                "tileloadd tmm6, [{b} + {row}]",
                "add {b}, {tile}",
                "tileloadd tmm7, [{b} + {row}]",
                "add {b}, {tile}",
                prefetch!(0 64 128 192),
                "tileloadd tmm4, [{a0} + {line}]",
                "tileloadd tmm5, [{a1} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm5, tmm6",
                prefetch!(256 320 384 448),
                "tdpbf16ps tmm0, tmm4, tmm7",
                "tdpbf16ps tmm1, tmm5, tmm7",
                prefetch!(512 576 640 704),
                "tileloadd tmm4, [{a2} + {line}]",
                "tileloadd tmm5, [{a3} + {line}]",
                "tdpbf16ps tmm2, tmm4, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm6",
                prefetch!(768 832 896 960),
                "tdpbf16ps tmm2, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 1024", "add {a1}, 1024", "add {a2}, 1024", "add {a3}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{at} + {row}], tmm3",
                "sub {at}, {tile}",
                "tilestored [{at} + {row}], tmm2",
                "sub {at}, {tile}",
                "tilestored [{at} + {row}], tmm1",
                "tilestored [{sums} + {row}], tmm0",
                a0 = inout(reg) a[0] => _, a1 = inout(reg) a[1] => _,
                a2 = inout(reg) a[2] => _, a3 = inout(reg) a[3] => _,
                b = inout(reg) b => _, steps = inout(reg) steps => _,
                sums = in(reg) sums, at = out(reg) _, ahead = in(reg) ahead, line = in(reg) 64usize,
                row = in(reg) 4 * self.width, tile = in(reg) 4 * TILE_ROWS * self.width,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// Two panels of weights by two groups of 16 rows of activations, over `steps` tiles of columns: `sums[g][i] +=
    /// a[i] · b[g]`. Each step asks for what comes `next`, which need not exist: [`next_lines`] of panels for this many
    /// `pairs` of groups, and [`NEXT_BYTES`] of groups.
    ///
    /// # Safety
    ///
    /// The width is 16; `a[i]` has `steps` tiles; `b[g]` has `steps` pairs of tiles; `sums[g]` has two tiles.
    pub unsafe fn two_by_two(
        &self,
        a: [*const u8; 2],
        b: [*const u8; 2],
        steps: usize,
        (pairs, next): (usize, [*const u8; 2]),
        sums: [*mut f32; 2],
    ) {
        if steps == 0 {
            return;
        }
        macro_rules! prefetch {
            ($($line:literal)*) => { concat!($("prefetcht1 [{next0} + 64 * ", $line, "]\n",)*) };
        }
        // SAFETY: as in `four_by_one`, with two panels, two groups and two times two tiles of sums.
        unsafe {
            match next_lines(pairs) {
                4 => multiply_two_by_two!([a b steps next sums 4]
                    [prefetch!(0)] [prefetch!(1)] [prefetch!(2)] [prefetch!(3)]),
                8 => multiply_two_by_two!([a b steps next sums 8]
                    [prefetch!(0 1)] [prefetch!(2 3)] [prefetch!(4 5)] [prefetch!(6 7)]),
                16 => multiply_two_by_two!([a b steps next sums 16]
                    [prefetch!(0 1 2 3)] [prefetch!(4 5 6 7)] [prefetch!(8 9 10 11)] [prefetch!(12 13 14 15)]),
                _ => multiply_two_by_two!([a b steps next sums 32]
                    [prefetch!(0 1 2 3 4 5 6 7)] [prefetch!(8 9 10 11 12 13 14 15)]
                    [prefetch!(16 17 18 19 20 21 22 23)] [prefetch!(24 25 26 27 28 29 30 31)]),
            }
        }
    }
}

/// Cache lines of the next two panels for which a step asks where so many pairs of groups share that: together at least the
/// 32 lines of two tiles.
pub fn next_lines(pairs: usize) -> usize {
    match pairs {
        8.. => 4,
        4..8 => 8,
        2..4 => 16,
        _ => 32,
    }
}

/// Bytes of the next groups for which a step of [`Shaped::two_by_two`] asks.
pub const NEXT_BYTES: usize = 256;

impl Drop for Shaped {
    fn drop(&mut self) {
        // SAFETY: the tiles were shaped, on this thread, by an instruction that proves this one.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
