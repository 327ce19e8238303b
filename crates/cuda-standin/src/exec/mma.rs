//! Matrix products of a warp.

use super::alu::of_f16;
use super::warp::Warp;
use crate::ptx::program::{HalfTy, Mma};

impl Warp {
    /// `mma.m16n8k16` or `mma.m16n8k8`, row.col, with the fragments as the PTX manual lays them out: lane `l` has rows
    /// `l / 4` and `l / 4 + 8`, and pairs of columns from `2 * (l % 4)`. Products are summed in f32 in the order of `k`.
    #[inline(always)]
    pub(super) fn mma(&mut self, it: &Mma) {
        let (mut a, mut b, mut d) = ([[0f32; 16]; 16], [[0f32; 8]; 16], [[0f32; 8]; 16]);
        let value = |bits: u32| match it.ty {
            HalfTy::Bf16 => f32::from_bits(bits << 16),
            HalfTy::F16 => of_f16(bits & 0xffff),
        };
        for (nth, row) in it.a[..it.k / 4].iter().enumerate() {
            let row = self.regs.row(*row);
            for q in 0..8 {
                for t in 0..4 {
                    let (a, pair) = (&mut a[q + 8 * (nth & 1)], row[4 * q + t]);
                    a[2 * t + 8 * (nth >> 1)] = value(pair);
                    a[2 * t + 8 * (nth >> 1) + 1] = value(pair >> 16);
                }
            }
        }
        for (nth, row) in it.b[..it.k / 8].iter().enumerate() {
            let row = self.regs.row(*row);
            for t in 0..4 {
                for q in 0..8 {
                    let pair = row[4 * q + t];
                    b[2 * t + 8 * nth][q] = value(pair);
                    b[2 * t + 8 * nth + 1][q] = value(pair >> 16);
                }
            }
        }
        let place = |nth: usize, lane: usize| (lane / 4 + 8 * (nth >> 1), 2 * (lane % 4) + (nth & 1));
        for (nth, row) in it.c.iter().enumerate() {
            let row = self.regs.row(*row);
            for lane in 0..32 {
                let (r, n) = place(nth, lane);
                d[r][n] = f32::from_bits(row[lane]);
            }
        }
        for r in 0..16 {
            let mut sums = d[r];
            for k in 0..it.k {
                for n in 0..8 {
                    sums[n] += a[r][k] * b[k][n];
                }
            }
            d[r] = sums;
        }
        for (nth, row) in it.d.iter().enumerate() {
            let row = self.regs.row_mut(*row);
            for lane in 0..32 {
                let (r, n) = place(nth, lane);
                row[lane] = d[r][n].to_bits();
            }
        }
    }
}
