//! Atomic operations.

use super::access::{read_bytes, write_bytes};
use super::checks::{check_global, check_window, classes, fault, minus};
use super::{by_width, put};
use crate::exec::alu::halves;
use crate::exec::launch::Context;
use crate::exec::warp::Warp;
use crate::exec::{FaultKind, Faulted, lanes_of};
use crate::ptx::program::{Atomic, MemSpace, Rmw, Row};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

impl Warp {
    pub(in crate::exec) fn atomic(&mut self, cx: &mut Context<'_>, pc: usize, m: u32, it: &Atomic) -> Faulted<()> {
        let at = self.addresses(&it.address);
        cx.polls += u32::from(it.d.is_some());
        let parts = match it.address.space {
            MemSpace::Generic => classes(&at, m),
            space => [(space, m, 0), (space, 0, 0), (space, 0, 0)],
        };
        for (space, m, window) in parts.into_iter().filter(|(_, m, _)| *m != 0) {
            let at = minus(&at, window);
            let mut old = [0; 32];
            match space {
                MemSpace::Shared => {
                    check_window("shared", &at, m, it.bytes, cx.shared.len())?;
                    cx.count(|counters| counters.shared(&at, m, it.bytes));
                }
                MemSpace::Global => {
                    check_global(cx, pc, &at, m, it.bytes)?;
                    cx.count(|counters| counters.read_and_write(&at, m, it.bytes));
                }
                _ => {
                    return fault(
                        FaultKind::Address,
                        m.trailing_zeros() as usize,
                        "an atomic on local memory".to_owned(),
                    );
                }
            }
            let operand = |row: Row, lane: usize| -> u64 {
                if it.bytes == 8 { self.regs.wide(row)[lane] } else { self.regs.row(row)[lane].into() }
            };
            for lane in lanes_of(m) {
                let (b, c) = (operand(it.b, lane), operand(it.c, lane));
                let change = |old| rmw(it.f, it.bytes, old, b, c);
                old[lane] = if space == MemSpace::Shared {
                    let at = at[lane] as usize;
                    let old = by_width!(it.bytes, read_bytes(cx.shared, at));
                    by_width!(it.bytes, write_bytes(cx.shared, at, change(old)));
                    old
                } else {
                    // SAFETY: `check_global` has found the element in an allocation, and aligned.
                    unsafe { update_global(at[lane], it.bytes, change) }
                };
            }
            if let Some(d) = it.d {
                put(&mut self.regs, d, m, &old, it.bytes == 8);
            }
        }
        Ok(())
    }
}

/// Gives the old value.
///
/// # Safety
///
/// `at` is aligned to `bytes`, and the bytes are mapped while the kernel runs.
unsafe fn update_global(at: u64, bytes: usize, change: impl Fn(u64) -> u64) -> u64 {
    // SAFETY: of the caller.
    unsafe {
        match bytes {
            2 => AtomicU16::from_ptr(at as *mut u16)
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(change(old.into()) as u16))
                .map_or(0, u64::from),
            4 => AtomicU32::from_ptr(at as *mut u32)
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(change(old.into()) as u32))
                .map_or(0, u64::from),
            _ => AtomicU64::from_ptr(at as *mut u64)
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(change(old)))
                .unwrap_or(0),
        }
    }
}

/// What an atomic operation writes.
fn rmw(f: Rmw, bytes: usize, old: u64, b: u64, c: u64) -> u64 {
    let signed = |bits: u64| if bytes == 8 { bits as i64 } else { i64::from(bits as u32 as i32) };
    let f32_of = |bits: u64| f32::from_bits(bits as u32);
    match f {
        Rmw::AddInt => old.wrapping_add(b),
        Rmw::AddF32 => (f32_of(old) + f32_of(b)).to_bits().into(),
        Rmw::AddF64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        Rmw::AddHalf2(ty) => halves(ty, [old as u32, b as u32, 0], |[a, b, _]| a + b).into(),
        Rmw::AddHalf(ty) => (halves(ty, [old as u32, b as u32, 0], |[a, b, _]| a + b) & 0xffff).into(),
        Rmw::MinU => old.min(b),
        Rmw::MaxU => old.max(b),
        Rmw::MinS => {
            if signed(b) < signed(old) {
                b
            } else {
                old
            }
        }
        Rmw::MaxS => {
            if signed(b) > signed(old) {
                b
            } else {
                old
            }
        }
        Rmw::And => old & b,
        Rmw::Or => old | b,
        Rmw::Xor => old ^ b,
        Rmw::Exch => b,
        Rmw::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
        Rmw::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        Rmw::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}
