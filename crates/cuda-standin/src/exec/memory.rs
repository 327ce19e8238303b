//! Loads, stores, atomics, asynchronous copies and `ldmatrix`, with their checks.

use super::address::{LOCAL_WINDOW, SHARED_WINDOW};
use super::alu::halves;
use super::lanes::Registers;
use super::launch::{Context, CopyMode};
use super::warp::Warp;
use super::{FaultKind, Faulted, LaneFault, lanes_of};
use crate::ptx::program::{Address, Atomic, CopyAsync, Elements, Extend, MemSpace, Rmw, Row};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Addresses of all lanes; those of lanes that are not active mean nothing.
type Addresses = [u64; 32];

/// Copies that a warp has issued and that have not been carried out.
#[derive(Default)]
pub(super) struct PendingCopies {
    copies: Vec<PendingCopy>,
    /// How many groups each lane has committed.
    committed: [u32; 32],
}

struct PendingCopy {
    lane: u8,
    /// The lane's group that it belongs to.
    group: u32,
    copy: Copy16,
}

#[derive(Clone, Copy)]
struct Copy16 {
    /// Offset in shared memory.
    to: usize,
    /// Global address.
    from: u64,
    bytes: usize,
    /// Bytes that are read; the rest are zeros.
    source_bytes: usize,
}

impl PendingCopies {
    pub(super) fn clear(&mut self) {
        self.copies.clear();
        self.committed = [0; 32];
    }
}

fn fault<T>(kind: FaultKind, lane: usize, why: String) -> Faulted<T> {
    Err(Box::new(LaneFault { kind, lane, why }))
}

/// The lowest and the highest address, and all of them ORed.
#[inline(always)]
fn extent(at: &Addresses, m: u32) -> (u64, u64, u64) {
    let (mut low, mut high, mut or) = (u64::MAX, 0, 0);
    if m == u32::MAX {
        for address in at {
            low = low.min(*address);
            high = high.max(*address);
            or |= address;
        }
    } else {
        for lane in lanes_of(m) {
            low = low.min(at[lane]);
            high = high.max(at[lane]);
            or |= at[lane];
        }
    }
    (low, high, or)
}

#[cold]
fn misaligned<T>(at: &Addresses, m: u32, bytes: usize) -> Faulted<T> {
    let lane = lanes_of(m).find(|lane| !at[*lane].is_multiple_of(bytes as u64)).expect("one of them is misaligned");
    fault(FaultKind::Misaligned, lane, format!("address {:#x} is not aligned to {bytes} bytes", at[lane]))
}

/// Holds the accesses to the first `len` bytes of a space.
#[inline(always)]
fn check_window(what: &str, at: &Addresses, m: u32, bytes: usize, len: usize) -> Faulted<()> {
    let (_, high, or) = extent(at, m);
    if or & (bytes as u64 - 1) != 0 {
        return misaligned(at, m, bytes);
    }
    if high > (len as u64).wrapping_sub(bytes as u64) || len < bytes {
        return outside(what, at, m, bytes, len);
    }
    Ok(())
}

#[cold]
fn outside<T>(what: &str, at: &Addresses, m: u32, bytes: usize, len: usize) -> Faulted<T> {
    let lane = lanes_of(m)
        .find(|lane| at[*lane].checked_add(bytes as u64).is_none_or(|end| end > len as u64))
        .expect("one of them is outside");
    let why = format!("{bytes} bytes at {:#x} of {what} memory, which has {len} bytes", at[lane] as i64);
    fault(FaultKind::Address, lane, why)
}

/// Holds the accesses to allocations. The range that the instruction last accessed is looked at first.
#[inline(always)]
fn check_global(cx: &mut Context<'_>, pc: usize, at: &Addresses, m: u32, bytes: usize) -> Faulted<()> {
    let (low, high, or) = extent(at, m);
    if or & (bytes as u64 - 1) != 0 {
        return misaligned(at, m, bytes);
    }
    let range = &cx.worker.ranges[pc];
    if low >= range.start && high < range.end && range.end - high >= bytes as u64 {
        return Ok(());
    }
    find_ranges(cx, pc, at, m, bytes)
}

#[cold]
fn find_ranges(cx: &mut Context<'_>, pc: usize, at: &Addresses, m: u32, bytes: usize) -> Faulted<()> {
    for lane in lanes_of(m) {
        let end = at[lane].saturating_add(bytes as u64);
        let known = &cx.worker.ranges[pc];
        if at[lane] >= known.start && end <= known.end {
            continue;
        }
        match cx.launch.memory.range_of(at[lane]) {
            Ok(range) if end <= range.end => cx.worker.ranges[pc] = range,
            Ok(range) => {
                let past = end - range.end;
                let why = format!("{bytes} bytes at {:#x}, {past} past the end of an allocation", at[lane]);
                return fault(FaultKind::Address, lane, why);
            }
            Err(why) => return fault(FaultKind::Address, lane, format!("{bytes} bytes at {:#x}, {why}", at[lane])),
        }
    }
    Ok(())
}

/// The lanes whose generic address is global, shared and local.
fn classes(at: &Addresses, m: u32) -> [(MemSpace, u32, u64); 3] {
    let mut classes =
        [(MemSpace::Global, 0, 0), (MemSpace::Shared, 0, SHARED_WINDOW), (MemSpace::Local, 0, LOCAL_WINDOW)];
    for lane in lanes_of(m) {
        let class = usize::from(at[lane] >= SHARED_WINDOW) + usize::from(at[lane] >= LOCAL_WINDOW);
        classes[class].1 |= 1 << lane;
    }
    classes
}

