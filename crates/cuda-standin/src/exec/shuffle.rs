//! Values that cross lanes. The lanes of the mask have met when these are called; `m` is that mask.

use super::lanes_of;
use super::warp::Warp;
use crate::ptx::program::{Guard, Redux, Row, Shfl, ShflMode, VoteMode};

/// What a lane reads that asks for one which is not there.
const NOBODY: u32 = 0xffff_ffff;

impl Warp {
    #[inline(always)]
    pub(super) fn shuffle(&mut self, m: u32, it: &Shfl) {
        let (a, b, c) = (*self.regs.row(it.a), self.regs.row(it.b), self.regs.row(it.c));
        let (mut out, mut in_range) = (a, 0);
        for lane in lanes_of(m) {
            let (segment, clamp) = ((c[lane] >> 8 & 31) as usize, (c[lane] & 31) as usize);
            let (max, min) = (lane & segment | clamp & !segment, lane & segment);
            let by = (b[lane] & 31) as usize;
            let (from, ok) = match it.mode {
                ShflMode::Up => (lane.wrapping_sub(by), lane as isize - by as isize >= max as isize),
                ShflMode::Down => (lane + by, lane + by <= max),
                ShflMode::Bfly => (lane ^ by, lane ^ by <= max),
                ShflMode::Idx => (min | by & !segment, min | by & !segment <= max),
            };
            if ok {
                in_range |= 1 << lane;
                out[lane] = if m >> from & 1 == 1 { a[from] } else { NOBODY };
            }
        }
        self.regs.put(it.d, m, &out);
        if let Some(pred) = it.in_range {
            self.regs.put_pred(pred, m, in_range);
        }
    }

    pub(super) fn vote(&mut self, m: u32, mode: VoteMode, d: u32, p: Guard) {
        let holds = self.regs.pred(p) & m;
        let result = match mode {
            VoteMode::All => holds == m,
            VoteMode::Any => holds != 0,
            VoteMode::Uni => holds == m || holds == 0,
        };
        self.regs.put_pred(d, m, if result { u32::MAX } else { 0 });
    }

    pub(super) fn ballot(&mut self, m: u32, d: Row, p: Guard) {
        let holds = self.regs.pred(p) & m;
        self.regs.put(d, m, &[holds; 32]);
    }

    pub(super) fn match_any(&mut self, m: u32, d: Row, a: Row) {
        let a = *self.regs.row(a);
        let equal = |value: u32| lanes_of(m).filter(|lane| a[*lane] == value).fold(0, |mask, lane| mask | 1 << lane);
        self.regs.put(d, m, &a.map(equal));
    }

    pub(super) fn redux(&mut self, m: u32, f: Redux, d: Row, a: Row) {
        let a = self.regs.row(a);
        let values = lanes_of(m).map(|lane| a[lane]);
        let result = values.reduce(|a, b| match f {
            Redux::Add => a.wrapping_add(b),
            Redux::MinU => a.min(b),
            Redux::MinS => (a as i32).min(b as i32) as u32,
            Redux::MaxU => a.max(b),
            Redux::MaxS => (a as i32).max(b as i32) as u32,
            Redux::And => a & b,
            Redux::Or => a | b,
            Redux::Xor => a ^ b,
        });
        self.regs.put(d, m, &[result.unwrap_or(0); 32]);
    }
}
