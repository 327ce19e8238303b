//! Loads, stores and `ldmatrix`.

mod access;
mod atomics;
mod checks;
mod copies;

pub(super) use copies::PendingCopies;

use super::address::SHARED_WINDOW;
use super::lanes::Registers;
use super::launch::Context;
use super::warp::Warp;
use super::{FaultKind, Faulted, lanes_of};
use crate::ptx::program::{Address, Elements, Extend, MemSpace, Row};
use access::{read_bytes, read_global, write_bytes, write_global};
use checks::{check_global, check_window, classes, fault, minus};
use std::sync::atomic::Ordering;

/// Addresses of all lanes; those of lanes that are not active mean nothing.
type Addresses = [u64; 32];

/// `f` with the width of an element as a constant.
macro_rules! by_width {
    ($bytes:expr, $call:ident $arguments:tt) => {
        match $bytes {
            1 => by_width!(@ 1, $call $arguments),
            2 => by_width!(@ 2, $call $arguments),
            4 => by_width!(@ 4, $call $arguments),
            _ => by_width!(@ 8, $call $arguments),
        }
    };
    (@ $n:literal, $call:ident ($($argument:expr),*)) => { $call::<$n>($($argument),*) };
}
use by_width;

/// Fills the registers of a load from what `read` gives for a lane and an element.
#[inline(always)]
fn fill(regs: &mut Registers, m: u32, to: &Elements, read: impl Fn(usize, usize) -> u64) {
    for (nth, row) in to.rows[..to.count].iter().enumerate() {
        if let Extend::Sign { to: bits } = to.extend {
            let shift = 64 - 8 * to.bytes as u32;
            let sign = |value: u64| (((value << shift) as i64) >> shift) as u64;
            let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
            let values: [u64; 32] =
                std::array::from_fn(|lane| if m >> lane & 1 == 1 { sign(read(lane, nth)) & mask } else { 0 });
            put(regs, *row, m, &values, to.wide);
        } else if to.wide {
            let row = regs.wide_mut(*row);
            lanes_of(m).for_each(|lane| row[lane] = read(lane, nth));
        } else if m == u32::MAX {
            let row = regs.row_mut(*row);
            for lane in 0..32 {
                row[lane] = read(lane, nth) as u32;
            }
        } else {
            let row = regs.row_mut(*row);
            lanes_of(m).for_each(|lane| row[lane] = read(lane, nth) as u32);
        }
    }
}

fn put(regs: &mut Registers, row: Row, m: u32, values: &[u64; 32], wide: bool) {
    if wide {
        regs.put_wide(row, m, values);
    } else {
        regs.put(row, m, &values.map(|value| value as u32));
    }
}

#[inline(always)]
fn fill_global<const N: usize>(regs: &mut Registers, m: u32, at: &Addresses, to: &Elements) {
    // SAFETY: `check_global` has found every active lane's elements in an allocation, and aligned.
    fill(regs, m, to, |lane, nth| unsafe { read_global::<N>(at[lane] + (nth * N) as u64) });
}

#[inline(always)]
fn fill_shared<const N: usize>(regs: &mut Registers, m: u32, at: &Addresses, to: &Elements, memory: &[u8]) {
    fill(regs, m, to, |lane, nth| read_bytes::<N>(memory, at[lane] as usize + nth * N));
}

#[inline(always)]
fn spill_global<const N: usize>(regs: &Registers, m: u32, at: &Addresses, from: &Elements) {
    for (nth, row) in from.rows[..from.count].iter().enumerate() {
        for lane in lanes_of(m) {
            let value = if from.wide { regs.wide(*row)[lane] } else { regs.row(*row)[lane].into() };
            // SAFETY: `check_global` has found every active lane's elements in an allocation, and aligned.
            unsafe { write_global::<N>(at[lane] + (nth * N) as u64, value) };
        }
    }
}

#[inline(always)]
fn spill_bytes<const N: usize>(
    regs: &Registers,
    m: u32,
    at: &Addresses,
    from: &Elements,
    memory: &mut [u8],
    stride: usize,
) {
    for (nth, row) in from.rows[..from.count].iter().enumerate() {
        for lane in lanes_of(m) {
            let value = if from.wide { regs.wide(*row)[lane] } else { regs.row(*row)[lane].into() };
            write_bytes::<N>(memory, at[lane] as usize + nth * N + lane * stride, value);
        }
    }
}

impl Warp {
    #[inline(always)]
    fn addresses(&self, address: &Address) -> Addresses {
        let mut at = [0; 32];
        if address.wide {
            let base = self.regs.wide(address.base);
            for lane in 0..32 {
                at[lane] = base[lane].wrapping_add(address.offset as u64);
            }
        } else {
            let base = self.regs.row(address.base);
            for lane in 0..32 {
                at[lane] = u64::from(base[lane]).wrapping_add(address.offset as u64);
            }
        }
        at
    }

    #[inline(always)]
    pub(super) fn load(
        &mut self,
        cx: &mut Context<'_>,
        pc: usize,
        m: u32,
        address: &Address,
        to: &Elements,
    ) -> Faulted<()> {
        let at = self.addresses(address);
        if to.strong {
            cx.polls += 1;
            std::sync::atomic::fence(Ordering::SeqCst);
        }
        match address.space {
            MemSpace::Generic => {
                for (space, m, window) in classes(&at, m).into_iter().filter(|(_, m, _)| *m != 0) {
                    self.load_from(cx, pc, m, space, &minus(&at, window), to)?;
                }
                Ok(())
            }
            space => self.load_from(cx, pc, m, space, &at, to),
        }
    }

