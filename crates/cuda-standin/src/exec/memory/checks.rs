//! Where accesses may go: each is held to its space, its allocation and its alignment.

use super::Addresses;
use crate::exec::address::{LOCAL_WINDOW, SHARED_WINDOW};
use crate::exec::launch::Context;
use crate::exec::{FaultKind, Faulted, LaneFault, lanes_of};
use crate::ptx::program::MemSpace;

pub(super) fn fault<T>(kind: FaultKind, lane: usize, why: String) -> Faulted<T> {
    Err(Box::new(LaneFault { kind, lane, why }))
}

/// The lowest and the highest address, and all of them ORed.
#[inline(always)]
pub(super) fn extent(at: &Addresses, m: u32) -> (u64, u64, u64) {
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
pub(super) fn misaligned<T>(at: &Addresses, m: u32, bytes: usize) -> Faulted<T> {
    let lane = lanes_of(m).find(|lane| !at[*lane].is_multiple_of(bytes as u64)).expect("one of them is misaligned");
    fault(FaultKind::Misaligned, lane, format!("address {:#x} is not aligned to {bytes} bytes", at[lane]))
}

/// Holds the accesses to the first `len` bytes of a space.
#[inline(always)]
pub(super) fn check_window(what: &str, at: &Addresses, m: u32, bytes: usize, len: usize) -> Faulted<()> {
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
pub(super) fn outside<T>(what: &str, at: &Addresses, m: u32, bytes: usize, len: usize) -> Faulted<T> {
    let lane = lanes_of(m)
        .find(|lane| at[*lane].checked_add(bytes as u64).is_none_or(|end| end > len as u64))
        .expect("one of them is outside");
    let why = format!("{bytes} bytes at {:#x} of {what} memory, which has {len} bytes", at[lane] as i64);
    fault(FaultKind::Address, lane, why)
}

/// Holds the accesses to allocations. The range that the instruction last accessed is looked at first.
#[inline(always)]
pub(super) fn check_global(cx: &mut Context<'_>, pc: usize, at: &Addresses, m: u32, bytes: usize) -> Faulted<()> {
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
pub(super) fn find_ranges(cx: &mut Context<'_>, pc: usize, at: &Addresses, m: u32, bytes: usize) -> Faulted<()> {
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
pub(super) fn classes(at: &Addresses, m: u32) -> [(MemSpace, u32, u64); 3] {
    let mut classes =
        [(MemSpace::Global, 0, 0), (MemSpace::Shared, 0, SHARED_WINDOW), (MemSpace::Local, 0, LOCAL_WINDOW)];
    for lane in lanes_of(m) {
        let class = usize::from(at[lane] >= SHARED_WINDOW) + usize::from(at[lane] >= LOCAL_WINDOW);
        classes[class].1 |= 1 << lane;
    }
    classes
}

pub(super) fn minus(at: &Addresses, window: u64) -> Addresses {
    at.map(|address| address.wrapping_sub(window))
}