fn minus(at: &Addresses, window: u64) -> Addresses {
    at.map(|address| address.wrapping_sub(window))
}

/// A value of global memory, of `N` bytes.
///
/// # Safety
///
/// `at` is aligned to `N`, and the bytes are mapped while the kernel runs.
#[inline(always)]
unsafe fn read_global<const N: usize>(at: u64) -> u64 {
    // SAFETY: of the caller. Atomic, as others may write it meanwhile.
    unsafe {
        match N {
            1 => AtomicU8::from_ptr(at as *mut u8).load(Ordering::Relaxed).into(),
            2 => AtomicU16::from_ptr(at as *mut u16).load(Ordering::Relaxed).into(),
            4 => AtomicU32::from_ptr(at as *mut u32).load(Ordering::Relaxed).into(),
            _ => AtomicU64::from_ptr(at as *mut u64).load(Ordering::Relaxed),
        }
    }
}

/// # Safety
///
/// As for [`read_global`].
#[inline(always)]
unsafe fn write_global<const N: usize>(at: u64, value: u64) {
    // SAFETY: of the caller. Atomic, as others may read it meanwhile.
    unsafe {
        match N {
            1 => AtomicU8::from_ptr(at as *mut u8).store(value as u8, Ordering::Relaxed),
            2 => AtomicU16::from_ptr(at as *mut u16).store(value as u16, Ordering::Relaxed),
            4 => AtomicU32::from_ptr(at as *mut u32).store(value as u32, Ordering::Relaxed),
            _ => AtomicU64::from_ptr(at as *mut u64).store(value, Ordering::Relaxed),
        }
    }
}

#[inline(always)]
fn read_bytes<const N: usize>(memory: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..N].copy_from_slice(&memory[at..at + N]);
    u64::from_le_bytes(bytes)
}

#[inline(always)]
fn write_bytes<const N: usize>(memory: &mut [u8], at: usize, value: u64) {
    memory[at..at + N].copy_from_slice(&value.to_le_bytes()[..N]);
}

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

    pub(super) fn atomic(&mut self, cx: &mut Context<'_>, pc: usize, m: u32, it: &Atomic) -> Faulted<()> {
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

    pub(super) fn copy_async(&mut self, cx: &mut Context<'_>, pc: usize, m: u32, it: &CopyAsync) -> Faulted<()> {
        let (mut to, from) = (self.addresses(&it.shared), self.addresses(&it.global));
        if lanes_of(m).all(|lane| to[lane] >= SHARED_WINDOW) {
            to = minus(&to, SHARED_WINDOW);
        }
        check_window("shared", &to, m, it.bytes, cx.shared.len())?;
        cx.count(|counters| counters.shared(&to, m, it.bytes));
        let sizes = it.source_bytes.map(|row| *self.regs.row(row));
        let source_bytes = |lane: usize| sizes.map_or(it.bytes, |sizes| sizes[lane] as usize);
        let mut reading = 0;
        for lane in lanes_of(m) {
            let size = source_bytes(lane);
            if size > it.bytes {
                return fault(FaultKind::Address, lane, format!("a source of {size} bytes for a copy of {}", it.bytes));
            }
            reading |= u32::from(size > 0) << lane;
        }
        if reading != 0 {
            check_global(cx, pc, &from, reading, it.bytes)?;
            cx.count(|counters| counters.read(&from, reading, it.bytes));
        }
        for lane in lanes_of(m) {
            let copy =
                Copy16 { to: to[lane] as usize, from: from[lane], bytes: it.bytes, source_bytes: source_bytes(lane) };
            if cx.launch.copies == CopyMode::Early {
                copy.carry_out(cx.shared);
            } else {
                let group = self.copies.committed[lane];
                self.copies.copies.push(PendingCopy { lane: lane as u8, group, copy });
            }
        }
        Ok(())
    }

    pub(super) fn copy_commit(&mut self, m: u32) {
        for lane in lanes_of(m) {
            self.copies.committed[lane] += 1;
        }
    }

    /// Carries out the copies of all groups of each lane but the last `keep`.
    pub(super) fn copy_wait(&mut self, cx: &mut Context<'_>, m: u32, keep: usize) {
        let PendingCopies { copies, committed } = &mut self.copies;
        copies.retain(|pending| {
            let lane = usize::from(pending.lane);
            let due = m >> lane & 1 == 1 && (pending.group as usize) + keep < committed[lane] as usize;
            if due {
                pending.copy.carry_out(cx.shared);
            }
            !due
        });
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

impl Copy16 {
    fn carry_out(&self, shared: &mut [u8]) {
        let to = &mut shared[self.to..self.to + self.bytes];
        if self.source_bytes == 16 {
            for (nth, eight) in to.chunks_exact_mut(8).enumerate() {
                // SAFETY: `check_global` has found all 16 bytes in an allocation, and aligned.
                let value = unsafe { read_global::<8>(self.from + 8 * nth as u64) };
                eight.copy_from_slice(&value.to_le_bytes());
            }
            return;
        }
        let mut words = [0u32; 4];
        for (nth, word) in words.iter_mut().enumerate().take(self.source_bytes.div_ceil(4)) {
            // SAFETY: `check_global` has found all `bytes` bytes in an allocation, and aligned, if any of them are read.
            *word = unsafe { read_global::<4>(self.from + 4 * nth as u64) } as u32;
        }
        for (nth, byte) in to.iter_mut().enumerate() {
            *byte = if nth < self.source_bytes { words[nth / 4].to_le_bytes()[nth % 4] } else { 0 };
        }
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