    #[inline(always)]
    fn load_from(
        &mut self,
        cx: &mut Context<'_>,
        pc: usize,
        m: u32,
        space: MemSpace,
        at: &Addresses,
        to: &Elements,
    ) -> Faulted<()> {
        let bytes = to.bytes * to.count;
        match space {
            MemSpace::Shared => {
                check_window("shared", at, m, bytes, cx.shared.len())?;
                cx.count(|counters| counters.shared(at, m, bytes));
                by_width!(to.bytes, fill_shared(&mut self.regs, m, at, to, cx.shared));
            }
            MemSpace::Local => {
                check_window("local", at, m, bytes, cx.launch.program.local_bytes)?;
                let stride = cx.launch.program.local_bytes as u64;
                let at = std::array::from_fn(|lane| at[lane].wrapping_add(lane as u64 * stride));
                by_width!(to.bytes, fill_shared(&mut self.regs, m, &at, to, &self.local));
            }
            MemSpace::Param => {
                check_window("parameter", at, m, bytes, cx.launch.params.len())?;
                by_width!(to.bytes, fill_shared(&mut self.regs, m, at, to, cx.launch.params));
            }
            MemSpace::Global | MemSpace::Generic => {
                check_global(cx, pc, at, m, bytes)?;
                cx.count(|counters| counters.read(at, m, bytes));
                by_width!(to.bytes, fill_global(&mut self.regs, m, at, to));
            }
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn store(
        &mut self,
        cx: &mut Context<'_>,
        pc: usize,
        m: u32,
        address: &Address,
        from: &Elements,
    ) -> Faulted<()> {
        let at = self.addresses(address);
        if from.strong {
            std::sync::atomic::fence(Ordering::SeqCst);
        }
        match address.space {
            MemSpace::Generic => {
                for (space, m, window) in classes(&at, m).into_iter().filter(|(_, m, _)| *m != 0) {
                    self.store_to(cx, pc, m, space, &minus(&at, window), from)?;
                }
                Ok(())
            }
            space => self.store_to(cx, pc, m, space, &at, from),
        }
    }

    #[inline(always)]
    fn store_to(
        &mut self,
        cx: &mut Context<'_>,
        pc: usize,
        m: u32,
        space: MemSpace,
        at: &Addresses,
        from: &Elements,
    ) -> Faulted<()> {
        let bytes = from.bytes * from.count;
        match space {
            MemSpace::Shared => {
                check_window("shared", at, m, bytes, cx.shared.len())?;
                cx.count(|counters| counters.shared(at, m, bytes));
                by_width!(from.bytes, spill_bytes(&self.regs, m, at, from, cx.shared, 0));
            }
            MemSpace::Local => {
                let stride = cx.launch.program.local_bytes;
                check_window("local", at, m, bytes, stride)?;
                by_width!(from.bytes, spill_bytes(&self.regs, m, at, from, &mut self.local, stride));
            }
            MemSpace::Param => {
                return fault(
                    FaultKind::Address,
                    m.trailing_zeros() as usize,
                    "parameters cannot be written".to_owned(),
                );
            }
            MemSpace::Global | MemSpace::Generic => {
                check_global(cx, pc, at, m, bytes)?;
                cx.count(|counters| counters.write(at, m, bytes));
                by_width!(from.bytes, spill_global(&self.regs, m, at, from));
            }
        }
        Ok(())
    }

    pub(super) fn load_matrix(
        &mut self,
        cx: &mut Context<'_>,
        address: &Address,
        d: &[Row],
        transposed: bool,
    ) -> Faulted<()> {
        let mut at = self.addresses(address);
        let used = if d.len() == 4 { u32::MAX } else { (1 << (8 * d.len())) - 1 };
        if lanes_of(used).all(|lane| at[lane] >= SHARED_WINDOW) {
            at = minus(&at, SHARED_WINDOW);
        }
        check_window("shared", &at, used, 16, cx.shared.len())?;
        cx.count(|counters| counters.matrix(&at, d.len()));
        for (nth, row) in d.iter().enumerate() {
            let out = self.regs.row_mut(*row);
            if !transposed {
                // A row's 16 bytes are the pairs of four lanes.
                for (r, lanes) in out.chunks_exact_mut(4).enumerate() {
                    let from = &cx.shared[at[8 * nth + r] as usize..][..16];
                    for (lane, pair) in lanes.iter_mut().zip(from.chunks_exact(4)) {
                        *lane = u32::from_le_bytes([pair[0], pair[1], pair[2], pair[3]]);
                    }
                }
                continue;
            }
            let rows: [[u16; 8]; 8] = std::array::from_fn(|r| {
                let from = &cx.shared[at[8 * nth + r] as usize..][..16];
                std::array::from_fn(|i| u16::from_le_bytes([from[2 * i], from[2 * i + 1]]))
            });
            for (lane, out) in out.iter_mut().enumerate() {
                let (q, t) = (lane / 4, 2 * (lane % 4));
                *out = u32::from(rows[t + 1][q]) << 16 | u32::from(rows[t][q]);
            }
        }
        Ok(())
    }
}
